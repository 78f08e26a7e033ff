"""Aggregates from the store, many at once: a snapshot each where there is a sound one, and the events after it.

One query for the snapshots, and one for the events of many streams; where they are a great many, the next are read
while the last are folded. Not here: one aggregate at a version or a time (`repository.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple

from actors.aggregate import Aggregate
from actors.errors import ApplyFailed, BrokenHistory
from actors.registry import AggregateRegistry
from actors.snapshots import Snapshots
from store.errors import EventrayError
from store.ports import EventReader
from store.records import EventRecord

FIRST_STREAMS_MAX = 1_000
"""Streams in the first query; most of a host's are new, and have no events."""
GROWTH = 4
READS_UNDER_WAY = 2
"""So that the reading thread has its next query at hand when it is done with one, while the event loop folds."""
RECORDS_WANTED = 1_000
"""Events that a query is meant to bring: few enough that folding them holds up nobody."""


class Loaded(NamedTuple):
    """What became of some streams."""

    aggregates: dict[str, Aggregate]
    """By stream; a stream without events is a new aggregate."""
    unreadable: dict[str, EventrayError]
    """Why the code can't fold what is stored, by stream."""
    long: list[Aggregate]
    """Those for which more events were folded than a snapshot is to spare."""


async def load_aggregates(
    store: EventReader,
    streams: Collection[str],
    registry: AggregateRegistry,
    snapshots: Snapshots,
    first_streams: int = FIRST_STREAMS_MAX,
) -> Loaded:
    """Load the aggregates of these streams as they are; `first_streams` in the first query. Raises StoreUnavailable."""
    classes = {stream: registry.aggregate_of(stream) for stream in streams}
    wanted = snapshots.wanted(classes)
    kept = await store.read_snapshots(wanted) if wanted else {}
    restored = snapshots.restore(kept.values(), classes)
    versions = {stream: restored[stream].version if stream in restored else 0 for stream in streams}
    aggregates, unreadable = await _read_and_fold(store, versions, first_streams, classes, restored, registry)
    doubtful = [stream for stream in restored if isinstance(unreadable.get(stream), ApplyFailed | BrokenHistory)]
    if doubtful:  # either the code or the snapshot is to blame
        whole, unreadable_still = await _read_and_fold(
            store, dict.fromkeys(doubtful, 0), first_streams, classes, {}, registry
        )
        snapshots.mistrust(whole)
        aggregates |= whole
        unreadable = {stream: error for stream, error in unreadable.items() if stream not in whole} | unreadable_still
        versions |= dict.fromkeys(whole, 0)
    long = [
        aggregate
        for stream, aggregate in aggregates.items()
        if 0 < aggregate.snapshot_every <= aggregate.version - versions[stream]
    ]
    return Loaded(aggregates, unreadable, long)


async def _read_and_fold(
    store: EventReader,
    versions: Mapping[str, int],
    first_streams: int,
    classes: Mapping[str, type[Aggregate]],
    restored: Mapping[str, Aggregate],
    registry: AggregateRegistry,
) -> tuple[dict[str, Aggregate], dict[str, EventrayError]]:
    """Fold what follows these versions of streams onto what was restored; return aggregates and errors by stream."""
    loaded: dict[str, Aggregate] = {}
    unreadable: dict[str, EventrayError] = {}
    async with aclosing(_read(store, versions, first_streams)) as portions:
        async for streams, records in portions:
            some_loaded, some_unreadable = _folded(records, streams, classes, restored, registry)
            loaded |= some_loaded
            unreadable |= some_unreadable
    return loaded, unreadable


async def _read(
    store: EventReader, versions: Mapping[str, int], size: int
) -> AsyncGenerator[tuple[Collection[str], list[EventRecord]], None]:
    """Yield the names of some streams, `size` at first, and their records, until none is left.

    The next are read meanwhile.
    """
    waiting = iter(versions.items())
    under_way: deque[tuple[Collection[str], asyncio.Future[list[EventRecord]]]] = deque()
    try:
        while True:
            while len(under_way) < READS_UNDER_WAY and (wanted := dict(islice(waiting, size))):
                under_way.append((wanted, asyncio.ensure_future(store.read_streams(wanted))))
            if not under_way:
                return
            streams, reading = under_way.popleft()
            records = await reading
            size = max(1, min(size * GROWTH, RECORDS_WANTED * len(streams) // (len(records) + 1)))
            yield streams, records
    finally:
        for _, reading in under_way:
            reading.cancel()


def _folded(
    records: Iterable[EventRecord],
    streams: Iterable[str],
    classes: Mapping[str, type[Aggregate]],
    restored: Mapping[str, Aggregate],
    registry: AggregateRegistry,
) -> tuple[dict[str, Aggregate], dict[str, EventrayError]]:
    """Fold records (by stream, in version order) onto what was restored; return aggregates and errors by stream."""
    histories: dict[str, list[EventRecord]] = {stream: [] for stream in streams}
    for record in records:
        histories[record.stream].append(record)
    loaded: dict[str, Aggregate] = {}
    unreadable: dict[str, EventrayError] = {}
    for stream, history in histories.items():
        aggregate = restored[stream] if stream in restored else classes[stream](stream.partition("-")[2])
        try:
            aggregate.load_from_history(registry.events.decode_many(history) if history else ())
        except EventrayError as error:
            unreadable[stream] = error
            continue
        if history:
            aggregate.partition_key = history[0].partition_key
        loaded[stream] = aggregate
    return loaded, unreadable
