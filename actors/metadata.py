"""What a caller sends along with a command besides its fields: metadata, and when it happened.

Pure, but for the context variable by which what follows from an event knows that event. Not here: what the host adds
(`recording.py`), and the view on a stored event (`store/metadata.py`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from typing import Any

from actors.commands import shown, shown_field
from actors.errors import InvalidCommand
from store.errors import InvalidValue
from store.events import Event
from store.identity import checked_id
from store.metadata import CALLER_KEYS, RUNTIME_KEYS
from store.records import micros, moment
from store.values import check_value, is_aware

METADATA_SIZE_MAX_BYTES = 8 * 1024
"""What a caller's metadata may take as JSON: they are stored with every event of the command."""

_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REMEDIES = {
    "command_id": "pass it as command_id=",
    "occurred_at": "pass it as occurred_at=",
    "digest": "the runtime writes this key: choose another name",
    "events": "the runtime writes this key: choose another name",
}
_cause: ContextVar[Event | None] = ContextVar("cause", default=None)
"""The event because of which commands are submitted now."""


def packed_metadata(metadata: Mapping[str, Any] | None = None) -> str:
    """Return a caller's metadata as a JSON object in ASCII; empty where there are none.

    `correlation_id`, `causation_id` and `asked_by` are ids, `traceparent` is a W3C trace context; any other key may
    hold any JSON value. Within `because_of` the event's own are filled in where the caller gives no others. Without a
    `correlation_id` nothing is stored for it: the command's id is its correlation id (see `Event.metadata`).

    Raises InvalidCommand, naming key, value and remedy: for a key that the runtime writes, for what JSON doesn't give
    back unchanged, and for more than 8 KiB. Raises what `Event.metadata` does about the event.
    """
    cause = _cause.get()
    if not metadata and cause is None:
        return ""
    if metadata is not None and not isinstance(metadata, Mapping):
        raise InvalidCommand("metadata", shown(metadata), "give a mapping of names to JSON values")
    packable = {**(following(cause) if cause is not None else {}), **(metadata or {})}
    for key, value in packable.items():
        _check_entry(key, value)
    text = _encoded(packable)
    if len(text) > METADATA_SIZE_MAX_BYTES:
        raise InvalidCommand("metadata", f"{len(text)} bytes", f"give at most {METADATA_SIZE_MAX_BYTES} bytes of JSON")
    return text


def packed_moment(occurred_at: datetime) -> int:
    """Return when a command says that it happened, in microseconds since 1970 (UTC).

    Raises InvalidCommand for anything but a time with its zone.
    """
    if not isinstance(occurred_at, datetime) or not is_aware(occurred_at):
        remedy = "give a datetime with its zone, for example datetime.now(UTC)"
        raise InvalidCommand("occurred_at", shown(str(occurred_at)), remedy)
    occurred_us = micros(occurred_at)
    try:
        moment(occurred_us)
    except OverflowError as error:
        raise InvalidCommand("occurred_at", shown(str(occurred_at)), "give a time of the years 1 to 9999") from error
    return occurred_us


def following(event: Event) -> dict[str, str]:
    """Return the metadata of a command that is submitted because of a stored event: the event's id is its cause.

    The correlation id, who asked and the trace context are the event's.
    """
    cause = event.metadata
    inherited = {
        "correlation_id": cause.correlation_id or str(event.id),
        "causation_id": str(event.id),
        "asked_by": cause.asked_by,
        "traceparent": cause.traceparent,
    }
    return {key: value for key, value in inherited.items() if value is not None}


@contextmanager
def because_of(event: Event) -> Iterator[None]:
    """Let all commands that are submitted within the block, and in tasks begun there, follow from a stored event.

    Handlers and subscribers are called within such a block. The event's metadata are decoded only where a command is
    submitted.
    """
    token = _cause.set(event)
    try:
        yield
    finally:
        _cause.reset(token)


def _check_entry(key: object, value: object) -> None:
    if not isinstance(key, str):
        raise InvalidCommand("metadata", shown(key), "name each value with a text")
    if key in RUNTIME_KEYS:
        raise InvalidCommand(f"metadata.{key}", shown(value), _REMEDIES[key])
    field = f"metadata.{key}"
    try:
        checked_id("metadata (a key)", key)
        if key not in CALLER_KEYS:
            check_value(field, value)
        elif not isinstance(value, str):
            raise InvalidCommand(field, shown(value), "a text was expected")
        else:
            checked_id(field, value)
    except InvalidValue as error:
        raise InvalidCommand(shown_field(error.field), error.value, error.remedy) from error
    if key == "traceparent" and not _TRACEPARENT.fullmatch(str(value)):
        raise InvalidCommand(field, shown(value), "give a W3C trace context: 00-<32 hex digits>-<16>-<2>")


def _encoded(metadata: Mapping[str, Any]) -> str:
    for key, value in metadata.items():
        try:
            unchanged = json.loads(json.dumps(value)) == value
        except TypeError:
            unchanged = False
        if not unchanged:
            remedy = "give text, numbers, booleans, None, and lists of these or dicts with text as keys"
            raise InvalidCommand(shown_field(f"metadata.{key}"), shown(value), remedy)
    return json.dumps(metadata, separators=(",", ":"))
