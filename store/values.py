"""Which values may be stored at all: what JSON, UTF-8 and every database can hold and give back unchanged.

Pure, and the one place for these rules: events, commands and metadata all ask here. Not here: what a field means
(the user's pydantic models) and which ids are allowed (`identity.py`).
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
import uuid
from datetime import date, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from store.errors import InvalidValue

INT64 = range(-(2**63), 2**63)
"""The whole numbers that every database, and the wire, can hold."""
PAYLOAD_SIZE_MAX_BYTES = 1024 * 1024
"""What one command or event may take as JSON in UTF-8, unless a registry is told otherwise."""
DEPTH_MAX = 100
"""How deep lists and objects may be nested: JSON parsers refuse what is much deeper."""
VALUE_SHOWN_SIZE_MAX = 60
"""Characters of a wrong value that a message shows."""

_PLAIN = (str, bool, Decimal, uuid.UUID, date, type(None))


def check_value(field: str, value: Any) -> None:
    """Raise InvalidValue, naming field, value and remedy, if the value or anything in it can't be stored.

    That is: NUL and lone surrogates in text, whole numbers over 64 bits, NaN and infinity, times without a zone, and
    nesting over 100 levels (which is also how a list that contains itself ends).
    """
    _check(field, value, 0)


def holds_plain_values(field: FieldInfo) -> bool:
    """Whether a model's field, by its type alone, holds nothing that `check_value` refuses, but for odd text."""
    union = typing.get_origin(field.annotation) in (typing.Union, types.UnionType)
    kinds = typing.get_args(field.annotation) if union else (field.annotation,)
    return not field.metadata and all(kind in _PLAIN or _is_text_enum(kind) for kind in kinds)


def is_count(value: object, greatest: int) -> bool:
    """Whether a value says how many of something there are to be: a whole number from 1 to `greatest`."""
    return type(value) is int and 1 <= value <= greatest


def is_aware(moment: datetime) -> bool:
    """Whether a time says which zone it is meant in."""
    return moment.utcoffset() is not None


def shown(value: object) -> str:
    """Return a value as a message shows it: in ASCII, and not all of a long one."""
    if isinstance(value, int) and value.bit_length() > 1000:
        return "(a huge number)"  # Python refuses to write out thousands of digits
    text = ascii(value) if not isinstance(value, str) else ascii(value[: VALUE_SHOWN_SIZE_MAX + 1])
    return text if len(text) <= VALUE_SHOWN_SIZE_MAX else text[:VALUE_SHOWN_SIZE_MAX] + "..."


def holds_lone_surrogates(text: str) -> bool:
    """Tell whether a text has no form in UTF-8."""
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _check(name: str, value: Any, depth: int) -> None:
    remedy = _remedy(value)
    if remedy is not None:
        raise InvalidValue(name, shown(value), remedy)
    if isinstance(value, BaseModel):
        value = value.__dict__
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = {member.name: getattr(value, member.name) for member in dataclasses.fields(value)}
    if not isinstance(value, dict | list | tuple | set | frozenset):
        return
    if depth == DEPTH_MAX:
        raise InvalidValue(name[:VALUE_SHOWN_SIZE_MAX], "...", f"nest lists and objects at most {DEPTH_MAX} deep")
    if isinstance(value, dict):
        for key, item in value.items():
            _check(f"{name} (a key)", key, depth + 1)
            _check(f"{name}.{key}", item, depth + 1)
    else:
        for index, item in enumerate(value):
            _check(f"{name}.{index}", item, depth + 1)


def _remedy(value: Any) -> str | None:
    """Say what to do about a single value that can't be stored; None if it can."""
    remedy = None
    if isinstance(value, str):
        if "\0" in value:
            remedy = "leave out the NUL character"
        elif holds_lone_surrogates(value):
            remedy = "leave out lone surrogates"
    elif isinstance(value, int):
        if value not in INT64:
            remedy = "a whole number of at most 64 bits was expected"
    elif isinstance(value, float):
        if not math.isfinite(value):
            remedy = "a finite number was expected"
    elif isinstance(value, datetime) and not is_aware(value):
        remedy = "a time with its zone was expected, such as 2026-03-01T12:00:00Z"
    return remedy


def _is_text_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum) and all(isinstance(member.value, str) for member in kind)
