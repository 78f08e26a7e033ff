"""Aggregates without Ray: loaded as they are or were, and saved by whoever holds the store. For scripts and tests.

Not here: commands, which the hosts decide on; what a script saves passes by them and their idempotency.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from datetime import datetime
from itertools import takewhile
from types import TracebackType
from typing import Self, TypeVar

from actors.aggregate import Aggregate
from actors.commands import shown
from actors.loading import load_aggregates
from actors.registry import AggregateRegistry
from actors.snapshots import Snapshots
from store.codec import EventRegistry
from store.columns import column
from store.errors import InvalidValue
from store.identity import checked_id, shard_of
from store.ports import EventReader, EventStore
from store.records import EventRecord, micros, versions_restored
from store.writing import OfflineWriter

PAGE_SIZE = 1_000
FIRST_STREAMS = 8
"""Streams in the first query for many aggregates: few, since each may be long."""

SomeAggregate = TypeVar("SomeAggregate", bound=Aggregate)


class Repository:
    """Gets aggregates, and within `async with`, which takes the store, saves them:

    async with Repository(store, registry) as repository:
        customer = await repository.get(Customer, "c-1")
        customer.promote(PromoteToVip(customer_id="c-1", reason="loyal"))
        await repository.save(customer)
    """

    def __init__(self, store: EventStore, registry: AggregateRegistry, tool: str = "a script") -> None:
        """`tool` is what others are told that find the store held."""
        self._registry = registry
        self._writer = OfflineWriter(store, tool, registry.events)

    async def __aenter__(self) -> Self:
        """Take the store. Raises StoreHeld where a living runtime holds it."""
        await self._writer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the store back."""
        await self._writer.__aexit__(kind, error, trace)

    async def get(self, aggregate_class: type[SomeAggregate], aggregate_id: str) -> SomeAggregate | None:
        """Return an aggregate as it is, folded from its events; None if it has none. Raises what `load` does."""
        aggregate = await self.load(aggregate_class, aggregate_id)
        return aggregate if aggregate.version else None

    async def load(
        self,
        aggregate_class: type[SomeAggregate],
        aggregate_id: str,
        version: int | None = None,
        as_of: datetime | None = None,
    ) -> SomeAggregate:
        """Return an aggregate as it is, was at a version, or was at a time; see `load_aggregate`."""
        events = self._registry.events
        return await load_aggregate(self._writer.store, events, aggregate_class, aggregate_id, version, as_of)

    async def get_many(
        self, aggregate_class: type[SomeAggregate], aggregate_ids: Iterable[str]
    ) -> dict[str, SomeAggregate]:
        """Return those of the aggregates that have events, as they are, by id; in a fraction of the time of `get`s.

        Raises the error of the first that can't be read, as `load` does.
        """
        ids = {aggregate_class(checked_id(aggregate_class.id_field, each)).stream: each for each in aggregate_ids}
        store = self._writer.store
        streams: Iterable[str] = ids
        if aggregate_class.partition_key_field == aggregate_class.id_field:
            streams = sorted(ids, key=lambda stream: shard_of(ids[stream], store.shards))
        loaded = await load_aggregates(store, list(streams), self._registry, Snapshots(), FIRST_STREAMS)
        for error in loaded.unreadable.values():
            raise error
        found: dict[str, SomeAggregate] = {}
        for stream, aggregate in loaded.aggregates.items():
            assert isinstance(aggregate, aggregate_class)
            if aggregate.version:
                found[ids[stream]] = aggregate
        return found

    async def save(self, aggregate: Aggregate) -> None:
        """Append an aggregate's uncommitted events, all or none, durably; nothing happens if there are none.

        Raises ConcurrencyError where the stream has gone on since it was loaded; InvalidValue for one whose partition
        key no event has told; RuntimeError outside the block; and what `OfflineWriter.save_events` does.
        """
        events = aggregate.uncommitted_events
        if not events:
            return
        if aggregate.partition_key is None:
            remedy = f"its events have no field {aggregate.partition_key_field}"
            raise InvalidValue("partition_key", aggregate.stream, remedy)
        expected_version = aggregate.version - len(events)
        await self._writer.save_events(aggregate.stream, events, expected_version, aggregate.partition_key)
        aggregate.mark_committed()


async def load_aggregate(
    store: EventReader,
    events: EventRegistry,
    aggregate_class: type[SomeAggregate],
    aggregate_id: str,
    version: int | None = None,
    as_of: datetime | None = None,
) -> SomeAggregate:
    """Return the aggregate, folded from its events: all, those up to `version`, or those recorded until `as_of`.

    A copy, to be read only. `as_of` goes by when events were written; the first that was written later ends the fold,
    whatever follows it, so that no snapshot helps there, as one does otherwise. The version is 0 if there are no events
    by then. Raises InvalidValue for a version that isn't there yet, and for an `as_of` without a time zone;
    UnknownEventType, UndecodableEvent and ApplyFailed where the code can't fold what is stored.
    """
    check_moment(aggregate_class, aggregate_id, version, as_of)
    aggregate = aggregate_class(aggregate_id)
    if as_of is None and version is None:
        return await _latest(store, events, aggregate)
    if version is not None:
        aggregate = await _restored(store, aggregate, version)
    return await fold_on(store, events, aggregate, version, None if as_of is None else micros(as_of))


async def fold_on(
    store: EventReader,
    events: EventRegistry,
    aggregate: SomeAggregate,
    version: int | None = None,
    until: int | None = None,
) -> SomeAggregate:
    """Fold onto an aggregate the events after its version, up to one version, or recorded until a time in us.

    Returns the aggregate. Raises what `load_aggregate` does.
    """
    async for history in pages(store, aggregate.stream, aggregate.version, version, until):
        _fold(events, aggregate, history)
    return aggregate


async def pages(
    store: EventReader, stream: str, after: int, version: int | None, until: int | None
) -> AsyncIterator[Sequence[EventRecord]]:
    """Yield a stream's events after a version, up to one version, or recorded until a time in us; a page at a time.

    Raises InvalidValue, after the last page, where the stream has not come to that version.
    """
    limit = PAGE_SIZE
    while version is None or after < version:
        if version is not None:
            limit = min(PAGE_SIZE, version - after)
        page = await store.read_stream(stream, after, limit)
        history: Sequence[EventRecord] = (
            page if until is None else list(takewhile(lambda record: record.recorded_at <= until, page))
        )
        yield history
        after += len(history)
        if len(history) < limit:
            break
    if version is not None and after < version:
        raise InvalidValue("version", str(version), f"{shown(stream)} has {after} so far")


def check_moment(
    aggregate_class: type[Aggregate], aggregate_id: str, version: int | None, as_of: datetime | None
) -> None:
    """Raise InvalidValue unless this is an aggregate and can be its id, and at most one of the two says until when."""
    if not (isinstance(aggregate_class, type) and issubclass(aggregate_class, Aggregate)):
        raise InvalidValue("aggregate_class", shown(aggregate_class), "give a class that is an Aggregate")
    if as_of is not None and not isinstance(as_of, datetime):
        raise InvalidValue("as_of", shown(as_of), "give a datetime with a time zone, for example datetime.now(UTC)")
    if version is not None and as_of is not None:
        raise InvalidValue("as_of", as_of.isoformat(), "give a version or a time, not both")
    if version is not None and (type(version) is not int or version < 0):
        raise InvalidValue("version", shown(version), "give a whole number, 0 or more")
    if as_of is not None and as_of.utcoffset() is None:
        raise InvalidValue("as_of", as_of.isoformat(), "give it a time zone, for example datetime.now(UTC)")
    checked_id(aggregate_class.id_field, aggregate_id)


async def _latest(store: EventReader, events: EventRegistry, new: SomeAggregate) -> SomeAggregate:
    """Return the aggregate as it is: its snapshot and a page of what follows in one read, which mostly is all."""
    snapshots, classes = Snapshots(), {new.stream: type(new)}
    fingerprints = snapshots.fingerprints(classes)
    kept, history = await store.read_histories(fingerprints, PAGE_SIZE)
    aggregate = snapshots.restore(kept.values(), classes).get(new.stream, new)
    assert isinstance(aggregate, type(new))
    if aggregate.version == versions_restored(fingerprints, kept)[new.stream]:
        _fold(events, aggregate, history)
        if len(history) < PAGE_SIZE:
            return aggregate
    return await fold_on(store, events, aggregate)


def _fold(events: EventRegistry, aggregate: Aggregate, history: Sequence[EventRecord]) -> None:
    if history and aggregate.partition_key is None:
        aggregate.partition_key = column(history, "partition_key")[0]
    aggregate.load_from_history(events.decode_many(history), column(history, "version"))


async def _restored(store: EventReader, new: SomeAggregate, version: int) -> SomeAggregate:
    """Return the aggregate as its snapshot has it, if that is sound and not above the version; else the new one."""
    snapshots, classes = Snapshots(), {new.stream: type(new)}
    kept = await store.read_snapshots(classes) if any(snapshots.fingerprints(classes).values()) else {}
    usable = [snapshot for snapshot in kept.values() if snapshot.version <= version]
    restored = snapshots.restore(usable, classes).get(new.stream, new)
    assert isinstance(restored, type(new))
    return restored
