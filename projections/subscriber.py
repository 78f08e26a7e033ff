"""Following the log into a read model: pushed records for latency, the store for the truth.

A `ProjectionRunner` follows some shards for one projection. It knows no Ray: `host.py` runs it in an actor, tests call
`step()`. Not here: SQL (`read_models.py`), what a projection makes of an event (`folding.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from projections.errors import ConsistencyTimeout, NotFollowed, ProjectionFailed, ReadModelRejected, RestoredBehind
from projections.folding import Folder
from projections.projection import Projection
from projections.read_models import Advance, Checkpoint, ReadModels
from store.codec import EventRegistry
from store.errors import EventrayError
from store.ports import EventReader
from store.records import EventRecord


@dataclass(frozen=True)
class RunnerLimits:
    """Bounds of one runner."""

    batch_size_max: int = 5_000
    """Events applied in one transaction."""
    buffer_size_max: int = 50_000
    """Pushed events held; what is pushed past it is read from the store later."""
    apply_interval_s: float = 0.04
    """Between the beginnings of two transactions, unless a reader waits or a whole batch is there: each costs as much
    as a hundred events, and what it takes from a small machine the hosts miss."""
    heads_interval_s: float = 1.0
    """How often checkpoints are compared with the store's heads."""
    retry_first_s: float = 0.2
    retry_max_s: float = 30.0


class Progress(NamedTuple):
    """What one step did."""

    applied: int
    """Events by which checkpoints moved, those of types that the projection doesn't handle too."""
    more: bool
    """There is more to do at once."""


class Lag(NamedTuple):
    """How far a projection is behind the log, and why."""

    subscriber: str
    shards: int
    applied: int
    """Events since this runner started."""
    behind: int
    """Events in the log and not in the read model, as of `heads_age_s` ago."""
    heads_age_s: float
    """Since the heads were last read from the store. Where it grows, `behind` says nothing."""
    blocked: dict[int, str]
    """Shards that stand still, and the error each waits for."""
    failure: str
    """Why nothing is applied at all; empty if all is well."""


@dataclass
class Trouble:
    """Something that failed and is tried again."""

    reason: str
    attempts: int
    retry_at: float

    @classmethod
    def after(cls, earlier: Trouble | None, error: EventrayError, now: float, limits: RunnerLimits) -> Trouble:
        """The next trouble, tried again after twice the time."""
        attempts = earlier.attempts + 1 if earlier else 1
        delay_s: float = min(limits.retry_max_s, limits.retry_first_s * 2 ** min(attempts - 1, 20))
        return cls(str(error), attempts, now + delay_s)


class ProjectionRunner:
    """One projection, following some shards. It belongs to one event loop; `lag` may be called from any thread."""

    def __init__(
        self,
        store: EventReader,
        read_models: ReadModels,
        projection: type[Projection],
        events: EventRegistry,
        shards: Iterable[int],
        *,
        limits: RunnerLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises InvalidValue where the projection's methods are none (see `Projection.event_methods`)."""
        self.projection = projection
        self._store, self._read_models, self._clock = store, read_models, clock
        self._folder = Folder(projection, events)
        self._shards = sorted(set(shards))
        self._limits = limits or RunnerLimits()
        self._checkpoints: dict[int, int] = {}
        self._next: dict[int, int] = {}
        """The position each shard's next record must have; between checkpoint and here is what is queued."""
        self._queue: list[EventRecord] = []
        self._behind: set[int] = set()
        """Shards of which something has to be read from the store."""
        self._heads: dict[int, int] = {}
        self._heads_read_at = 0.0
        self._blocked: dict[int, Trouble] = {}
        self._failure: Trouble | None = None
        self._ended = ""
        self._waiters: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}
        self._applied = 0
        self._wake = asyncio.Event()
        self._stopping = False

    # Feeding and asking

    def push(self, records: Sequence[EventRecord]) -> None:
        """Take committed records, each shard's in position order; never waits.

        What comes twice is trimmed; after a gap, or beyond the bound, the shard is read from the store instead.
        """
        following, queue = self._next, self._queue
        room = self._limits.buffer_size_max - len(queue)
        for record in records:
            expected = following.get(record.shard)
            if expected is None or record.position < expected:
                continue
            if record.position == expected and room > 0 and record.shard not in self._blocked:
                queue.append(record)
                following[record.shard] = expected + 1
                room -= 1
            else:
                self._behind.add(record.shard)
        self._wake.set()

    async def wait_for(self, shard: int, position: int, timeout_s: float) -> None:
        """Return once the read model holds the shard's events up to `position`.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a shard that isn't followed here.
        """
        if shard not in self._checkpoints:
            raise NotFollowed(self.projection.name, shard)
        if self._checkpoints[shard] >= position:
            return
        if self._next[shard] <= position:
            self._behind.add(shard)
        waiter = (position, asyncio.get_running_loop().create_future())
        self._waiters.setdefault(shard, []).append(waiter)
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_s):
                await waiter[1]
        except TimeoutError as error:
            reached, reason = self._checkpoints[shard], self._reason(shard)
            raise ConsistencyTimeout(self.projection.name, shard, position, timeout_s, reached, reason) from error
        finally:
            self._waiters[shard].remove(waiter)

    def lag(self) -> Lag:
        """Return how far behind this runner is and what keeps it."""
        checkpoints, heads = dict(self._checkpoints), dict(self._heads)
        return Lag(
            subscriber=self.projection.subscriber(),
            shards=len(self._shards),
            applied=self._applied,
            behind=sum(max(0, heads.get(shard, 0) - position) for shard, position in checkpoints.items()),
            heads_age_s=self._clock() - self._heads_read_at,
            blocked={shard: trouble.reason for shard, trouble in dict(self._blocked).items()},
            failure=self._ended or (self._failure.reason if self._failure else ""),
        )

    # Running

    async def start(self) -> None:
        """Make the read model where it is missing, and find where to go on.

        Raises RestoredBehind if the log isn't the one that was applied, ReadModelVersion, ReadModelUnavailable and the
        store's errors. To be called before `step` and `run`.
        """
        found = await self._read_models.prepare(self.projection, self._shards)
        for shard, checkpoint in found.items():
            await self._check_restored(shard, checkpoint)
        self._go_on_from(found)
        await self._compare_heads()

    async def run(self) -> None:
        """Follow the log until `stop`. What fails is tried again, ever more slowly; `lag` tells."""
        try:
            while not self._stopping:
                began = self._clock()
                try:
                    applied, more = await self.step()
                    self._failure = None
                    if applied:
                        await self._gather(began + self._limits.apply_interval_s)
                except EventrayError as error:
                    self._failure = Trouble.after(self._failure, error, self._clock(), self._limits)
                    more = False
                if not more:
                    await self._rest()
                await asyncio.sleep(0)  # a step may have awaited nothing that is not at hand; let others have a turn
        except Exception as error:
            self._ended = f"It has ended: {error!r}"
            raise

    def stop(self) -> None:
        """Let `run` return after the step under way."""
        self._stopping = True
        self._wake.set()

    async def step(self) -> Progress:
        """Read what is missing, then apply what is queued, in one transaction for all shards.

        Raises ReadModelUnavailable and the store's errors; the step may then be taken again.
        """
        now = self._clock()
        due = [shard for shard, trouble in self._blocked.items() if trouble.retry_at <= now]
        if now - self._heads_read_at >= self._limits.heads_interval_s:
            await self._compare_heads()
        await self._read_missing(due)
        batch = self._queue[: self._limits.batch_size_max]
        applied = 0
        if batch:
            try:
                applied = await self._apply(batch)
            except (ProjectionFailed, ReadModelRejected):
                applied = await self._apply_apart(batch)
        return Progress(applied, bool(self._queue) or bool(self._behind - self._blocked.keys()))

    async def _rest(self) -> None:
        """Sleep until something is pushed or asked, or something is due; while failing, until the retry is due."""
        if self._failure is None:
            moments = [self._heads_read_at + self._limits.heads_interval_s]
            moments += [trouble.retry_at for trouble in self._blocked.values()]
        else:
            moments = [self._failure.retry_at]
        while not self._stopping and (delay_s := min(moments) - self._clock()) > 0:
            try:
                async with asyncio.timeout(delay_s):
                    await self._wake.wait()
            except TimeoutError:
                return
            self._wake.clear()
            if self._failure is None:
                return

    async def _gather(self, until: float) -> None:
        """Let events come together until then, or till a reader waits for one or a batch is full."""
        while not (self._stopping or any(self._waiters.values()) or len(self._queue) >= self._limits.batch_size_max):
            try:
                async with asyncio.timeout(until - self._clock()):
                    self._wake.clear()
                    await self._wake.wait()
            except TimeoutError:
                self._wake.set()
                return

    # Steps of a step

    async def _check_restored(self, shard: int, checkpoint: Checkpoint) -> None:
        if checkpoint.position:
            records = await self._store.read_shard(shard, checkpoint.position - 1, 1)
            if not records:
                raise RestoredBehind(self.projection.name, shard, checkpoint.position, "ends before it")
            if records[0].event_id != checkpoint.event_id:
                raise RestoredBehind(self.projection.name, shard, checkpoint.position, "has another event there")

    def _go_on_from(self, found: dict[int, Checkpoint]) -> None:
        """Forget what is queued of these shards and go on from these checkpoints."""
        self._queue = [record for record in self._queue if record.shard not in found]
        for shard, checkpoint in found.items():
            self._next[shard] = checkpoint.position + 1
            self._behind.add(shard)
            self._reach(shard, checkpoint.position)

    async def _compare_heads(self) -> None:
        self._heads = await self._store.heads()
        self._heads_read_at = self._clock()
        self._behind |= {shard for shard, expected in self._next.items() if self._heads.get(shard, 0) >= expected}

    async def _read_missing(self, due: Sequence[int]) -> None:
        """Read from the store what pushes left out, as long as the batch has room; `due` shards are tried again."""
        for shard in sorted(self._behind):
            room = self._limits.batch_size_max - len(self._queue)
            if room <= 0:
                return
            if shard in self._blocked and shard not in due:
                continue
            after = self._next[shard] - 1
            records = await self._store.read_shard(shard, after, room)
            if len(records) < room:
                self._behind.discard(shard)
            if not records:
                self._blocked.pop(shard, None)
            # Pushes may have gone on meanwhile: what they brought is left out here.
            fresh = [record for record in records if record.position >= self._next[shard]]
            if fresh and fresh[0].position == self._next[shard]:
                self._queue += fresh
                self._next[shard] = fresh[-1].position + 1

    async def _apply(self, batch: list[EventRecord]) -> int:
        """Apply records, the next of each shard in order; return by how many events the checkpoints moved.

        Raises ProjectionFailed and ReadModelRejected where an event can't be applied.
        """
        changes = self._folder.fold(batch)
        last = {record.shard: record for record in batch}
        advances = [
            Advance(shard, self._checkpoints[shard], record.position, record.event_id) for shard, record in last.items()
        ]
        moved = await self._read_models.apply(self.projection, advances, changes)
        if moved:
            # Another runner has been here: what it applied counts, what is queued may be old.
            self._go_on_from(moved)
            return 0
        done = {shard: record.position for shard, record in last.items()}
        self._queue = [r for r in self._queue if r.position > done.get(r.shard, 0)]
        for shard, position in done.items():
            self._blocked.pop(shard, None)
            self._reach(shard, position)
        self._applied += len(batch)
        return len(batch)

    async def _apply_apart(self, batch: list[EventRecord]) -> int:
        """Apply each shard's records by themselves, so that those that can't be applied hold up their shard only."""
        by_shard: dict[int, list[EventRecord]] = {}
        for record in batch:
            by_shard.setdefault(record.shard, []).append(record)
        return sum([await self._apply_halving(records) for records in by_shard.values()])

    async def _apply_halving(self, records: list[EventRecord]) -> int:
        """Apply one shard's records up to the first that can't be, found by halving; that one blocks the shard."""
        shard = records[0].shard
        try:
            return await self._apply(records)
        except (ProjectionFailed, ReadModelRejected) as error:
            if len(records) == 1:
                self._block(records[0], error)
                return 0
        middle = len(records) // 2
        applied = await self._apply_halving(records[:middle])
        if self._checkpoints[shard] == records[middle].position - 1:
            applied += await self._apply_halving(records[middle:])
        return applied

    def _block(self, record: EventRecord, error: EventrayError) -> None:
        if isinstance(error, ReadModelRejected):
            error = ProjectionFailed(self.projection.name, record.stream, record.version, record.type, str(error))
        shard = record.shard
        self._blocked[shard] = Trouble.after(self._blocked.get(shard), error, self._clock(), self._limits)
        self._go_on_from({shard: Checkpoint(self._checkpoints[shard], record.event_id)})

    def _reach(self, shard: int, position: int) -> None:
        self._checkpoints[shard] = position
        for wanted, waiter in self._waiters.get(shard, ()):
            if wanted <= position and not waiter.done():
                waiter.set_result(None)

    def _reason(self, shard: int) -> str:
        trouble = self._blocked.get(shard) or self._failure
        return f" {trouble.reason}" if trouble else ""
