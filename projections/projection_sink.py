"""The sink of a projection: events into its read model, each counted once.

Not here: where the events come from (`subscriber.py`), the SQL (`read_models.py`), what the projection makes of an
event (`folding.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from projections.changes import Changes
from projections.errors import ProjectionFailed, ReadModelRejected
from projections.folding import Folder
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.sink import Taken
from store.codec import EventRegistry
from store.errors import EventrayError
from store.records import Advance, Checkpoint, EventRecord


class ProjectionSink:
    """One projection's read model; see `Sink`. A batch is one transaction, of its checkpoints too."""

    def __init__(self, read_models: ReadModels, projection: type[Projection], events: EventRegistry) -> None:
        """Raises InvalidValue where the projection's methods are none (see `Projection.event_methods`)."""
        self._read_models = read_models
        self._projection = projection
        self._folder = Folder(projection, events)

    @property
    def name(self) -> str:
        return self._projection.name

    @property
    def subscriber(self) -> str:
        return self._projection.subscriber()

    @property
    def restored_remedy(self) -> str:
        return (
            "restore the read model's backup of the same time too, or move the read model away (SQLite: its .read"
            " file): it is filled anew from the log at start"
        )

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        """Raises ReadModelVersion, ReadModelUnavailable. A read model begins where the log does."""
        return await self._read_models.prepare(self._projection, begin.keys())

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Change the read model, in one transaction; shard by shard where an event can't be applied.

        Raises ReadModelUnavailable.
        """
        try:
            return await self._apply(batch)
        except (ProjectionFailed, ReadModelRejected):
            by_shard: dict[int, list[EventRecord]] = {}
            for record in batch:
                by_shard.setdefault(record.shard, []).append(record)
            return _together([await self._up_to_the_first_that_fails(records) for records in by_shard.values()])

    async def tend(self) -> dict[int, int]:
        return {}

    async def _apply(self, batch: Sequence[EventRecord]) -> Taken:
        """Raises ProjectionFailed and ReadModelRejected where an event can't be applied."""
        changes = await self._changes(batch)
        first = {record.shard: record.position for record in reversed(batch)}
        last = {record.shard: record for record in batch}
        advances = [
            Advance(shard, first[shard] - 1, record.position, record.event_id) for shard, record in last.items()
        ]
        moved = await self._read_models.apply(self._projection, advances, changes)
        if moved:
            return Taken(0, {shard: checkpoint.position for shard, checkpoint in moved.items()}, {})
        return Taken(len(batch), {shard: record.position for shard, record in last.items()}, {})

    async def _changes(self, batch: Sequence[EventRecord]) -> Changes:
        """Fold a batch, with the rows that the projection looks at.

        They are read before the transaction: one shard feeds them, so what they are at its checkpoint they still are
        where the transaction finds that unmoved.
        """
        decoded = self._folder.decode(batch)
        if not self._folder.reads_rows:
            return self._folder.fold(decoded)
        rows = await self._read_models.rows(self._projection, self._folder.reads(decoded))
        return self._folder.fold(decoded, rows)

    async def _up_to_the_first_that_fails(self, records: Sequence[EventRecord]) -> Taken:
        """Apply one shard's records up to the first that can't be, which is found by halving."""
        shard, before = records[0].shard, records[0].position - 1
        try:
            return await self._apply(records)
        except (ProjectionFailed, ReadModelRejected) as error:
            if len(records) == 1:
                return Taken(0, {shard: before}, {shard: self._failed(records[0], error)})
        middle = len(records) // 2
        earlier = await self._up_to_the_first_that_fails(records[:middle])
        if earlier.positions != {shard: records[middle].position - 1}:
            return earlier
        return _together([earlier, await self._up_to_the_first_that_fails(records[middle:])])

    def _failed(self, record: EventRecord, error: EventrayError) -> EventrayError:
        if isinstance(error, ProjectionFailed):
            return error
        return ProjectionFailed(self._projection.name, record.stream, record.version, record.type, str(error))


def _together(parts: Sequence[Taken]) -> Taken:
    """What was taken in parts, of one shard in their order."""
    positions = {shard: position for part in parts for shard, position in part.positions.items()}
    failed = {shard: error for part in parts for shard, error in part.failed.items()}
    return Taken(sum(part.applied for part in parts), positions, failed)
