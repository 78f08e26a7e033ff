"""How a process begins with a handler whose last process may have been ended by an event: what others do meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from actors.customers import OrderCreated
from projections.errors import Undeliverable
from projections.handler import Handler, Policy
from projections.handler_sink import HandlerSink
from projections.progress import SubscriberLimits
from projections.subscriber import Subscriber
from store import EventStore, StoreUnavailable
from store.forwarding import Forwarding
from tests.contract.conftest import Opener
from tests.logs import EVENTS, Log, created, ordered

LIMITS = SubscriberLimits(heads_interval_s=0.0, apply_interval_s=0.0, retry_first_s=0.0, retry_max_s=0.0)
QUICK = Policy(attempts_max=3, wait_first_s=0.001, wait_max_s=0.002, concurrency=1)


class Notes(Handler, start="beginning", policy=QUICK):
    """Notes the orders that it is called with, and does what it is told meanwhile."""

    def __init__(self, meanwhile: Callable[[OrderCreated], Awaitable[None]] | None = None) -> None:
        self.calls: list[str] = []
        self.meanwhile = meanwhile

    async def on_ordered(self, event: OrderCreated) -> None:
        self.calls.append(event.order_id)
        if self.meanwhile is not None:
            await self.meanwhile(event)


class LosingReplies(Forwarding):
    """Loses the reply to a call of a method, once it was done."""

    def __init__(self, inner: EventStore, method: str) -> None:
        self.inner, self.method, self.lost = inner, method, False

    async def _lose(self, method: str, result: Any) -> Any:
        if method == self.method and not self.lost:
            self.lost = True
            raise StoreUnavailable("no reply", True)
        return result

    async def advance(self, handler: str, advances: Any, parks: Any, passed: Any) -> dict[int, int]:
        moved: dict[int, int] = await self._lose("advance", await self.inner.advance(handler, advances, parks, passed))
        return moved

    async def unpark(self, before: Any, checkpoint: int) -> bool:
        return bool(await self._lose("unpark", await self.inner.unpark(before, checkpoint)))


def follower(store: EventStore, handler: Handler, shards: Any = None) -> Subscriber:
    sink = HandlerSink(store, handler, EVENTS)
    return Subscriber(store, sink, range(store.shards) if shards is None else shards, start="beginning", limits=LIMITS)


async def settle(subscriber: Subscriber) -> None:
    still = 0
    async with asyncio.timeout(20):
        while still < 3:
            progress = await subscriber.step()
            still = 0 if progress.applied or subscriber.lag().blocked else still + 1
            await asyncio.sleep(0.001)


@pytest.fixture
async def log(store: EventStore) -> Log:
    return await Log.on(store)


async def test_one_that_was_superseded_within_a_call_puts_nobody_back(
    log: Log, store: EventStore, open_another: Opener
) -> None:
    """The call fails once its successor has taken that event and all later ones, and parked a key."""
    await log.write(created("a"), *(ordered("a", str(number)) for number in range(1, 6)))
    shard = log.record(created("a")).shard
    other = await open_another()

    async def refuse(event: OrderCreated) -> None:
        if event.order_id == "a-5":
            raise Undeliverable("never")

    successor_notes = Notes(refuse)
    successor = follower(other, successor_notes, [shard])

    async def superseded(_event: OrderCreated) -> None:
        loop_work = asyncio.run_coroutine_threadsafe(take_all(), loop)
        await asyncio.wrap_future(loop_work)
        raise RuntimeError("too late")

    async def take_all() -> None:
        await successor.start()
        await settle(successor)

    loop = asyncio.get_running_loop()
    late = follower(store, Notes(superseded), [shard])
    await late.start()
    await late.step()
    assert (await store.checkpoints("Notes"))[shard].position == 6
    assert [row.position for row in await store.parked("Notes")] == [6]
    assert [row.wish for row in await store.parked("Notes")] == [""]
    calls = len(successor_notes.calls)
    await settle(successor)
    assert len(successor_notes.calls) == calls


@pytest.mark.parametrize("method", ["advance", "unpark"])
async def test_a_lost_reply_leaves_no_key_parked_and_no_order_changed(log: Log, store: EventStore, method: str) -> None:
    await log.write(ordered("a", "1"))
    notes, losing, now = Notes(), LosingReplies(store, method), [0.0]
    limits = replace(LIMITS, heads_interval_s=1.0)
    sink = HandlerSink(losing, notes, EVENTS)
    subscriber = Subscriber(losing, sink, range(store.shards), start="beginning", limits=limits, clock=lambda: now[0])
    await subscriber.start()
    with pytest.raises(StoreUnavailable):
        await subscriber.step()
    await subscriber.step()  # before it is looked where checkpoints are
    subscriber.push(await log.write(ordered("a", "2")))
    await subscriber.step()
    for _ in range(5):
        now[0] += 1.0
        await subscriber.step()
    assert losing.lost
    assert await store.parked("Notes") == []
    assert notes.calls in (["a-1", "a-2"], ["a-1", "a-1", "a-2"])


async def test_where_the_store_fails_for_one_shard_the_calls_of_others_end_first(log: Log, store: EventStore) -> None:
    """Else their events would come again while the handler is still at them."""
    by_shard = {record.shard: key for key in "abcdef" for record in await log.write(ordered(key, "1"))}
    failing = min(by_shard)
    assert len(by_shard) >= 4
    under_way: list[str] = []

    async def slowly(event: OrderCreated) -> None:
        under_way.append(event.customer_id)
        await asyncio.sleep(0.1)
        under_way.remove(event.customer_id)

    class Away(Forwarding):
        def __init__(self, inner: EventStore) -> None:
            self.inner = inner

        async def advance(self, handler: str, advances: Any, parks: Any, passed: Any) -> dict[int, int]:
            if advances[0].shard == failing:
                await wait_until(lambda: len(under_way) == 3)
                raise StoreUnavailable("away", True)
            return await self.inner.advance(handler, advances, parks, passed)

    class Slow(Notes, policy=replace(QUICK, concurrency=4)):
        pass

    subscriber = follower(Away(store), Slow(slowly))
    await subscriber.start()
    with pytest.raises(StoreUnavailable):
        await subscriber.step()
    assert under_way == []


async def wait_until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def test_a_shard_whose_turn_was_cut_short_is_begun_warily_nevertheless(
    log: Log, store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first shard's call takes the whole turn; the event that may end the process is in another one."""
    monkeypatch.setattr("projections.handler_sink.TURN_S", 0.02)
    keys = ["a", "b", "c", "d", "e", "f"]
    await log.write(*(ordered(key, "1") for key in keys))
    parked: dict[str, list[str]] = {}

    async def look(event: OrderCreated) -> None:
        rows = asyncio.run_coroutine_threadsafe(store.parked("Notes"), loop)
        parked[event.customer_id] = [row.partition_key for row in await asyncio.wrap_future(rows)]
        await asyncio.sleep(0.03)

    loop = asyncio.get_running_loop()
    subscriber = follower(store, Notes(look))
    await subscriber.start()
    await settle(subscriber)
    first_of_their_shards = {record.shard: key for key in reversed(keys) for record in [log.record(created(key))]}
    for key in first_of_their_shards.values():
        assert key in parked[key]
