"""Replaying: every aggregate of a shard folded from its first event with today's code. Nothing is kept or changed.

It tells whether the code still understands all of history, and how fast. Memory is bounded: the log is read in pages,
and a shard with more aggregates than may live at once is gone through more than once. Not here: running shards in
parallel (`cluster/replaying.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from actors.aggregate import Aggregate
from actors.registry import AggregateRegistry
from store.columns import column
from store.errors import EventrayError
from store.events import Event
from store.paging import collecting_rarely, read_log
from store.ports import EventReader
from store.records import EventRecord

AGGREGATES_MAX = 100_000
"""Aggregates that live at once."""
FAILURES_MAX = 100
"""Failures kept of a shard; more are counted."""

Progress = Callable[[int], None]
"""Hears how many more events are done."""


class Failure(NamedTuple):
    """An event that today's code can't fold; what follows it in its stream is left out."""

    stream: str
    version: int
    reason: str

    def __str__(self) -> str:
        return f"{ascii(self.stream)[1:-1]} version {self.version}: {self.reason}"


@dataclass
class ShardReplay:
    """What the replay of a shard came to."""

    shard: int
    events: int = 0
    """Events folded."""
    left_out: int = 0
    """Events not folded: the first of an aggregate that can't be, and all behind it."""
    aggregates: int = 0
    """Aggregates that they belong to."""
    types: Counter[str] = field(default_factory=Counter)
    """Events read, by stored name of their type."""
    seconds: float = 0.0
    """How long it took."""
    failed: int = 0
    """Aggregates that could not be folded to their end."""
    failures: list[Failure] = field(default_factory=list)
    """The first of them."""


async def replay_shard(store: EventReader, registry: AggregateRegistry, shard: int, progress: Progress) -> ShardReplay:
    """Fold what one shard's log holds by now. The unit of work; shards may be replayed side by side.

    Each stream's versions are checked to be gapless. An aggregate that can't be folded is a failure in the result,
    not an error. Raises StoreUnavailable.
    """
    began_s = time.perf_counter()
    replay = ShardReplay(shard)
    head = (await store.heads()).get(shard, 0)
    start: int | None = 0
    with collecting_rarely():
        while start is not None:
            fold = _Fold(registry, replay, first=start == 0)
            async for page in read_log(store, shard, start, head):
                fold.page(page)
                if fold.first:
                    progress(len(page))
            start = fold.left_at
    stray = replay.types.total() - replay.events - replay.left_out
    if stray:
        replay.failed += 1
        replay.left_out += stray
        reason = f"{stray} events are in streams without a version 1: see what `eventray audit store` finds"
        replay.failures.append(Failure(f"shard {shard}", 0, reason))
    replay.seconds = time.perf_counter() - began_s
    return replay


class _Fold:
    """One pass over a log: folds the streams that begin in it, as many as may live; the next pass has the rest."""

    def __init__(self, registry: AggregateRegistry, replay: ShardReplay, first: bool) -> None:
        self._registry = registry
        self._replay = replay
        self._live: dict[str, Aggregate | None] = {}
        """By stream; None for those that failed."""
        self.first = first
        self.left_at: int | None = None
        """The position that the next pass begins behind; None: nothing is left for one."""

    def page(self, records: Sequence[EventRecord]) -> None:
        """Fold one page."""
        if self.first:
            self._replay.types.update(column(records, "type"))
        live = self._live
        if not self.first or self.left_at is not None or len(live) + len(records) > AGGREGATES_MAX:
            records = [record for record in records if record.stream in live or self._begins(record)]
        streams, versions, keys = (column(records, name) for name in ("stream", "version", "partition_key"))
        for stream, version, key, event in zip(streams, versions, keys, self._decoded(records), strict=True):
            try:
                aggregate = live[stream]
            except KeyError:
                aggregate = self._begin(stream, version, key)
            if aggregate is None:
                self._replay.left_out += 1
                continue
            if isinstance(event, EventrayError):
                self._fail(stream, version, event)
                self._replay.left_out += 1
                continue
            try:
                aggregate.load_from_history((event,), (version,))
                self._replay.events += 1
            except EventrayError as error:
                self._fail(stream, version, error)
                self._replay.left_out += 1

    def _begins(self, record: EventRecord) -> bool:
        """Tell whether this pass folds the stream of a record that it has not met before."""
        if record.version != 1 and (self.left_at is not None or not self.first):
            return False  # it goes on in a stream that another pass has begun, or will
        if record.version == 1 and len(self._live) >= AGGREGATES_MAX:
            if self.left_at is None:
                self.left_at = record.position - 1
            return False
        self._begin(record.stream, record.version, record.partition_key)
        return True

    def _begin(self, stream: str, version: int, partition_key: str) -> Aggregate | None:
        self._replay.aggregates += 1
        try:
            aggregate_class = self._registry.aggregate_of(stream)
        except EventrayError as error:
            self._fail(stream, version, error)
            return None
        aggregate = self._live[stream] = aggregate_class(stream.partition("-")[2])
        aggregate.partition_key = partition_key
        return aggregate

    def _decoded(self, records: Sequence[EventRecord]) -> Sequence[Event | EventrayError]:
        """Decode a page; in the place of what can't be decoded stands why."""
        try:
            return self._registry.events.decode_many(records)
        except EventrayError:
            return [self._decoded_alone(record) for record in records]

    def _decoded_alone(self, record: EventRecord) -> Event | EventrayError:
        try:
            return self._registry.events.decode(record)
        except EventrayError as error:
            return error

    def _fail(self, stream: str, version: int, error: EventrayError) -> None:
        self._live[stream] = None
        replay = self._replay
        replay.failed += 1
        if len(replay.failures) < FAILURES_MAX:
            replay.failures.append(Failure(stream, version, str(error)))
