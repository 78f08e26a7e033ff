"""Following the log: pushed records for latency, the store for the truth.

A `Subscriber` follows some shards for one sink, which does something with the events and keeps how far it is. It knows
no Ray: `host.py` runs it in an actor, tests call `step()`. Not here: what sinks do, what waits to be taken
(`backlog.py`), who waits for it (`waiters.py`), its bounds and what is told of it (`progress.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import structlog

from projections.backlog import Backlog
from projections.errors import ConsistencyTimeout, NotFollowed, RestoredBehind
from projections.progress import Lag, Progress, Start, SubscriberLimits, Trouble
from projections.sink import Sink
from projections.waiters import Waiters
from store.errors import EventrayError
from store.ports import EventReader
from store.records import Checkpoint, EventRecord

log = structlog.get_logger(__name__)


class Subscriber:
    """A sink, fed with some shards. It belongs to one event loop; `lag` may be called from any thread."""

    def __init__(
        self,
        store: EventReader,
        sink: Sink,
        shards: Iterable[int] = (),
        *,
        start: Start = "beginning",
        limits: SubscriberLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.sink = sink
        self._store, self._clock = store, clock
        self._first = frozenset(shards)
        self._begin = start
        self._limits = limits or SubscriberLimits()
        self._checkpoints: dict[int, int] = {}
        self._backlog = Backlog(self._limits.buffer_size_max)
        self._heads: dict[int, int] = {}
        self._heads_read_at = 0.0
        self._blocked: dict[int, Trouble] = {}
        self._failure: Trouble | None = None
        self._ended = ""
        self._not_followed = ""
        """Why it could not follow shards that it was last told to."""
        self._waiters = Waiters()
        self._applied = 0
        self._gap_reads = 0
        self._wake = asyncio.Event()
        self._turn = asyncio.Lock()
        """A step, or a change of the shards."""
        self._stopping = False
        self._to_finish = False

    @property
    def shards(self) -> frozenset[int]:
        """Those that are followed now."""
        return frozenset(self._checkpoints)

    # Feeding and asking

    def push(self, records: Sequence[EventRecord]) -> None:
        """Take committed records, each shard's in position order; never waits.

        What comes twice is trimmed; after a gap, or beyond the bound, the shard is read from the store instead.
        """
        self._backlog.push(records, self._blocked)
        self._wake.set()

    async def wait_for(self, shard: int, position: int, timeout_s: float) -> None:
        """Return once the shard's events up to `position` are taken.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a shard that isn't followed here.
        """
        if shard not in self._checkpoints:
            raise NotFollowed(self.sink.name, shard)
        if self._checkpoints[shard] >= position:
            return
        self._backlog.wants(shard, position)
        self._wake.set()
        try:
            await self._waiters.wait(shard, position, timeout_s)
        except TimeoutError as error:
            reached, reason = self._checkpoints.get(shard, 0), self._reason(shard)
            raise ConsistencyTimeout(self.sink.name, shard, position, timeout_s, reached, reason) from error

    def lag(self) -> Lag:
        """Return how far behind it is and what keeps it."""
        checkpoints, heads = dict(self._checkpoints), dict(self._heads)
        return Lag(
            subscriber=self.sink.subscriber,
            shards=len(checkpoints),
            applied=self._applied,
            behind=sum(max(0, heads.get(shard, 0) - position) for shard, position in checkpoints.items()),
            heads_age_s=self._clock() - self._heads_read_at,
            blocked={shard: trouble.reason for shard, trouble in dict(self._blocked).items()},
            failure=self._ended or self._not_followed or (self._failure.reason if self._failure else ""),
            gap_reads=self._gap_reads,
        )

    # Running

    async def start(self) -> None:
        """Follow the shards that it was made for. To be called before `step` and `run`. Raises what `follow` does."""
        await self.follow(self._first)

    async def follow(self, shards: Iterable[int]) -> None:
        """Follow these shards from now on and no others, after the step under way; `run` may go on meanwhile.

        The sink makes what it lacks for the new ones, and says where to go on. Who waits for one that is let go of
        gets NotFollowed. Raises RestoredBehind if the log isn't the one that was taken, and the sink's and the store's
        errors: then none of the new ones is followed, and those that were to be let go of are.
        """
        wanted = frozenset(shards)
        async with self._turn:
            self._let_go(self.shards - wanted)
            if new := wanted - self.shards:
                try:
                    await self._take_up(new, wanted)
                except EventrayError as error:
                    self._not_followed = str(error)
                    raise
            self._not_followed = ""
        self._wake.set()

    def _let_go(self, shards: Collection[int]) -> None:
        if not shards:
            return
        for shard in shards:
            self._checkpoints.pop(shard, None)
            self._blocked.pop(shard, None)
            self._waiters.give_up(shard, NotFollowed(self.sink.name, shard))
        self._backlog.let_go(shards)
        self.sink.let_go(shards)

    async def _take_up(self, new: Collection[int], wanted: Collection[int]) -> None:
        begin = dict.fromkeys(wanted, Checkpoint(0, None))
        if self._begin == "now":
            begin |= await self._ends(new)
        found = await self.sink.prepare(begin)
        for shard in new:
            await self._check_restored(shard, found[shard])
        at = {shard: checkpoint.position for shard, checkpoint in found.items()}
        self._go_on_from({shard: at[shard] for shard in wanted if self._checkpoints.get(shard) != at[shard]})
        await self._compare_heads()

    async def run(self) -> None:
        """Follow the log until `stop`. What fails is tried again, ever more slowly; `lag` tells."""
        try:
            while not self._stopping:
                began = self._clock()
                try:
                    applied, more = await self.step()
                    self._failure = None
                    if applied and not self._to_read():
                        await self._gather(began + self._interval_s(self._clock() - began))
                except EventrayError as error:
                    self._failure = Trouble.after(self._failure, error, self._clock(), self._limits)
                    more = False
                if not more:
                    await self._rest()
                await asyncio.sleep(0)  # a step may have awaited nothing that is not at hand; let others have a turn
            if self._to_finish:
                await self._take_the_rest()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._ended = f"It has ended: {error!r}"
            raise

    def stop(self) -> None:
        """Let `run` return after the step under way."""
        self._stopping = True
        self._wake.set()

    def finish(self) -> None:
        """Let `run` return once all that the log then holds has been taken, or at what can't be taken now."""
        self._to_finish = True
        self.stop()

    async def step(self) -> Progress:
        """Read what is missing, then let the sink take what is queued of all shards.

        Raises the sink's and the store's errors; the step may then be taken again.
        """
        async with self._turn:
            return await self._step()

    async def _step(self) -> Progress:
        now = self._clock()
        due = [shard for shard, trouble in self._blocked.items() if trouble.retry_at <= now]
        if now - self._heads_read_at >= self._limits.heads_interval_s:
            if self._checkpoints:
                self._go_on_from(await self.sink.tend())
            await self._compare_heads()
        await self._read_missing(due)
        batch = self._backlog.records[: self._limits.batch_size_max]
        applied = await self._take(batch) if batch else 0
        return Progress(applied, bool(self._backlog.records or self._to_read()))

    async def _take_the_rest(self) -> None:
        """Who reads after a graceful end finds all that was acknowledged."""
        try:
            await self._compare_heads()
            while (await self.step()).more:
                pass
        except EventrayError as error:
            log.warning("a subscriber ends behind the log", subscriber=self.sink.name, reason=str(error))

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

    def _interval_s(self, took_s: float) -> float:
        """Return how long after the beginning of a step that took so long the next one begins."""
        share = self._limits.apply_share
        return min(self._limits.apply_interval_s, took_s / share) if share else self._limits.apply_interval_s

    async def _gather(self, until: float) -> None:
        """Let events come together until then, or till a reader waits for one or a batch is full."""
        full = self._limits.batch_size_max
        while not (self._stopping or self._waiters or len(self._backlog.records) >= full):
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
                raise self._restored(shard, checkpoint.position, "ends before it")
            if records[0].event_id != checkpoint.event_id:
                raise self._restored(shard, checkpoint.position, "has another event there")

    def _restored(self, shard: int, position: int, found: str) -> RestoredBehind:
        return RestoredBehind(self.sink.name, shard, position, found, self.sink.restored_remedy)

    async def _ends(self, shards: Iterable[int]) -> dict[int, Checkpoint]:
        """Return where each shard's log ends, as a checkpoint there."""
        ends: dict[int, Checkpoint] = {}
        heads = await self._store.heads()
        for shard in shards:
            if not heads.get(shard):
                continue
            for record in await self._store.read_shard(shard, heads[shard] - 1, 1):
                ends[shard] = Checkpoint(record.position, record.event_id)
        return ends

    def _go_on_from(self, positions: Mapping[int, int]) -> None:
        """Forget what waits of these shards and go on behind these positions."""
        self._backlog.go_on_from(positions)
        for shard, position in positions.items():
            self._reach(shard, position)

    async def _compare_heads(self) -> None:
        self._heads = await self._store.heads()
        self._heads_read_at = self._clock()
        self._backlog.compare(self._heads)

    def _to_read(self) -> set[int]:
        """Return the shards that are to be read from the store at once."""
        return self._backlog.behind - self._blocked.keys()

    async def _read_missing(self, due: Sequence[int]) -> None:
        """Read from the store what pushes left out, as long as the batch has room; `due` shards are tried again."""
        backlog, of_one_max = self._backlog, self._limits.of_one_shard_max
        waiting = (
            Counter(record.shard for record in backlog.records) if of_one_max < self._limits.batch_size_max else {}
        )
        for shard in sorted(backlog.behind):
            room = self._limits.batch_size_max - len(backlog.records)
            if room <= 0:
                return
            room = min(room, of_one_max - waiting.get(shard, 0))
            if room <= 0 or (shard in self._blocked and shard not in due):
                continue
            records = await backlog.read(self._store, shard, room)
            if not records:
                self._blocked.pop(shard, None)
            self._gap_reads += backlog.add(shard, records)

    async def _take(self, batch: list[EventRecord]) -> int:
        """Let the sink take records; return by how many events it moved the checkpoints."""
        taken = await self.sink.take(batch)
        first = {record.shard: record.position for record in reversed(batch)}
        last = {record.shard: record.position for record in batch}
        done: dict[int, int] = {}
        for shard, position in taken.positions.items():
            if shard in taken.failed:
                earlier, delay_s = self._blocked.get(shard), taken.again_in_s.get(shard)
                self._blocked[shard] = Trouble.after(earlier, taken.failed[shard], self._clock(), self._limits, delay_s)
                self._go_on_from({shard: position})
            elif first[shard] - 1 <= position <= last[shard]:
                done[shard] = position
            else:
                # Another subscriber of this name has been here: what it took counts, what is queued may be old.
                self._go_on_from({shard: position})
        self._backlog.taken(done)
        for shard, position in done.items():
            self._blocked.pop(shard, None)
            self._reach(shard, position)
        self._applied += taken.applied
        return taken.applied

    def _reach(self, shard: int, position: int) -> None:
        self._checkpoints[shard] = position
        self._waiters.reach(shard, position)

    def _reason(self, shard: int) -> str:
        trouble = self._blocked.get(shard) or self._failure
        return f" {trouble.reason}" if trouble else ""
