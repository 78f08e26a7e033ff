"""The rows of the store as values: stored events, claims, routes. No I/O, no decoding.

Not here: typed events (`events.py`) and how rows become them (`codec.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class EventRecord(NamedTuple):
    """One stored event, in the order of the table's columns."""

    shard: int
    position: int
    """Place in the shard's log: 1-based, gapless."""
    stream: str
    """`category-id`."""
    version: int
    """Place in the stream: 1-based, gapless."""
    partition_key: str
    event_id: bytes
    """16 bytes of a UUID (version 7 where the runtime drew it)."""
    type: str
    """The stored name of the event's type, never a Python path."""
    schema_version: int
    data: str
    """The event's own fields, JSON."""
    metadata: str
    """A JSON object; its keys are those of `Metadata`."""
    command_key: str | None
    """The command's id, on the first event of a command only."""
    key_id: str | None
    """Reserved for per-subject encryption; null today."""
    recorded_at: int
    """When the host wrote it: microseconds since 1970, UTC. Nothing is ordered by it."""


@dataclass(frozen=True, slots=True)
class ShardAppend:
    """What one shard gets in an append: `records` hold the positions old_head + 1, old_head + 2, ... in order."""

    shard: int
    epoch: int
    old_head: int
    records: list[EventRecord] = field(default_factory=list)
    """Empty: the shard's epoch is only confirmed, by a SELECT in the same transaction."""


class Claim(NamedTuple):
    """What a claimant learns: its own epoch and the shard's head (0: empty)."""

    epoch: int
    head: int


class Route(NamedTuple):
    """Who serves a shard. `host` None: nobody is assigned. `epoch` is the last claim's, maybe a predecessor's."""

    shard: int
    host: str | None
    epoch: int


class Writer(NamedTuple):
    """What a successor needs in order to end a writer: on SQLite an OS process, on PostgreSQL a backend."""

    machine: str
    """Which machine the process runs on (SQLite); empty where the server ends it."""
    pid: int
    started: str
    """The start time of that process or backend, as text: a pid alone may have been given to another since."""


class Snapshot(NamedTuple):
    """The state of one aggregate at one version, in the order of the table's columns. Never the truth: events are."""

    stream: str
    version: int
    """The version of the last event folded into it."""
    fingerprint: str
    """Of the code that folded it: under another one it means nothing."""
    data: str
    """JSON of whoever wrote it."""
    recorded_at: int
    """Microseconds since 1970, UTC."""


class SnapshotPlace(NamedTuple):
    """Where the log is beside one snapshot."""

    stream: str
    version: int
    """The snapshot's."""
    last_version: int
    """The stream's; 0 if it has no events."""
    shard: int | None
    """Where the stream's last event is; None if it has none."""


class Histories(NamedTuple):
    """What loading some streams takes."""

    snapshots: dict[str, Snapshot]
    """By stream."""
    records: Sequence[EventRecord]
    """What follows the snapshots, by (stream, version)."""


class Checkpoint(NamedTuple):
    """How far a subscriber is in a shard's log; position 0 and no event id: it has taken nothing yet."""

    position: int
    event_id: bytes | None
    """Of the event there: a log that was restored to an earlier state has none, or another one."""


IMPORTED = "eventray:imported"
"""The name under which a store's checkpoints say up to where its events were brought by an import: no handler begins
before that, since the store that they came from has seen to their side effects."""
IMPORTING = "eventray:importing"
"""The name under which shard 0 has, instead of a position, how many events an import was to bring when it began."""


class Advance(NamedTuple):
    """A checkpoint's move, to the position and id of the last event taken."""

    shard: int
    from_position: int
    to_position: int
    event_id: bytes | None
    """None: back to the beginning of the log."""


class ParkedKey(NamedTuple):
    """A partition key that a handler could not take an event of, in the order of the table's columns.

    That event and all later ones of the key wait in the log, for this handler only.
    """

    handler: str
    partition_key: str
    shard: int
    position: int
    """Of the next event that it has to take: at first the one that failed."""
    event_id: bytes
    """Of the event that failed last."""
    attempts: int
    """How often that event was tried."""
    error: str
    traceback: str
    parked_at: int
    """Microseconds since 1970, UTC."""
    failed_at: int
    """When it failed last: microseconds since 1970, UTC."""
    wish: str = ""
    """What somebody has asked for: `retry`, or `discard` of the event that failed; empty: nothing."""


class ParkedCount(NamedTuple):
    """What a handler has parked, in short."""

    keys: int
    oldest_at: int
    """When the oldest of them was parked: microseconds since 1970, UTC."""


CommandKeys = Mapping[tuple[int, str, str], EventRecord]
"""First events of commands, by (shard, command key, stream)."""


class AuditResult(NamedTuple):
    """What an audit came to, in the order of the table's columns."""

    audit: str
    """What was audited: `store`, or a read model's name."""
    ended_at: int
    """Microseconds since 1970, UTC."""
    events: int
    """Events that were looked at."""
    found: int
    """Things that are wrong."""


def micros(moment: datetime) -> int:
    """Microseconds since 1970 of an aware datetime, exactly."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(micros_since_1970: int) -> datetime:
    """The UTC datetime of a count of microseconds since 1970."""
    return EPOCH + timedelta(microseconds=micros_since_1970)


def versions_restored(fingerprints: Mapping[str, str | None], snapshots: Mapping[str, Snapshot]) -> dict[str, int]:
    """Return, by stream, the version of the snapshot with the fingerprint that is named; 0 if there is none."""
    return {
        stream: snapshots[stream].version if stream in snapshots and snapshots[stream].fingerprint == fingerprint else 0
        for stream, fingerprint in fingerprints.items()
    }
