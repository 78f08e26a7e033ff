"""The sink of a projection: events into its read model, each counted once.

Not here: where the events come from (`subscriber.py`), the SQL (`read_models.py`), what the projection makes of an
event (`folding.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from projections.changes import Changes
from projections.errors import ConsistencyTimeout, ProjectionFailed, ReadModelMissing, ReadModelRejected
from projections.folding import Folder
from projections.issuing import Issuing
from projections.progress import Start, SubscriberLimits
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.sink import Taken
from projections.subscriber import Subscriber
from projections.tables import Build
from store.codec import EventRegistry
from store.errors import EventrayError
from store.logs import described
from store.ports import EventReader
from store.records import Advance, Checkpoint, EventRecord

log = structlog.get_logger(__name__)

NEARLY = 10_000
"""So few events behind, a new build may ask that the old one be left as it is while it comes as far."""


class ProjectionSink:
    """One projection's read model; see `Sink`. A batch is one transaction, of its checkpoints too.

    Where an older version of it is what is read, a build of this version is filled beside that, and takes its place
    once it is as far.
    """

    def __init__(
        self,
        read_models: ReadModels,
        projection: type[Projection],
        events: EventRegistry,
        issuing: Issuing | None = None,
        on_issued: Callable[[], None] = lambda: None,
    ) -> None:
        """`issuing`: of a process manager; `on_issued` is called once commands are in its outbox.

        Raises InvalidValue where the projection's methods are none (see `Projection.event_methods`).
        """
        self._read_models = read_models
        self._projection = projection
        self._folder = Folder(projection, events, issuing)
        self._issuing, self._on_issued = issuing, on_issued
        self._build = Build(projection.version)
        self._shards: frozenset[int] = frozenset()
        self._elsewhere: dict[int, int] = {}
        """Where another build's checkpoints are, which the subscriber has not heard of yet."""
        self.shown = asyncio.Event()
        """Set once what is taken here is what is read."""

    @property
    def name(self) -> str:
        return self._projection.name

    @property
    def subscriber(self) -> str:
        return self._build.subscriber(self._projection.name)

    @property
    def restored_remedy(self) -> str:
        remedy = (
            "restore the read model's backup of the same time too, or move the read model away (SQLite: its .read"
            " file): it is filled anew from the log at start"
        )
        return remedy if self._issuing is None else f"{remedy}, and its commands are issued again, under the same ids"

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        """Raises ReadModelVersion, ReadModelUnavailable. A read model begins where the log does."""
        if self._issuing is not None:
            await self._issuing.begin(begin)
        self._shards = frozenset(begin)
        self._build, is_live, found = await self._read_models.prepare(self._projection, self._shards)
        if is_live:
            self.shown.set()
        else:
            log.info("a new version of a read model is filled beside the old one", build=self.subscriber)
            await self._try_to_take_over()
        return found

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Change the read model, in one transaction; shard by shard where an event can't be applied.

        Raises ReadModelUnavailable; ReadModelVersion once a higher version has taken over.
        """
        try:
            taken = await self._take(batch)
            if not self.shown.is_set():
                await self._try_to_take_over()
        except ReadModelMissing as error:
            await self._go_on_elsewhere(error)
            return Taken(0, {record.shard: self._elsewhere[record.shard] for record in batch}, {})
        return taken

    def let_go(self, shards: Collection[int]) -> None:
        self._shards -= frozenset(shards)

    async def tend(self) -> dict[int, int]:
        """Look whether another process has let this build take its place, or whether it is due."""
        if not self.shown.is_set():
            try:
                await self._try_to_take_over()
            except ReadModelMissing as error:
                await self._go_on_elsewhere(error)
        elsewhere, self._elsewhere = self._elsewhere, {}
        return {shard: position for shard, position in elsewhere.items() if shard in self._shards}

    async def _go_on_elsewhere(self, missing: ReadModelMissing) -> None:
        """The build that was filled here was replaced, or given up and begun anew. Raises `missing` if not."""
        former = self._build
        found = await self.prepare(dict.fromkeys(self._shards, Checkpoint(0, None)))
        if self._build == former and self.shown.is_set():
            raise missing
        self._elsewhere = {shard: checkpoint.position for shard, checkpoint in found.items()}

    async def _take(self, batch: Sequence[EventRecord]) -> Taken:
        try:
            return await self._apply(batch)
        except (ProjectionFailed, ReadModelRejected):
            by_shard: dict[int, list[EventRecord]] = {}
            for record in batch:
                by_shard.setdefault(record.shard, []).append(record)
            return _together([await self._up_to_the_first_that_fails(records) for records in by_shard.values()])

    async def _apply(self, batch: Sequence[EventRecord]) -> Taken:
        """Raises ProjectionFailed and ReadModelRejected where an event can't be applied."""
        changes = await self._changes(batch)
        first = {record.shard: record.position for record in reversed(batch)}
        last = {record.shard: record for record in batch}
        advances = [
            Advance(shard, first[shard] - 1, record.position, record.event_id) for shard, record in last.items()
        ]
        moved = await self._read_models.apply(self._projection, advances, changes, self._build)
        if moved:
            return Taken(0, {shard: checkpoint.position for shard, checkpoint in moved.items()}, {})
        if changes.issued:
            self._on_issued()
        return Taken(len(batch), {shard: record.position for shard, record in last.items()}, {})

    async def _try_to_take_over(self) -> None:
        behind = await self._read_models.take_over(self._projection, self._build)
        if not behind:
            log.info("a read model was replaced", build=self.subscriber)
            self.shown.set()
        elif behind < NEARLY:
            await self._read_models.hold(self._projection)

    async def _changes(self, batch: Sequence[EventRecord]) -> Changes:
        """Fold a batch, with the rows that the projection looks at.

        They are read before the transaction: one shard feeds them, so what they are at its checkpoint they still are
        where the transaction finds that unmoved.
        """
        decoded = self._folder.decode(batch)
        if not self._folder.reads_rows:
            return self._folder.fold(decoded)
        rows = await self._read_models.rows(self._projection, self._folder.reads(decoded), self._build)
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
        reason = str(error)
        log.error(
            "a projection can't apply an event; its shard waits",
            build=self.subscriber,
            reason=reason,
            **described(record),
        )
        if isinstance(error, ProjectionFailed):
            return error
        return ProjectionFailed(self._projection.name, record.stream, record.version, record.type, str(error))


class RebuildSink(ProjectionSink):
    """Fills one build of a projection, and lets somebody else say when it takes over."""

    def __init__(
        self,
        read_models: ReadModels,
        projection: type[Projection],
        events: EventRegistry,
        build: Build,
        issuing: Issuing | None = None,
    ) -> None:
        super().__init__(read_models, projection, events, issuing)
        self._build = build

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        """Raises ReadModelMissing where the build has been given up, ReadModelUnavailable."""
        if self._issuing is not None:
            await self._issuing.begin(begin)
        found = await self._read_models.checkpoints(self._projection, self._build, begin.keys())
        if found.keys() != begin.keys():
            raise ReadModelMissing(self._projection.name, "its database")
        return found

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Raises ReadModelUnavailable, and ReadModelMissing where the build has been given up."""
        return await self._take(batch)


class ProjectionSubscriber(Subscriber):
    """Follows some shards for a projection; who waits for an event waits until it can be read."""

    def __init__(
        self,
        store: EventReader,
        read_models: ReadModels,
        projection: type[Projection],
        events: EventRegistry,
        shards: Iterable[int] = (),
        *,
        start: Start = "beginning",
        limits: SubscriberLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        issuing: Issuing | None = None,
        on_issued: Callable[[], None] = lambda: None,
    ) -> None:
        """`start`: from where on a process manager issues commands; a read model begins where the log does.

        Raises InvalidValue where the projection's methods are none (see `Projection.event_methods`).
        """
        projection_sink = ProjectionSink(read_models, projection, events, issuing, on_issued)
        super().__init__(store, projection_sink, shards, start=start, limits=limits, clock=clock)
        self._shown = projection_sink.shown

    async def wait_for(self, shard: int, position: int, timeout_s: float) -> None:
        began = time.monotonic()
        await super().wait_for(shard, position, timeout_s)
        if self._shown.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - began)):
                await self._shown.wait()
        except TimeoutError as error:
            reason = " Its read model is being rebuilt; the older version is read meanwhile."
            raise ConsistencyTimeout(self.sink.name, shard, position, timeout_s, position, reason) from error


def _together(parts: Sequence[Taken]) -> Taken:
    """What was taken in parts, of one shard in their order."""
    positions = {shard: position for part in parts for shard, position in part.positions.items()}
    failed = {shard: error for part in parts for shard, error in part.failed.items()}
    return Taken(sum(part.applied for part in parts), positions, failed)
