"""What is known about a stored event besides its own fields: which command caused it, for whom, because of what.

Decoded from the record's JSON only when `event.metadata` is asked for, so that a replay does not pay for it. Not here:
what callers may send along (`actors/metadata.py`), and writing it (`actors/recording.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from store.errors import UndecodableEvent
from store.records import EventRecord, moment

RUNTIME_KEYS = frozenset({"command_id", "digest", "events", "occurred_at"})
"""Keys that the runtime writes; callers may not."""
CALLER_KEYS = ("correlation_id", "causation_id", "asked_by", "traceparent")
"""Keys with a meaning that callers may send; all others are their own."""


@dataclass(frozen=True, slots=True)
class Metadata:
    """An event's metadata. What an event that no command caused (an imported one) can't have is None."""

    command_id: str | None
    """The command that caused it."""
    correlation_id: str | None
    """Shared by all that follows from one first command: that command's id, unless the caller gave another. It is
    stored only where it differs from `command_id`."""
    causation_id: str | None
    """The id of the event because of which the command was submitted; None: it came from outside."""
    asked_by: str | None
    """Who asked for it, as the caller said."""
    traceparent: str | None
    """The W3C trace context of the caller."""
    digest: str | None
    """Fingerprint of the command's type and payload."""
    occurred_at: datetime
    """When it happened in the world (UTC): what the command said, else when it was recorded."""
    recorded_at: datetime
    """When a host wrote it (UTC). Nothing is ordered by it."""
    extra: Mapping[str, Any]
    """What else the caller sent along."""

    @classmethod
    def of(cls, record: EventRecord) -> Metadata:
        """Decode the metadata of a record. Raises UndecodableEvent if they are none."""
        try:
            extra = _object(record.metadata)
            texts = {key: _text(key, extra.pop(key, None)) for key in ("command_id", "digest", *CALLER_KEYS)}
            texts["correlation_id"] = texts["correlation_id"] or texts["command_id"]
            extra.pop("events", None)
            occurred_at = extra.pop("occurred_at", None)
            recorded_at = moment(record.recorded_at)
            occurred = recorded_at if occurred_at is None else moment(occurred_at)
            return cls(**texts, occurred_at=occurred, recorded_at=recorded_at, extra=extra)
        except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
            reason = f"metadata: {type(error).__name__}: {error}"
            raise UndecodableEvent(record.stream, record.version, record.type, reason) from error


def _object(text: str) -> dict[str, Any]:
    decoded = json.loads(text or "{}")
    if not isinstance(decoded, dict):
        raise TypeError("a JSON object was expected")
    return decoded


def _text(key: str, value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{key} is not text")
    return value
