"""From decided events to rows, and from a command's first row back to its receipt. Pure.

Metadata keys written here (`store.metadata.RUNTIME_KEYS`, which callers may not send): `command_id`, `digest` (of the
command's type and payload), `events` (how many the command caused, on the first row when more than one), `occurred_at`
(microseconds, where the command named it); the rest is what the caller sent along, packed by `metadata.py`. Not here:
where rows go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from json.encoder import encode_basestring_ascii as quoted
from typing import Any

from actors.errors import CommandIdReused
from actors.mail import Answer, Pending
from actors.wire import CommandMessage, Receipt
from store import Event, EventRecord
from store.codec import EventRegistry
from store.identity import random_bytes, uuid7_bytes

EVENT_FRAME_BYTES = 500
"""What a row takes in memory beside its data and metadata, about."""

_new_record: Callable[[tuple[Any, ...]], EventRecord] = partial(tuple.__new__, EventRecord)
_new_receipt: Callable[[tuple[Any, ...]], Receipt] = partial(tuple.__new__, Receipt)
"""Named tuples from their fields in order, unchecked: a third of the price of `_make`, and every command pays it."""


def digest_of(message: CommandMessage) -> str:
    """Fingerprint a command's type and payload, so that one id with two payloads is noticed."""
    payload = f"{message.command_type}\n{message.data}".encode()
    return hashlib.blake2b(payload, digest_size=16).hexdigest()


def record_events(
    pending: Pending, events: Sequence[Event], registry: EventRegistry, shard: int, head: int, recorded_at: int
) -> None:
    """Lay out the events of one command as rows at the positions head + 1, head + 2, ... of its shard; it keeps them.

    The first row carries the command's id, which may cause events on a stream once. `recorded_at` in microseconds.
    Raises what encoding does, with nothing kept.
    """
    message, time_ms = pending.message, recorded_at // 1000
    command_key: str | None = message.command_id
    envelope = _metadata(message)
    metadata = f'{envelope},"events":{len(events)}}}' if len(events) > 1 else envelope + "}"
    records, size_bytes = [], 0
    for event in events:
        head += 1
        data = registry.encode(event)
        size_bytes += EVENT_FRAME_BYTES + len(data) + len(metadata)
        records.append(
            _new_record(
                (
                    shard,
                    head,
                    pending.stream,
                    event.version,
                    pending.partition_key,
                    uuid7_bytes(time_ms, random_bytes(10)),
                    event.event_type,
                    event.schema_version,
                    data,
                    metadata,
                    command_key,
                    None,
                    recorded_at,
                )
            )
        )
        command_key, metadata = None, envelope + "}"
    pending.records, pending.records_bytes = records, size_bytes


def receipt_of(pending: Pending, records: Sequence[EventRecord], store_id: str) -> Receipt:
    """Make the receipt of a command's last event."""
    last = records[-1]
    return _new_receipt(
        (pending.message.command_id, last.stream, last.version, last.shard, last.position, store_id, False)
    )


def repeated(pending: Pending, first: EventRecord, store_id: str) -> Answer:
    """Answer a command whose id is in the log already: its first receipt again, or CommandIdReused.

    It is no duplicate if the events are its own, stored by an append whose reply was lost.
    """
    metadata = json.loads(first.metadata)
    if metadata["digest"] != digest_of(pending.message):
        return CommandIdReused(pending.message.command_id, pending.stream)
    further = metadata.get("events", 1) - 1
    return Receipt(
        pending.message.command_id,
        first.stream,
        first.version + further,
        first.shard,
        first.position + further,
        store_id,
        duplicate=first.event_id not in pending.attempts,
    )


def _metadata(message: CommandMessage) -> str:
    """Return the metadata's JSON object without its closing brace."""
    text = f'{{"command_id":{quoted(message.command_id)},"digest":"{digest_of(message)}"'
    if message.occurred_at is not None:
        text += f',"occurred_at":{message.occurred_at}'
    if message.metadata:
        text += "," + message.metadata[1:-1]
    return text
