"""Auditing a store: is what it holds what its writers promised? One shard at a time, in one pass over its log.

Then one pass over the snapshots, for those that no event supports: the log does not lead to them.

Memory is bounded: all is read in pages, streams are checked by `streams.py`, and only the first findings are kept.
A runtime may go on writing meanwhile. It needs no claim, and changes nothing. Not here: whether the state folded from
the events makes sense (`actors/replay.py` folds it), and is what snapshots hold (`actors/snapshot_audit.py`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from store.codec import EventRegistry
from store.errors import EventrayError, StoreDamaged, UndecodableEvent
from store.identity import shard_of
from store.metadata import Metadata
from store.paging import collecting_rarely, read_log
from store.ports import EventReader
from store.records import EventRecord, SnapshotPlace
from store.streams import StreamChecker

FINDINGS_MAX = 1_000
"""Findings kept of a shard; more are counted."""

Beside = Callable[[Sequence[EventRecord]], Awaitable[Iterable["Finding"]]]
"""Checks more of a page of the log than the store's own words say."""
Progress = Callable[[int], None]
"""Hears how many more events are done."""


class Finding(NamedTuple):
    """One thing that is wrong, and where."""

    check: str
    """What was checked: reading, position, head, version, shard, partition_key, decoding, metadata or snapshot."""
    problem: str
    shard: int | None
    """None: of no shard, or of none that is known."""
    position: int | None = None
    stream: str | None = None
    version: int | None = None

    def __str__(self) -> str:
        place = [] if self.shard is None else [f"shard {self.shard}"]
        if self.position is not None:
            place.append(f"position {self.position}")
        if self.stream is not None:
            place.append(f"{ascii(self.stream)[1:-1]} version {self.version}")
        return f"{', '.join(place) or 'the store'}: {self.check}: {self.problem}"


@dataclass
class ShardAudit:
    """What the audit of a shard came to."""

    shard: int
    events: int = 0
    """Events that were looked at."""
    position: int = 0
    """Of the last of them."""
    seconds: float = 0.0
    """How long it took."""
    found: int = 0
    """Findings in all."""
    findings: list[Finding] = field(default_factory=list)
    """The first of them."""

    def add(self, finding: Finding) -> None:
        """Note one more finding."""
        self.found += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


async def audit_shard(
    store: EventReader, events: EventRegistry, shard: int, progress: Progress, beside: Beside | None = None
) -> ShardAudit:
    """Check the log of one shard: what it holds by now. The unit of work; shards may be audited side by side.

    Checked are: gapless positions that end at the head; for each event its place in its stream (gapless versions, one
    shard, one partition key), its partition key's shard, that it decodes with `events`, and its metadata. Raises
    StoreUnavailable; damage is a finding, never an error: also that the database can't read on.
    """
    began_s = time.perf_counter()
    audit = ShardAudit(shard)
    try:
        await _check_log(audit, store, events, progress, beside)
    except StoreDamaged as error:
        audit.add(Finding("reading", f"the events behind it can't be read: {error.args[0]}", shard, audit.position))
    audit.seconds = time.perf_counter() - began_s
    return audit


async def _check_log(
    audit: ShardAudit, store: EventReader, events: EventRegistry, progress: Progress, beside: Beside | None
) -> None:
    streams, shard = StreamChecker(store), audit.shard
    heads = await store.heads()
    if shard not in heads:
        audit.add(Finding("head", "the store has no row for this shard", shard))
    head = heads.get(shard, 0)
    with collecting_rarely():
        async for page in read_log(store, shard, 0, head):
            for record in page:
                if record.position != audit.position + 1:
                    _add_gap(audit, audit.position, record.position)
                audit.position = record.position
                flaw = await streams.check(record)
                if flaw is not None:
                    audit.add(_of(record, flaw.field, flaw.problem))
                _check_alone(audit, record, store.shards, events)
            if beside is not None and not await _look_beside(audit, beside, page):
                beside = None
            audit.events += len(page)
            streams.forget_some()
            progress(len(page))
    if audit.position < head:
        problem = f"the head is {head}, and the last event at {audit.position}"
        audit.add(Finding("head", problem, shard, audit.position))
    await _check_beyond(audit, store, head)


async def _look_beside(audit: ShardAudit, beside: Beside, page: Sequence[EventRecord]) -> bool:
    """Add what `beside` finds; return whether it can go on."""
    try:
        for finding in await beside(page):
            audit.add(finding)
    except StoreDamaged as error:
        problem = f"what is kept of its streams beside the events can't be read: {error.args[0]}"
        audit.add(Finding("reading", problem, audit.shard))
        return False
    return True


async def unsupported_snapshots(store: EventReader, progress: Progress) -> AsyncIterator[Finding]:
    """Yield a finding for each snapshot, whatever code has made it, whose version its stream does not have.

    A host would go on from it, as if its events were there. `progress` hears of snapshots. Raises StoreUnavailable.
    """
    try:
        async for page in store.snapshot_places():
            for place in page:
                problem = _support_problem(place)
                if problem is not None:
                    yield Finding("snapshot", problem, place.shard, None, place.stream, place.version)
            progress(len(page))
    except StoreDamaged as error:
        yield Finding("reading", f"not all snapshots can be looked at: {error.args[0]}", None)


def _support_problem(place: SnapshotPlace) -> str | None:
    if place.shard is None:
        return "its stream has no events"
    if place.version < 1:
        return "versions begin at 1"
    if place.version > place.last_version:
        return f"its stream ends at version {place.last_version}"
    return None


async def _check_beyond(audit: ShardAudit, store: EventReader, head: int) -> None:
    """Look for events above the head, where only those may be that moved it since."""
    beyond = await store.read_shard(audit.shard, head, 1)
    if beyond and (now := (await store.heads()).get(audit.shard, 0)) < beyond[0].position:
        audit.add(_of(beyond[0], "head", f"an event above the head, which is {now}"))


def _add_gap(audit: ShardAudit, before: int, after: int) -> None:
    first, last = before + 1, after - 1
    missing = f"position {first} is missing" if first == last else f"positions {first} to {last} are missing"
    audit.add(Finding("position", missing, audit.shard, first))


def _check_alone(audit: ShardAudit, record: EventRecord, shards: int, events: EventRegistry) -> None:
    """Check what can be told from the record by itself."""
    right = shard_of(record.partition_key, shards)
    if right != record.shard:
        audit.add(_of(record, "shard", f"partition key {record.partition_key!a} belongs to shard {right}"))
    try:
        events.decode(record)
    except EventrayError as error:
        audit.add(_of(record, "decoding", str(error)))
    problem = _metadata_problem(record)
    if problem is not None:
        audit.add(_of(record, "metadata", problem))


def _metadata_problem(record: EventRecord) -> str | None:
    if record.metadata == "{}" and record.command_key is None:
        return None
    try:
        metadata = Metadata.of(record)
    except UndecodableEvent as error:
        return str(error)
    if record.command_key is not None:
        if metadata.command_id != record.command_key:
            return f"its command is {record.command_key!a}, and {metadata.command_id!a} in the metadata"
        if metadata.digest is None:
            return "the digest of its command is missing"
    return None


def _of(record: EventRecord, check: str, problem: str) -> Finding:
    return Finding(check, problem, record.shard, record.position, record.stream, record.version)
