"""Aggregates from the store, many at once: a snapshot each where there is a sound one, and the events after it.

One read for the snapshots and the events of many streams; where they are a great many, the next are read while the last
are folded. Not here: one aggregate at a version or a time (`repository.py`).
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import AsyncGenerator, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from typing import NamedTuple

from actors.aggregate import Aggregate
from actors.errors import ApplyFailed, BrokenHistory, MakeFailed
from actors.registry import AggregateRegistry
from actors.snapshots import Snapshots
from store.columns import column
from store.errors import EventrayError
from store.events import Event
from store.ports import EventReader
from store.records import EventRecord, Histories, versions_restored

FIRST_STREAMS = 32
"""Streams in each of the first queries, where nothing is known of them: few, since each may be long."""
FIRST_STREAMS_MAX = 256
"""The same, where those loaded before were short: most of a host's are new, and have no events."""
GROWTH = 4
READS_UNDER_WAY = 3
"""So that two reading threads have a next query at hand when one is done, while the event loop folds."""
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
    first_streams: int
    """Streams for each of the first queries of the next load, if its streams are as long as these."""


async def load_aggregates(
    store: EventReader,
    streams: Collection[str],
    registry: AggregateRegistry,
    snapshots: Snapshots,
    first_streams: int = FIRST_STREAMS,
) -> Loaded:
    """Load the aggregates of these streams as they are; `first_streams` in a first query. Raises StoreUnavailable.

    They are read in the order given. Streams of one shard lie together, so with one shard's behind another's fewer
    pages have to be read.
    """
    classes = {stream: registry.aggregate_of(stream) for stream in streams}
    loading = _Loading(store, registry, classes, snapshots)
    await loading.load(snapshots.fingerprints(classes), first_streams)
    doubtful = loading.doubtful()
    if doubtful or loading.damaged:
        whole = _Loading(store, registry, classes, snapshots)
        await whole.load(dict.fromkeys([*doubtful, *loading.damaged]), first_streams)
        snapshots.mistrust([stream for stream in doubtful if stream in whole.aggregates])
        for stream in whole.aggregates:
            loading.unreadable.pop(stream, None)
        loading.aggregates |= whole.aggregates
        loading.unreadable |= whole.unreadable
        loading.restored_versions = {
            stream: version for stream, version in loading.restored_versions.items() if stream not in whole.aggregates
        }
    return Loaded(loading.aggregates, loading.unreadable, loading.long(), loading.first_streams_next())


class _Loading:
    """Streams read, and folded portion by portion."""

    def __init__(
        self,
        store: EventReader,
        registry: AggregateRegistry,
        classes: Mapping[str, type[Aggregate]],
        snapshots: Snapshots,
    ) -> None:
        self._store, self._registry, self._classes, self._snapshots = store, registry, classes, snapshots
        self.aggregates: dict[str, Aggregate] = {}
        self.unreadable: dict[str, EventrayError] = {}
        self.restored_versions: dict[str, int] = {}
        """Of the snapshots that were used, by stream."""
        self.damaged: list[str] = []
        """Streams whose snapshot can't be used, though what was read of them begins behind it."""
        self._records = 0

    async def load(self, fingerprints: Mapping[str, str | None], first_streams: int) -> None:
        """Load these streams, with a snapshot where it has the fingerprint."""
        async with aclosing(_read(self._store, fingerprints, first_streams)) as portions:
            async for wanted, (kept, records) in portions:
                self._records += len(records)
                restored = self._snapshots.restore(kept.values(), self._classes)
                begun = versions_restored(wanted, kept)
                self.damaged += [stream for stream in wanted if begun[stream] and stream not in restored]
                self.restored_versions |= {stream: begun[stream] for stream in restored}
                new = [stream for stream in wanted if not begun[stream]]
                self._fold(wanted, self._made(new) | restored, records)

    def _made(self, streams: Iterable[str]) -> dict[str, Aggregate]:
        """Return new aggregates for these streams, of those that can be made."""
        made: dict[str, Aggregate] = {}
        for stream in streams:
            try:
                made[stream] = self._registry.new_aggregate(stream)
            except MakeFailed as error:
                self.unreadable[stream] = error
        return made

    def _fold(
        self, streams: Iterable[str], aggregates: Mapping[str, Aggregate], records: Sequence[EventRecord]
    ) -> None:
        """Fold the records of some streams, by stream and version, onto those of the aggregates that there are."""
        of_streams, versions, keys = (column(records, name) for name in ("stream", "version", "partition_key"))
        decode_many = self._registry.events.decode_many
        try:
            events: Sequence[Event] | None = decode_many(records)
        except EventrayError:
            events = None  # the one that is to blame is looked for stream by stream
        end = 0
        for stream in sorted(streams):
            begin, end = end, bisect_right(of_streams, stream, end)
            aggregate = aggregates.get(stream)
            if aggregate is None:
                continue
            try:
                if begin < end:
                    aggregate.partition_key = keys[begin]
                    history = decode_many(records[begin:end]) if events is None else events[begin:end]
                    aggregate.load_from_history(history, versions[begin:end])
                self.aggregates[stream] = aggregate
            except EventrayError as error:
                self.unreadable[stream] = error
        assert end == len(records), f"events of {of_streams[end]} are not where they were asked for"

    def doubtful(self) -> list[str]:
        """Return the streams where either the code or the snapshot is to blame."""
        return [
            stream
            for stream, error in self.unreadable.items()
            if stream in self.restored_versions and isinstance(error, ApplyFailed | BrokenHistory)
        ]

    def first_streams_next(self) -> int:
        """Return how many streams like these bring as many events as a query is meant to, within bounds."""
        streams = RECORDS_WANTED * len(self._classes) // (self._records + 1)
        return min(max(streams, FIRST_STREAMS), FIRST_STREAMS_MAX)

    def long(self) -> list[Aggregate]:
        """Return the aggregates for which more events were folded than a snapshot is to spare."""
        return [
            aggregate
            for stream, aggregate in self.aggregates.items()
            if 0 < aggregate.snapshot_every <= aggregate.version - self.restored_versions.get(stream, 0)
        ]


async def _read(
    store: EventReader, fingerprints: Mapping[str, str | None], size: int
) -> AsyncGenerator[tuple[Mapping[str, str | None], Histories], None]:
    """Yield some streams, `size` at first, and what there is of them, until none is left.

    The next are read meanwhile.
    """
    waiting = iter(fingerprints.items())
    under_way: deque[tuple[Mapping[str, str | None], asyncio.Future[Histories]]] = deque()
    try:
        while True:
            while len(under_way) < READS_UNDER_WAY and (wanted := dict(islice(waiting, size))):
                under_way.append((wanted, asyncio.ensure_future(store.read_histories(wanted))))
            if not under_way:
                return
            streams, reading = under_way.popleft()
            histories = await reading
            size = max(1, min(size * GROWTH, RECORDS_WANTED * len(streams) // (len(histories.records) + 1)))
            yield streams, histories
    finally:
        for _, reading in under_way:
            reading.cancel()
