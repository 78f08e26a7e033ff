"""The sink of a handler: each event to its method, at least once, in the order of its partition key.

An event that can't be taken parks its key: it and all later ones of the key wait in the log, told by one row of the
store. Checkpoints and rows move together (`store.ports.Parking`), so that nothing is left out, whoever else acts under
this name. Not here: calling the method (`deliveries.py`), taking up a key again (`draining.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

import structlog

from projections.calling import Stopping
from projections.deliveries import AroundCall, Deliveries, Failure, nothing_around
from projections.draining import UNDER_WAY, drain
from projections.errors import CallInterrupted, DeliveryFailed, HandlerStuck, TooManyParked
from projections.handler import Handler
from projections.rewinding import checkpoint_at
from projections.sink import Taken
from store.codec import EventRegistry
from store.errors import EventrayError
from store.identity import shard_of
from store.logs import described
from store.ports import EventStore
from store.records import IMPORTED, Advance, Checkpoint, EventRecord, ParkedKey, micros

log = structlog.get_logger(__name__)

TURN_S = 0.5
"""After so long in one batch checkpoints are due: what was taken since comes again if this process dies."""


class HandlerState(NamedTuple):
    """How a handler is."""

    handler: str
    off: str
    """Why it does nothing here; empty: it is on."""
    handled: int
    """Events that it took, since it was started here."""
    failed: int
    """Attempts that failed."""
    skipped: int
    """Events that were left out after their last attempt."""
    parked: int
    """Partition keys of the shards followed here that are parked now."""
    stuck: int
    """Calls that were given up and have not returned."""


@dataclass
class ShardTurn:
    """What one batch did in one shard."""

    shard: int
    before: int
    """The position before the batch."""
    last: EventRecord | None = None
    """The last event that is done with; None: none is."""
    taken: int = 0
    parks: list[ParkedKey] = field(default_factory=list)
    passed: set[str] = field(default_factory=set)
    """Keys that are parked and of which events were left in the log."""
    begun: bool = False
    """An event was taken warily."""
    error: EventrayError | None = None
    again_in_s: float = 0.0


class HandlerSink:
    """One handler's sink; see `Sink`."""

    def __init__(
        self,
        store: EventStore,
        handler: Handler,
        events: EventRegistry,
        clock: Callable[[], float] = time.monotonic,
        around_call: AroundCall = nothing_around,
    ) -> None:
        """Raises InvalidValue where a method of the handler is none for its type."""
        self.name = self.subscriber = handler.name
        self.restored_remedy = f"run `eventray replay --handler {handler.name} --from now`: it goes on with what is new"
        self._store, self._clock = store, clock
        self._policy = handler.policy
        self._deliveries = Deliveries(handler, events, around_call)
        self._positions: dict[int, int] = {}
        self._parked: set[str] = set()
        """Keys of the shards followed here."""
        self._wary: set[int] = set()
        """Shards of which no turn went through here yet that took an event."""
        self._attempts: dict[int, tuple[bytes, int]] = {}
        """By shard: the event that failed last, and how often."""
        self._skipped = 0
        self._stopping = False

    def state(self) -> HandlerState:
        """Return how it is; may be called from any thread."""
        deliveries = self._deliveries
        counts = (deliveries.handled, deliveries.failed, self._skipped, len(self._parked), deliveries.stuck)
        return HandlerState(self.name, "", *counts)

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        imported = await self._store.checkpoints(IMPORTED)
        begin = {shard: max(place, imported.get(shard, place), key=_position) for shard, place in begin.items()}
        found = await self._store.keep_checkpoints(self.subscriber, begin)
        self._positions = {shard: checkpoint.position for shard, checkpoint in found.items()}
        self._wary |= found.keys()
        await self._read_parked()
        return found

    def let_go(self, shards: Collection[int]) -> None:
        for shard in shards:
            self._positions.pop(shard, None)
            self._attempts.pop(shard, None)
            self._wary.discard(shard)
        self._parked = {key for key in self._parked if shard_of(key, self._store.shards) not in shards}

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Give the handler one event after the other, several shards at once, for about half a second.

        An event that it fails at is tried again later, and its shard waits; after the last attempt its key is parked.
        Raises StoreUnavailable: then what was taken comes again.
        """
        by_shard: dict[int, list[EventRecord]] = {}
        for record in batch:
            by_shard.setdefault(record.shard, []).append(record)
        slots, until = asyncio.Semaphore(self._policy.concurrency), self._clock() + TURN_S
        turns = await _all_ended(*(self._take_shard(records, slots, until) for records in by_shard.values()))
        moved = await self._keep([turn for turn in turns if turn.last is not None])
        positions = {turn.shard: moved.get(turn.shard, turn.before) for turn in turns}
        failed = {turn.shard: turn.error for turn in turns if turn.error is not None}
        self._wary -= {turn.shard for turn in turns if turn.begun and turn.error is None}
        again_in_s = {turn.shard: turn.again_in_s for turn in turns if turn.error is not None}
        applied = sum(turn.taken for turn in turns if turn.last and positions[turn.shard] == turn.last.position)
        return Taken(applied, positions, failed, again_in_s)

    async def tend(self) -> dict[int, int]:
        """See where checkpoints were put from outside, and take up the parked keys that somebody wants to be."""
        found = await self._store.checkpoints(self.subscriber)
        moved = {
            shard: found[shard].position
            for shard, position in self._positions.items()
            if shard in found and found[shard].position != position
        }
        self._positions |= moved
        if moved:
            self._attempts.clear()
        wished = await self._store.parked(self.subscriber, wished=True) if self._parked else []
        until = self._clock() + TURN_S
        for row in [row for row in wished if row.shard in self._positions]:
            at = self._positions[row.shard]
            is_over = lambda: self._stopping or self._clock() > until  # noqa: E731 - read at once, and at each event
            await drain(self._store, self._deliveries, row, at, self._policy, is_over)
        if moved or wished:
            await self._read_parked()
        return moved

    def stop(self) -> None:
        """Take no further event, and let calls under way end soon."""
        self._stopping = True
        self._deliveries.stop()

    def close(self) -> None:
        """Let go of the handler's threads."""
        self._deliveries.close()

    # --- a batch ---

    async def _take_shard(self, records: Sequence[EventRecord], slots: asyncio.Semaphore, until: float) -> ShardTurn:
        turn = ShardTurn(records[0].shard, records[0].position - 1)
        here: set[str] = set()
        for record in records:
            if self._deliveries.wants(record):
                if record.partition_key in self._parked:
                    turn.passed.add(record.partition_key)
                elif record.partition_key not in here:
                    handle = self._handle_warily if turn.shard in self._wary else self._handle
                    async with slots:
                        if self._stopping or self._clock() > until or not await handle(record, turn):
                            break
                    here = {park.partition_key for park in turn.parks}
            turn.last, turn.taken = record, turn.taken + 1
        return turn

    async def _handle_warily(self, record: EventRecord, turn: ShardTurn) -> bool:
        """As `_handle`, where a process begins: its predecessor may have been ended by this very event.

        So the event is parked before the call, to be retried; a process that ends within the call leaves the row, with
        its attempts, to the next. Afterwards the row is gone again, or all is as it was before.
        """
        shard, before, passed = turn.shard, turn.before, turn.passed
        row = parked_at(self.name, record, 1, Failure(UNDER_WAY, "", False, 0.0))._replace(wish="retry")
        advance = Advance(shard, before, record.position, record.event_id)
        moved = await self._store.advance(self.subscriber, [advance], [row], {shard: passed} if passed else {})
        if row not in await self._store.parked(self.subscriber, wished=True):
            return await self._leave(turn, moved[shard])  # to who has moved it: another, or a call whose reply was lost
        turn.before, turn.passed = record.position, set()
        if not await self._handle(record, turn):
            at = await checkpoint_at(self._store, shard, before)
            back = Advance(shard, record.position, before, at.event_id)
            moved = await self._store.advance(self.subscriber, [back], [], {shard: {record.partition_key}})
            if moved[shard] != before:
                return await self._leave(turn, moved[shard])
            turn.before, turn.passed = before, passed
            await self._unpark(row, before)
            return False
        if turn.parks:
            await self._store.keep_parked(row, turn.parks.pop())
            self._parked.add(record.partition_key)
        else:
            await self._unpark(row, record.position)
        turn.begun = True
        return True

    async def _leave(self, turn: ShardTurn, position: int) -> bool:
        """Go on where somebody else has put the shard, and with what is parked there."""
        turn.before, turn.last, turn.error = position, None, None
        await self._read_parked()
        return False

    async def _unpark(self, row: ParkedKey, checkpoint: int) -> None:
        if await self._store.unpark(row, checkpoint):
            self._parked.discard(row.partition_key)
        else:
            await self._read_parked()

    async def _handle(self, record: EventRecord, turn: ShardTurn) -> bool:
        """Give the handler an event; return whether the shard may go on behind it."""
        try:
            failure = await self._deliveries.deliver(record)
        except Stopping:
            return False
        except (CallInterrupted, HandlerStuck) as error:
            turn.error, turn.again_in_s = error, self._policy.wait_first_s
            return False
        if failure is None:
            self._attempts.pop(record.shard, None)
            return True
        return self._failed(record, failure, turn)

    def _failed(self, record: EventRecord, failure: Failure, turn: ShardTurn) -> bool:
        event_id, attempts = self._attempts.get(record.shard, (b"", 0))
        attempts = attempts + 1 if event_id == record.event_id else 1
        self._attempts[record.shard] = record.event_id, attempts
        about = {"handler": self.name, "attempts": attempts, **described(record)}
        what = (record.stream, record.version, record.type, failure.error)
        if attempts < self._policy.attempts_max and not failure.final:
            log.info("a handler failed at an event; it is tried again", reason=failure.error, **about)
            turn.error = DeliveryFailed(self.name, *what)
            turn.again_in_s = max(self._policy.wait_s(attempts), failure.after_s)
            return False
        if self._policy.then == "skip":
            log.warning("a handler failed at an event; it is left out", reason=failure.error, **about)
            self._skipped += 1
            return True
        if len(self._parked) + len(turn.parks) >= self._policy.parked_max:
            log.error("a handler stands still: it has parked as many keys as it may", reason=failure.error, **about)
            turn.error = TooManyParked(self.name, len(self._parked), *what)
            turn.again_in_s = self._policy.wait_max_s
            return False
        log.warning("a handler failed at an event; its key is parked", reason=failure.error, **about)
        turn.parks.append(parked_at(self.name, record, attempts, failure))
        return True

    async def _keep(self, turns: Sequence[ShardTurn]) -> dict[int, int]:
        """Move the checkpoints, and park; return where they are. After another's doing all is read anew."""
        advances = [
            Advance(turn.shard, turn.before, turn.last.position, turn.last.event_id) for turn in turns if turn.last
        ]
        if not advances:
            return {}
        parks = [park for turn in turns for park in turn.parks]
        passed = {turn.shard: turn.passed for turn in turns if turn.passed}
        moved = await self._store.advance(self.subscriber, advances, parks, passed)
        self._positions |= moved
        if any(moved[advance.shard] != advance.to_position for advance in advances):
            await self._read_parked()
        else:
            self._parked |= {park.partition_key for park in parks}
        return moved

    async def _read_parked(self) -> list[ParkedKey]:
        rows = [row for row in await self._store.parked(self.subscriber) if row.shard in self._positions]
        self._parked = {row.partition_key for row in rows}
        return rows


async def _all_ended(*turns: Awaitable[ShardTurn]) -> list[ShardTurn]:
    """Return what they come to. Raises the first one's error once all have ended: none goes on beside the next."""
    ended = await asyncio.gather(*turns, return_exceptions=True)
    for each in ended:
        if isinstance(each, BaseException):
            raise each
    return [each for each in ended if isinstance(each, ShardTurn)]


def parked_at(handler: str, record: EventRecord, attempts: int, failure: Failure) -> ParkedKey:
    """Return the row that parks an event's key at this event."""
    now = micros(datetime.now(UTC))
    return ParkedKey(
        handler,
        record.partition_key,
        record.shard,
        record.position,
        record.event_id,
        attempts,
        failure.error,
        failure.traceback,
        parked_at=now,
        failed_at=now,
    )


def _position(checkpoint: Checkpoint) -> int:
    return checkpoint.position
