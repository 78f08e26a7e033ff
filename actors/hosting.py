"""A host without Ray: the shards it owns, the calls that come in, and the loops that serve them.

`execute` admits a call's commands to their shards, lets these decide what they can, and waits for the answers. Not
here: how calls arrive (`host.py` is the Ray actor), who owns what (the coordinator), how a shard decides (`shard.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from actors.errors import InvalidCommand, NotOwner, Overloaded, StaleCall
from actors.health import HostHealth
from actors.limits import HostLimits
from actors.loading import FIRST_STREAMS, Loaded, load_aggregates
from actors.mail import OpenCall, Pending, Turn
from actors.new_streams import NewStreams
from actors.passivation import forget_unused
from actors.registry import AggregateRegistry
from actors.shard import Shard, Wants
from actors.snapshot_keeper import SnapshotKeeper
from actors.wire import Call, CommandMessage, Receipt, pack_answers, unpack_call
from actors.writer import Publish, Writer
from store import EventrayError, EventRecord, EventStore, StoreUnavailable
from store.errors import told
from store.identity import shard_of
from store.logs import subject

log = structlog.get_logger(__name__)

Answered = Callable[[Call, OpenCall], None]
"""Hears of each call that is answered, once its answers are packed."""


class HostCore:
    """All state of one host."""

    def __init__(
        self,
        name: str,
        store: EventStore,
        registry: AggregateRegistry,
        limits: HostLimits,
        publish: Publish,
        answered: Answered | None = None,
    ) -> None:
        """`publish` gets each commit's records, in commit order; `answered` each call. Neither may block or raise."""
        self.name = name
        self._store = store
        self._registry = registry
        self._limits = limits
        self._answered = answered
        self._shards: dict[int, Shard] = {}
        self._snapshots = SnapshotKeeper(store)
        self._new_streams = NewStreams(limits.presume_new_after)
        self._writer = Writer(store, self._shards, publish, self._advance, self._spawn, self._new_streams)
        self._sessions: OrderedDict[str, int] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._first_streams = FIRST_STREAMS
        self._arrivals = 0
        self._open_calls: set[OpenCall] = set()
        self._held_back: list[Shard] = []
        """Shards that have mail and may not decide it until something is stored; the next to do so first."""
        self._pending_commands = 0
        self._pending_bytes = 0
        self._duplicates = 0
        self._health = HostHealth({}, {}, 0, 0, 0.0, 0.0, 0, 0, 0)
        self._beat_at_s = time.monotonic()
        self._failure: BaseException | None = None

    def start(self) -> None:
        """Start the loops, on the running event loop."""
        self._spawn(self._writer.run())
        self._spawn(self._snapshots.run())
        self._spawn(self._beat())

    async def stop(self) -> None:
        """Finish what is under way, then end the loops. Calls that come later are answered NotOwner."""
        try:
            if self._failure is None:
                await self.release(list(self._shards))
                await self._snapshots.write_all()
        except BaseException as error:
            self._fail(error)  # who waits for what it was to finish
            raise
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    # --- ownership ---

    async def claim(self, shards: Iterable[int]) -> dict[int, int]:
        """Claim those of the shards that are assigned to this host; return their epochs. They are served from now on.

        A shard that it held before starts anew, with empty memory.
        """
        claims = await self._store.claim(self.name, shards)
        self._check()
        for number, claim in claims.items():
            former = self._shards.get(number)
            self._shards[number] = Shard(
                number, claim, self._registry, self._store.store_id, self._snapshots, self._new_streams
            )
            if former is not None:
                former.drop()
        self._advance(())  # what was dropped may have held others back
        if claims:
            epochs = sorted({claim.epoch for claim in claims.values()})
            log.info("shards are served from now on", shards=list(claims), epochs=epochs)
        return {number: claim.epoch for number, claim in claims.items()}

    async def release(self, shards: Iterable[int]) -> None:
        """Finish what these shards have in hand, then forget them; new commands are answered NotOwner at once."""
        leaving = [self._shards[number] for number in shards if number in self._shards]
        for shard in leaving:
            shard.releasing = True
        while not all(shard.idle for shard in leaving):
            self._check()
            await asyncio.sleep(0.005)
        for shard in leaving:
            if self._shards.get(shard.number) is shard:
                del self._shards[shard.number]
        log.info("shards are released", shards=[shard.number for shard in leaving])

    # --- calls ---

    async def execute(self, call: bytes) -> bytes:
        """Execute one packed call; return its packed answers in the order of its commands.

        Raises StaleCall for a number that is not above the session's last one.
        """
        self._check()
        arrived_s = time.monotonic()
        request = unpack_call(call)
        self._accept_number(request)
        open_call = OpenCall(len(request.commands), arrived_s)
        if self._has_room(len(request.commands), len(call)):
            await self._work_off(request, open_call, len(call))
        else:
            for index in range(len(request.commands)):
                open_call.answer(index, Overloaded(self._limits.retry_after_ms))
        answers = [answer for answer in open_call.answers if answer is not None]
        self._duplicates += sum(type(answer) is Receipt and answer.duplicate for answer in answers)
        packed = pack_answers(answers)
        if self._answered is not None:
            self._answered(request, open_call)
        return packed

    async def _work_off(self, request: Call, open_call: OpenCall, size: int) -> None:
        """Return once each command of the call has its answer."""
        self._pending_commands += len(request.commands)
        self._pending_bytes += size
        self._open_calls.add(open_call)
        try:
            try:
                touched = self._admit(request, open_call)
            except Exception as error:  # noqa: BLE001 - what is in the mail already, nobody would decide
                self._fail(error)
            else:
                self._advance(touched)
            await open_call.done
        finally:
            self._open_calls.discard(open_call)
            self._pending_commands -= len(request.commands)
            self._pending_bytes -= size

    def _accept_number(self, request: Call) -> None:
        if request.number <= self._sessions.get(request.session, -1):
            raise StaleCall(request.number)
        self._sessions[request.session] = request.number
        self._sessions.move_to_end(request.session)
        if len(self._sessions) > self._limits.sessions_max:
            self._sessions.popitem(last=False)

    def _has_room(self, commands: int, size: int) -> bool:
        """Whether the host can hold this call too; an empty host takes any call."""
        if not self._pending_commands:
            return True
        return (
            self._pending_commands + commands <= self._limits.pending_commands_max
            and self._pending_bytes + size <= self._limits.pending_bytes_max
        )

    def _admit(self, request: Call, open_call: OpenCall) -> list[Shard]:
        """Put a call's commands into their shards' mail; return those shards."""
        now_s = open_call.arrived_s
        touched: dict[int, Shard] = {}
        for index, message in enumerate(request.commands):
            shard = self._shards.get(message.shard)
            epoch = request.epochs.get(message.shard)
            if shard is None or shard.epoch != epoch or shard.releasing:
                open_call.answer(index, NotOwner(message.shard, epoch or 0))
                continue
            try:
                binding, command = self._registry.decode_command(message.command_type, message.data)
                _check_shard(message, binding.partition_key(command), self._store.shards)
            except InvalidCommand as error:
                open_call.answer(index, error)
                continue
            self._arrivals += 1
            shard.admit(Pending(self._arrivals, now_s, message, binding, command, open_call, index))
            touched[message.shard] = shard
        return list(touched.values())

    def _advance(self, shards: Iterable[Shard]) -> None:
        """Let these shards decide what they can; then wake the writer, or first read what they lack.

        What a shard raises here is no answer to anybody: the host has failed, and decides nothing more, since an
        aggregate may be half changed.
        """
        if self._failure is not None:
            return
        try:
            self._decide(shards)
        except BaseException as error:
            self._fail(error)
            if not isinstance(error, Exception):
                raise

    def _decide(self, shards: Iterable[Shard]) -> None:
        """As `_advance`.

        A call is answered once all its commands are, so that what was decided before the reading is stored with what is
        decided after it: one commit instead of two, and the second would wait for the first.
        """
        turn = Turn(time.monotonic(), time.time_ns() // 1000)
        lacking: list[tuple[Shard, Wants]] = []
        decided = False
        room_bytes = self._limits.unstored_bytes_max - sum(shard.unstored_bytes for shard in self._shards.values())
        after_a_turn: list[Shard] = []
        due, self._held_back = dict.fromkeys((*self._held_back, *shards)), []
        for shard in due:
            before_bytes = shard.unstored_bytes
            shard.decide(turn, room_bytes)
            room_bytes -= shard.unstored_bytes - before_bytes
            if shard.has_decided:
                decided = True
                self._writer.offer(shard)
            if room_bytes <= 0 and shard.inbox:
                (after_a_turn if shard.unstored_bytes > before_bytes else self._held_back).append(shard)
                continue
            if shard.inbox and not shard.busy:
                wants = shard.wants()
                if wants.keys or wants.streams:
                    shard.loading = wants
                    lacking.append((shard, wants))
        subject.set(None)  # each command that was decided has set it
        turn.ended_s = time.monotonic()
        self._held_back += after_a_turn
        if lacking:
            self._spawn(self._load(lacking))
        elif decided:
            self._writer.wake()

    # --- reading ---

    async def _load(self, lacking: list[tuple[Shard, Wants]]) -> None:
        """Read what these shards want, all ids and all streams together. Retried while it may pass."""
        keys = {key for _, wants in lacking for key in wants.keys}
        by_shard = sorted(lacking, key=lambda each: each[0].number)
        streams = dict.fromkeys(stream for _, wants in by_shard for stream in wants.streams)
        found: dict[tuple[int, str, str], EventRecord] = {}
        loaded = Loaded({}, {}, [], self._first_streams)
        broken: EventrayError | None = None
        try:
            async for attempt in AsyncRetrying(retry=_may_pass, wait=wait_random_exponential(0.02, 1), reraise=True):
                with attempt:
                    found = await self._store.find_commands(keys) if keys else {}
                    if streams:
                        loaded = await load_aggregates(
                            self._store, streams, self._registry, self._snapshots.snapshots, self._first_streams
                        )
                        self._first_streams = loaded.first_streams
        except StoreUnavailable as error:
            broken = error
        self._snapshots.take_long(loaded.long, time.time_ns() // 1000)
        for shard, wants in lacking:
            if broken is not None:
                shard.refuse_mail(wants, broken)
                continue
            shard.fill(
                wants,
                found,
                # Each goes to one shard only: another that wants the same stream reads it for itself.
                {stream: loaded.aggregates.pop(stream) for stream in wants.streams if stream in loaded.aggregates},
                {stream: loaded.unreadable[stream] for stream in wants.streams if stream in loaded.unreadable},
                time.monotonic(),
            )
        self._advance(shard for shard, _ in lacking)
        self._writer.wake()  # also for those who lacked nothing, and where something is lacking still

    # --- health ---

    def health(self) -> HostHealth:
        """Say how the host is. May be called from any thread, also while the event loop is blocked.

        Raises RuntimeError where it has failed.
        """
        self._check()
        age_s = time.monotonic() - self._beat_at_s
        oldest_s = self._health.oldest_pending_s
        return self._health._replace(loop_age_s=age_s, oldest_pending_s=oldest_s + age_s if oldest_s else 0.0)

    async def _beat(self) -> None:
        while True:
            limits = self._limits
            forget_unused(self._shards.values(), limits.live_aggregates_max, time.monotonic() - limits.live_idle_s)
            self._take_health()
            await asyncio.sleep(self._limits.beat_s)

    def _take_health(self) -> None:
        now_s = time.monotonic()
        owned = list(self._shards.values())
        oldest_s = min((s.oldest_arrival_s for s in owned if s.oldest_arrival_s is not None), default=now_s)
        self._health = HostHealth(
            shards={shard.number: shard.epoch for shard in owned},
            heads={shard.number: shard.stored_head for shard in owned},
            live_aggregates=sum(len(shard.live) for shard in owned),
            pending_commands=self._pending_commands,
            oldest_pending_s=now_s - oldest_s,
            loop_age_s=0.0,
            commits=self._writer.commits,
            events=self._writer.events,
            fenced=self._writer.fenced,
            unknown_outcomes=self._writer.unknown_outcomes,
            duplicates=self._duplicates,
            snapshots=self._snapshots.snapshots.counts,
        )
        self._beat_at_s = now_s

    # --- tasks ---

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        """Serve nobody from now on; who waits is told."""
        if self._failure is not None:
            return
        self._failure = error
        for open_call in self._open_calls:
            open_call.fail(RuntimeError(f"host {self.name} failed: {told(error)}"))
        for task in self._tasks:
            task.cancel()
        log.error("the host has failed; it serves nothing from now on", host=self.name, exc_info=error)

    def _check(self) -> None:
        """Raise what the host failed of: it serves nobody and is replaced."""
        if self._failure is not None:
            raise RuntimeError(f"host {self.name} failed") from self._failure


def _check_shard(message: CommandMessage, partition_key: str, shards: int) -> None:
    """Raise InvalidCommand for a command that its client counted to another shard: its stream would be torn apart."""
    if shard_of(partition_key, shards) != message.shard:
        remedy = f"{partition_key!r} is of shard {shard_of(partition_key, shards)}: use this store's number of shards"
        raise InvalidCommand("shard", str(message.shard), remedy)


def _may_pass(state: RetryCallState) -> bool:
    error = state.outcome.exception() if state.outcome else None
    return isinstance(error, StoreUnavailable) and error.passing
