"""Rows as texts that two of them are compared by: one that was read, and one that events made.

Not here: what is compared, and when (`auditing.py`, `sampling.py`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from enum import Enum
from typing import Any

from sqlalchemy import Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.types import TypeDecorator, TypeEngine

from projections.changes import Row

Texts = Sequence[str | None]
"""A row's values, column by column."""

NEUTRAL = sqlite.dialect()
"""What a column's own type does with a value is asked in the name of this database; it is the same in all."""
SHOWN_SIZE_MAX = 100


class RowTexts:
    """Rows of one table as texts: two rows are the same where these are."""

    def __init__(self, table: Table) -> None:
        self._columns = [(column.name, column.type) for column in table.columns]
        self._key = [place for place, column in enumerate(table.columns) if column.primary_key]

    def of_read(self, row: Row) -> Texts:
        """Return the texts of a row as the database gave it."""
        return [text_of(row[name]) for name, _ in self._columns]

    def of_made(self, row: Row) -> Texts:
        """Return the texts of a row as events made it: of its values as the columns' types would give them back.

        Raises whatever a type raises at a value that it can't take.
        """
        return [text_of(_given_back(type_, row[name])) for name, type_ in self._columns]

    def as_json(self, texts: Texts) -> tuple[str, str]:
        """Return the texts of the key, and of the whole row, as JSON."""
        return json.dumps([texts[place] for place in self._key]), json.dumps(texts)


def text_of(value: Any) -> str | None:  # noqa: PLR0911 - one line for each kind of value
    """Return a text that is the same for equal values: for 42 and 42.00, for a moment in two time zones."""
    if isinstance(value, Enum):
        return text_of(value.value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.12g}"  # beyond that, a sum depends on its order
    if isinstance(value, Decimal):
        return f"{value.normalize() + 0:f}"
    if isinstance(value, datetime):
        return (value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)).isoformat()
    if isinstance(value, date | time_of_day):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return bytes(value).hex()
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def differing(table: Table, there: Texts, made: Texts) -> tuple[str, str]:
    """Return the first column in which two rows differ, and what is to be said of all in which they do."""
    found = [
        (column.name, f"{column.name} is {_shown(one)}, and the log says {_shown(other)}")
        for column, one, other in zip(table.columns, there, made, strict=True)
        if one != other
    ]
    return found[0][0], "; ".join(said for _, said in found)


def named(table: Table, texts: Texts) -> str:
    """Return a row with its columns' names."""
    return ", ".join(f"{column.name} {_shown(text)}" for column, text in zip(table.columns, texts, strict=True))


def _shown(text: str | None) -> str:
    return "NULL" if text is None else ascii(text[:SHOWN_SIZE_MAX])[1:-1]


def _given_back(type_: TypeEngine[Any], value: Any) -> Any:
    if value is None or not isinstance(type_, TypeDecorator):
        return value
    kind = type(type_)
    if kind.process_bind_param is not TypeDecorator.process_bind_param:
        value = type_.process_bind_param(value, NEUTRAL)
    if kind.process_result_value is not TypeDecorator.process_result_value:
        value = type_.process_result_value(value, NEUTRAL)
    return value
