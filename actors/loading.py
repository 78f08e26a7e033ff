"""Aggregates from the store, many at once: a snapshot each where there is a sound one, and the events after it.

Two queries, whatever their number. Not here: one aggregate at a version or a time (`repository.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from actors.aggregate import Aggregate
from actors.errors import ApplyFailed, BrokenHistory
from actors.registry import AggregateRegistry
from actors.snapshots import Snapshots
from store.errors import EventrayError
from store.ports import EventReader
from store.records import EventRecord


class Loaded(NamedTuple):
    """What became of some streams."""

    aggregates: dict[str, Aggregate]
    """By stream; a stream without events is a new aggregate."""
    unreadable: dict[str, EventrayError]
    """Why the code can't fold what is stored, by stream."""
    long: list[Aggregate]
    """Those for which more events were folded than a snapshot is to spare."""


async def load_aggregates(
    store: EventReader, streams: Collection[str], registry: AggregateRegistry, snapshots: Snapshots
) -> Loaded:
    """Load the aggregates of these streams as they are. Raises StoreUnavailable."""
    classes = {stream: registry.aggregate_of(stream) for stream in streams}
    wanted = snapshots.wanted(classes)
    kept = await store.read_snapshots(wanted) if wanted else {}
    restored = snapshots.restore(kept.values(), classes)
    versions = {stream: restored[stream].version if stream in restored else 0 for stream in streams}
    aggregates, unreadable = _folded(await store.read_streams(versions), classes, restored, registry)
    doubtful = [stream for stream in restored if isinstance(unreadable.get(stream), ApplyFailed | BrokenHistory)]
    if doubtful:  # either the code or the snapshot is to blame
        whole, unreadable_still = _folded(
            await store.read_streams(dict.fromkeys(doubtful, 0)), {s: classes[s] for s in doubtful}, {}, registry
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


def _folded(
    records: Iterable[EventRecord],
    classes: Mapping[str, type[Aggregate]],
    restored: Mapping[str, Aggregate],
    registry: AggregateRegistry,
) -> tuple[dict[str, Aggregate], dict[str, EventrayError]]:
    """Fold records (by stream, in version order) onto what was restored; return aggregates and errors by stream."""
    histories: dict[str, list[EventRecord]] = {stream: [] for stream in classes}
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
