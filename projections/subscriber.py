"""Following the log: pushed records for latency, the store for the truth.

A `Subscriber` follows some shards for one sink, which does something with the events and keeps how far it is. It knows
no Ray: `host.py` runs it in an actor, tests call `step()`. Not here: what sinks do.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import structlog

from projections.errors import ConsistencyTimeout, NotFollowed, RestoredBehind
from projections.sink import Sink
from store.errors import EventrayError
from store.ports import EventReader
from store.records import Checkpoint, EventRecord

log = structlog.get_logger(__name__)

Start = Literal["beginning", "now"]
"""Where a subscriber begins that has no checkpoint yet: at the log's beginning, or behind all that is in it."""


@dataclass(frozen=True)
class SubscriberLimits:
    """Bounds of one subscriber."""

    batch_size_max: int = 5_000
    """Events applied in one transaction."""
    of_one_shard_max: int = 50_000
    """Of the events that are read from the store and wait, those of one shard, so that one with many leaves room to
    others."""
    buffer_size_max: int = 50_000
    """Pushed events held; what is pushed past it is read from the store later."""
    apply_interval_s: float = 0.04
    """At most between the beginnings of two transactions, unless a reader waits or a whole batch is there: each costs
    as much as a hundred events, and what it takes from a small machine the hosts miss."""
    apply_share: float = 0.5
    """The interval is shorter where transactions are quick: they take this part of the time. 0: it is never shorter."""
    heads_interval_s: float = 1.0
    """How often checkpoints are compared with the store's heads."""
    retry_first_s: float = 0.2
    retry_max_s: float = 30.0


class Progress(NamedTuple):
    """What one step did."""

    applied: int
    """Events by which checkpoints moved, those of types that the sink doesn't want too."""
    more: bool
    """There is more to do at once."""


class Lag(NamedTuple):
    """How far a subscriber is behind the log, and why."""

    subscriber: str
    shards: int
    applied: int
    """Events since it was started here."""
    behind: int
    """Events in the log that it has not taken, as of `heads_age_s` ago."""
    heads_age_s: float
    """Since the heads were last read from the store. Where it grows, `behind` says nothing."""
    blocked: dict[int, str]
    """Shards that stand still, and the error each waits for."""
    failure: str
    """Why nothing is applied at all, or nothing of shards that are to be followed; empty if all is well."""
    gap_reads: int
    """How often the store was read for events that no push had brought."""


@dataclass
class Trouble:
    """Something that failed and is tried again."""

    reason: str
    attempts: int
    retry_at: float

    @classmethod
    def after(
        cls,
        earlier: Trouble | None,
        error: EventrayError,
        now: float,
        limits: SubscriberLimits,
        delay_s: float | None = None,
    ) -> Trouble:
        """The next trouble, tried again after twice the time, or after `delay_s`."""
        attempts = earlier.attempts + 1 if earlier else 1
        if delay_s is None:
            delay_s = min(limits.retry_max_s, limits.retry_first_s * 2 ** min(attempts - 1, 20))
        return cls(str(error), attempts, now + delay_s)


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
        self._not_followed = ""
        """Why it could not follow shards that it was last told to."""
        self._waiters: dict[int, list[tuple[int, asyncio.Future[None]]]] = {}
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
        """Return once the shard's events up to `position` are taken.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a shard that isn't followed here.
        """
        if shard not in self._checkpoints:
            raise NotFollowed(self.sink.name, shard)
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
            reached, reason = self._checkpoints.get(shard, 0), self._reason(shard)
            raise ConsistencyTimeout(self.sink.name, shard, position, timeout_s, reached, reason) from error
        finally:
            if shard in self._waiters:
                self._waiters[shard].remove(waiter)

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
        for shard in shards:
            for kept in (self._checkpoints, self._next, self._blocked):
                kept.pop(shard, None)
            self._behind.discard(shard)
            for _, waiter in self._waiters.pop(shard, ()):
                if not waiter.done():
                    waiter.set_exception(NotFollowed(self.sink.name, shard))
        if shards:
            self._queue = [record for record in self._queue if record.shard not in shards]
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
                    if applied and not self._behind - self._blocked.keys():
                        await self._gather(began + self._interval_s(self._clock() - began))
                except EventrayError as error:
                    self._failure = Trouble.after(self._failure, error, self._clock(), self._limits)
                    more = False
                if not more:
                    await self._rest()
                await asyncio.sleep(0)  # a step may have awaited nothing that is not at hand; let others have a turn
            if self._to_finish:
                await self._take_the_rest()
        except Exception as error:
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
        batch = self._queue[: self._limits.batch_size_max]
        applied = await self._take(batch) if batch else 0
        return Progress(applied, bool(self._queue) or bool(self._behind - self._blocked.keys()))

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
        """Forget what is queued of these shards and go on behind these positions."""
        self._queue = [record for record in self._queue if record.shard not in positions]
        for shard, position in positions.items():
            self._next[shard] = position + 1
            self._behind.add(shard)
            self._reach(shard, position)

    async def _compare_heads(self) -> None:
        self._heads = await self._store.heads()
        self._heads_read_at = self._clock()
        self._behind |= {shard for shard, expected in self._next.items() if self._heads.get(shard, 0) >= expected}

    async def _read_missing(self, due: Sequence[int]) -> None:
        """Read from the store what pushes left out, as long as the batch has room; `due` shards are tried again."""
        of_one_max = self._limits.of_one_shard_max
        queued = Counter(record.shard for record in self._queue) if of_one_max < self._limits.batch_size_max else {}
        for shard in sorted(self._behind):
            room = self._limits.batch_size_max - len(self._queue)
            if room <= 0:
                return
            room = min(room, of_one_max - queued.get(shard, 0))
            if room <= 0 or (shard in self._blocked and shard not in due):
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
                self._gap_reads += 1
                self._queue += fresh
                self._next[shard] = fresh[-1].position + 1

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
        self._queue = [record for record in self._queue if record.position > done.get(record.shard, 0)]
        for shard, position in done.items():
            self._blocked.pop(shard, None)
            self._reach(shard, position)
        self._applied += taken.applied
        return taken.applied

    def _reach(self, shard: int, position: int) -> None:
        self._checkpoints[shard] = position
        for wanted, waiter in self._waiters.get(shard, ()):
            if wanted <= position and not waiter.done():
                waiter.set_result(None)

    def _reason(self, shard: int) -> str:
        trouble = self._blocked.get(shard) or self._failure
        return f" {trouble.reason}" if trouble else ""
