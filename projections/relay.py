"""Sending what is in an outbox: each partition key's commands in their order, one at a time, the keys side by side.

What fails is tried again for ever, ever more slowly, and holds up its own key only: keys whose command has failed get
half of the room at most, however many they are, and the shards take turns where there is no room for all. Sending twice
is harmless, since a command's id is in the log for ever: so whoever believes that a shard is its own may send, and a
crash at any place is followed by sending again. For one event loop. Not here: the outbox (`outbox.py`), how a command
reaches its host (`Commands` is a port).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import structlog

from actors.errors import CommandIdReused, DomainError, InvalidCommand
from projections.errors import ReadModelUnavailable
from projections.handler import Policy
from projections.issuing import Issued
from projections.outbox import Outbox
from projections.outbox_sql import Ending, Outcome, Waiting
from projections.progress import SubscriberLimits, Trouble
from store.errors import EventrayError, StoreRejected, told

log = structlog.get_logger(__name__)

NEVER = (InvalidCommand, CommandIdReused, StoreRejected)
"""What no later attempt would change: the command leaves the outbox, is counted as failed, and its key goes on."""

ATTEMPTS_COUNTED_MAX = 30
"""After so many failures a key's rest is the longest."""

FAILURES = SubscriberLimits()
"""How long the relay rests where the outbox can't be reached."""
RETRIES = Policy(wait_first_s=0.5, wait_max_s=60.0)


class Commands(Protocol):
    """Whoever carries commands to the hosts."""

    async def submit(self, command: Issued) -> None:
        """Return once the command is decided and its events are stored, now or by an earlier sending.

        Raises DomainError for a refusal, and other EventrayErrors where it was not decided or nobody knows.
        """
        ...


@dataclass(frozen=True)
class RelayLimits:
    """Bounds of one relay."""

    under_way_max: int = 1_000
    """Commands that are read from the outbox and not settled yet."""
    of_one_key_max: int = 20
    """Of these, those of one partition key, so that one with many leaves room to others."""
    resting_max: int = 10_000
    """Partition keys whose next attempt is not due; while there are as many, no other key is looked for."""
    look_interval_s: float = 1.0
    """How often the outbox is looked into without a reason: what a process that died has left is found then."""
    settle_interval_s: float = 0.04
    """Between two transactions, so that outcomes come together."""
    retries: Policy = RETRIES
    """How long a partition key rests after a failure; there is no last attempt."""
    stop_s: float = 1.0
    """How long what is under way may take when the relay stops."""


class Sending(NamedTuple):
    """The commands of one partition key that are under way."""

    task: asyncio.Task[None]
    commands: int
    again: bool
    """Whether the first of them has failed before."""


class RelayState(NamedTuple):
    """How a relay is."""

    process_manager: str
    under_way: int
    """Partition keys whose commands are being sent."""
    resting: int
    """Partition keys whose last command has failed and is to be tried again."""
    acknowledged: int
    """Since it was started here, as the two below."""
    refused: int
    failed: int
    failure: str
    """Why nothing is sent at all; empty if all is well."""
    failing_s: float
    """For how long that has been so."""


class Relay:
    """Sends the commands of one process manager that follow from events of the shards that are followed here."""

    def __init__(
        self,
        outbox: Outbox,
        commands: Commands,
        shards: Callable[[], Collection[int]],
        limits: RelayLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._outbox, self._commands, self._shards, self._clock = outbox, commands, shards, clock
        self._name = outbox.process_manager.name
        self._limits = limits or RelayLimits()
        self._sending: dict[str, Sending] = {}
        """By partition key; also what has ended and is not settled."""
        self._resting: dict[str, float] = {}
        """When the next attempt is due, by partition key."""
        self._outcomes: list[Outcome] = []
        self._counts = dict.fromkeys(Ending, 0)
        self._failure: Trouble | None = None
        self._look_soon = True
        self._looked_at = float("-inf")
        self._last_shard = -1
        """The next look begins behind it."""
        self._wake, self._stop = asyncio.Event(), asyncio.Event()
        self._settled = asyncio.Event()
        """Replaced by another each time that something is settled."""
        self._watched = 0
        """Who waits for that."""

    def wake(self) -> None:
        """There may be something to send."""
        self._look_soon = True
        self._wake.set()

    def state(self) -> RelayState:
        """Return how it is; may be called from any thread."""
        failure, counts = self._failure, self._counts
        return RelayState(
            process_manager=self._name,
            under_way=len(self._sending),
            resting=len(self._resting),
            acknowledged=counts[Ending.ACKNOWLEDGED],
            refused=counts[Ending.REFUSED],
            failed=counts[Ending.FAILED],
            failure=failure.reason if failure else "",
            failing_s=self._clock() - failure.since if failure else 0.0,
        )

    async def until_sent(self, shard: int, position: int) -> None:
        """Return once no command waits that follows from an event of the shard up to that position, whoever sends it.

        Where the read models can't be reached, it waits until they can. Raises ReadModelMissing, ReadModelVersion.
        """
        self._watched += 1
        try:
            while True:
                settled = self._settled
                self.wake()
                with suppress(ReadModelUnavailable):
                    if not await self._outbox.holds(shard, position):
                        return
                await _within(settled, self._limits.look_interval_s)  # another process may send it
        finally:
            self._watched -= 1

    async def run(self) -> None:
        """Send until `stop`. Where the outbox can't be reached, it is tried again, ever more slowly."""
        try:
            while not self._stop.is_set():
                began = self._clock()
                try:
                    await self.step()
                    self._failure = None
                except EventrayError as error:
                    self._failure = Trouble.after(self._failure, error, self._clock(), FAILURES)
                await self._rest(began)
            await self._end()
        finally:
            tasks = [sending.task for sending in self._sending.values()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def stop(self) -> None:
        """Let `run` return soon. What is not acknowledged by then stays in the outbox."""
        self._stop.set()
        self._wake.set()

    async def step(self) -> None:
        """Settle what has come of the commands that were sent, then begin to send what waits, as far as there is room.

        Raises what `Outbox` does; the step may then be taken again.
        """
        await self._settle()
        now = self._clock()
        due = sorted((until, key) for key, until in self._resting.items() if until <= now)[: self._room_to_retry()]
        for _, key in due:
            del self._resting[key]
        if self._look_soon or due or now - self._looked_at >= self._limits.look_interval_s:
            await self._look(now)

    async def _settle(self) -> None:
        if outcomes := list(self._outcomes):
            await self._outbox.settle(outcomes)
            del self._outcomes[: len(outcomes)]
            for outcome in outcomes:
                self._counts[outcome.ending] += 1
                if outcome.ending is Ending.AGAIN:
                    rest_s = self._limits.retries.wait_s(min(outcome.waiting.attempts + 1, ATTEMPTS_COUNTED_MAX))
                    self._resting[outcome.waiting.command.partition_key] = self._clock() + rest_s
            settled, self._settled = self._settled, asyncio.Event()
            settled.set()
        unsettled = {outcome.waiting.command.partition_key for outcome in self._outcomes}
        for key, sending in list(self._sending.items()):
            if sending.task.done() and key not in unsettled:
                del self._sending[key]
                self._look_soon = True

    async def _look(self, now: float) -> None:
        """Read what is to be sent, but for the keys that are busy: what they have left comes after what they are at."""
        room = self._limits.under_way_max - sum(sending.commands for sending in self._sending.values())
        if room <= 0 or not self._shards() or len(self._resting) >= self._limits.resting_max:
            self._look_soon, self._looked_at = False, now
            return
        waiting = await self._read(room)
        self._look_soon, self._looked_at = len(waiting) == room, now
        by_key: dict[str, list[Waiting]] = {}
        for each in waiting:
            by_key.setdefault(each.command.partition_key, []).append(each)
        room_to_retry = self._room_to_retry()
        for key, mine in by_key.items():
            again = mine[0].attempts > 0
            if again and room_to_retry <= 0:
                self._resting[key] = now
                continue
            room_to_retry -= again
            first = mine[: 1 if again else self._limits.of_one_key_max]
            task = asyncio.create_task(self._send(first), name=f"{self._name} sends to {key}")
            task.add_done_callback(lambda _: self._wake.set())
            self._sending[key] = Sending(task, len(first), again)

    async def _read(self, room: int) -> list[Waiting]:
        """Read from the shards behind the last one that had more than there was room for, then from the others."""
        busy, last = [*self._sending, *self._resting], self._last_shard
        waiting: list[Waiting] = []
        for shards in ([s for s in self._shards() if s > last], [s for s in self._shards() if s <= last]):
            if shards and len(waiting) < room:
                waiting += await self._outbox.waiting(shards, busy, room - len(waiting))
        self._last_shard = waiting[-1].command.shard if len(waiting) == room else -1
        return waiting

    def _room_to_retry(self) -> int:
        """Return how many more keys may be sent to whose last command has failed."""
        under_way = sum(sending.commands for sending in self._sending.values() if sending.again)
        return max(0, max(1, self._limits.under_way_max // 2) - under_way)

    async def _send(self, waiting: Sequence[Waiting]) -> None:
        """Send the commands of one partition key, each once the one before it is done with.

        Those of a shard that is let go of meanwhile are left to whoever follows it now.
        """
        for each in waiting:
            if each.command.shard not in self._shards():
                return
            outcome = await self._attempt(each)
            self._outcomes.append(outcome)
            self._wake.set()
            if outcome.ending is Ending.AGAIN:
                return

    async def _attempt(self, waiting: Waiting) -> Outcome:
        command = waiting.command
        try:
            await self._commands.submit(command)
        except DomainError as error:
            return Outcome(waiting, Ending.REFUSED, str(error))
        except NEVER as error:
            log.warning("a command can never succeed", command=command.command_id, reason=str(error))
            return Outcome(waiting, Ending.FAILED, str(error))
        except EventrayError as error:
            log.info("a command is tried again", command=command.command_id, reason=str(error))
            return Outcome(waiting, Ending.AGAIN, str(error))
        except Exception as error:
            log.warning("sending a command has failed", command=command.command_id, exc_info=error)
            return Outcome(waiting, Ending.AGAIN, told(error))
        return Outcome(waiting, Ending.ACKNOWLEDGED)

    async def _rest(self, began: float) -> None:
        """Sleep until something happens or is due, and let outcomes come together; while failing, until the retry."""
        if self._failure is not None:
            await _within(self._stop, self._failure.retry_at - self._clock())
            return
        if not self._look_soon:
            retries = self._resting.values() if self._room_to_retry() else ()
            due = min([self._looked_at + self._limits.look_interval_s, *retries])
            await _within(self._wake, due - self._clock())
        self._wake.clear()
        gather_s = 0.0 if self._watched else began + self._limits.settle_interval_s - self._clock()
        await _within(self._stop, gather_s)

    async def _end(self) -> None:
        """Give what is under way a moment, and settle what came of it."""
        if self._sending:
            await asyncio.wait([sending.task for sending in self._sending.values()], timeout=self._limits.stop_s)
        try:
            await self._settle()
        except EventrayError as error:
            log.warning("what was sent last will be sent again", process_manager=self._name, reason=str(error))


async def _within(event: asyncio.Event, timeout_s: float) -> None:
    """Return once the event is set, or after that time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(max(0.0, timeout_s)):
            await event.wait()
