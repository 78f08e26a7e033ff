"""Auditing snapshots: does each hold what the events up to its version fold to?

Beside the audit of a shard's log (`store/audit.py`), whose pages tell which streams begin. One that other code has made
is left alone, as it is everywhere. Not here: snapshots whose stream has not their version (`unsupported_snapshots`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from actors.aggregate import Aggregate
from actors.registry import AggregateRegistry
from actors.repository import fold_on
from actors.snapshots import flaw_of, is_current
from store.audit import Finding
from store.errors import EventrayError, InvalidValue
from store.ports import EventReader
from store.records import EventRecord, Snapshot


class SnapshotAuditor:
    """Checks the snapshots of streams as these begin in the log. Each is compared with a fold of its whole stream."""

    def __init__(self, store: EventReader, registry: AggregateRegistry) -> None:
        self._store = store
        self._registry = registry

    async def findings(self, page: Sequence[EventRecord]) -> list[Finding]:
        """Return what is wrong with the snapshots of the streams that begin in a page of a shard's log."""
        begun = {record.stream: record for record in page if record.version == 1}
        classes = dict(self._classes(begun))
        found = []
        for stream, snapshot in (await self._store.read_snapshots(list(classes))).items():
            problem = await self._problem(snapshot, classes[stream])
            if problem is not None:
                found.append(Finding("snapshot", problem, begun[stream].shard, None, stream, snapshot.version))
        return found

    def _classes(self, streams: Iterable[str]) -> Iterable[tuple[str, type[Aggregate]]]:
        for stream in streams:
            try:
                yield stream, self._registry.aggregate_of(stream)
            except InvalidValue:  # nobody's: what its events mean is not known either
                continue

    async def _problem(self, snapshot: Snapshot, aggregate_class: type[Aggregate]) -> str | None:
        if snapshot.version < 1 or not is_current(snapshot, aggregate_class):
            return None
        aggregate = aggregate_class(snapshot.stream.partition("-")[2])
        try:
            await fold_on(self._store, self._registry.events, aggregate, snapshot.version)
        except InvalidValue:
            return None  # it is above the stream's end
        except EventrayError as error:
            return f"it can't be compared: {error}"
        return flaw_of(snapshot, aggregate)
