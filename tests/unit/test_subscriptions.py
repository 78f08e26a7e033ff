"""The event bus: who subscribes gets each event, in shard order, and holds up nobody."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from decimal import Decimal
from typing import Any

import pytest

from actors.customers import CreateCustomer, CreateOrder, CustomerCreated, CustomerPromoted, OrderCreated, PromoteToVip
from cluster import subscriptions
from cluster.testing import InProcessRuntime
from cluster.transport import HostGone
from projections.errors import RestoredBehind
from projections.listening import Listeners
from store import Event, InvalidValue, open_store
from store.identity import uuid7
from store.records import Checkpoint, EventRecord

SOON_S = 5.0


def create(number: int) -> CreateCustomer:
    return CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com")


def order(number: int, customer: int = 1) -> CreateOrder:
    return CreateOrder(order_id=f"o-{number}", customer_id=f"c-{customer}", total_amount=Decimal("1.00"))


@pytest.fixture
def url() -> str:
    return f"memory://{uuid7()}"


@pytest.fixture
async def runtime(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcessRuntime]:
    monkeypatch.setattr(subscriptions, "STOP_S", 0.3)
    async with InProcessRuntime.open(url, shards=4) as opened:
        yield opened


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SOON_S):
        while not condition():
            await asyncio.sleep(0.001)


def ids(events: list[Any]) -> list[str]:
    return [event.order_id if isinstance(event, OrderCreated) else event.customer_id for event in events]


async def test_each_subscriber_gets_the_types_that_it_asks_for(runtime: InProcessRuntime) -> None:
    by_type: list[Any] = []
    by_base: list[Any] = []
    all_of_them: list[Any] = []

    async def append(event: Event) -> None:
        all_of_them.append(event)

    await runtime.subscribe(CustomerPromoted, by_type.append)
    await runtime.subscribe(Event, by_base.append)
    await runtime.subscribe(None, append)
    await runtime.submit_many([create(1), create(2), order(1), PromoteToVip(customer_id="c-1", reason="loyal")])
    await until(lambda: len(by_type) == 1 and len(by_base) == len(all_of_them) == 4)
    assert by_type[0].customer_id == "c-1"
    assert [event.version for event in all_of_them if event.customer_id == "c-1"] == [1, 1, 2]
    assert ids([event for event in by_base if event.customer_id == "c-1"]) == ["c-1", "o-1", "c-1"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"handler": 5}, "handler = 5"),
        ({"handler": None}, "handler = None"),
        ({"event_type": "x"}, "event_type = 'x'"),
        ({"event_type": int}, "event_type = int"),
        ({"name": "x\0"}, r"name = 'x\\x00'"),
        ({"name": "\ud800"}, r"name = '\\ud800'"),
        ({"name": 5}, "name = 5"),
        ({"name": []}, r"name = \[\]"),
        ({"name": ""}, "name = ''"),
        ({"name": " "}, "name = ' '"),
        ({"name": "x" * 201}, "name = 'xxx"),
        ({"start": "end"}, "start = 'end'"),
    ],
    ids=str,
)
async def test_what_can_not_be_subscribed_is_refused(
    runtime: InProcessRuntime, wrong: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidValue, match=f"^{field}"):
        await runtime.subscribe(**{"event_type": None, "handler": print, **wrong})
    if "handler" not in wrong:
        with pytest.raises(InvalidValue, match=f"^{field}"):
            await anext(runtime.stream(**wrong))


async def test_one_begins_now_or_with_the_log(runtime: InProcessRuntime) -> None:
    await runtime.submit(create(1))
    now: list[Any] = []
    beginning: list[Any] = []
    await runtime.subscribe(None, now.append)
    await runtime.subscribe(None, beginning.append, start="beginning")
    await runtime.submit(create(2))
    await until(lambda: len(now) == 1 and len(beginning) == 2)
    assert (ids(now), sorted(ids(beginning))) == (["c-2"], ["c-1", "c-2"])


async def test_a_named_one_goes_on_where_it_was(runtime: InProcessRuntime) -> None:
    named: list[Any] = []
    other: list[Any] = []
    subscription = await runtime.subscribe(None, named.append, name="audit")
    await runtime.subscribe(None, other.append)
    await runtime.submit(create(1))
    await until(lambda: len(named) == len(other) == 1)
    await runtime.unsubscribe(subscription)
    await runtime.submit(create(2))
    await until(lambda: len(other) == 2)
    assert ids(named) == ["c-1"]
    await runtime.subscribe(None, named.append, name="audit")
    await until(lambda: len(named) == 2)
    assert ids(named) == ["c-1", "c-2"]


async def test_a_named_one_goes_on_in_the_next_runtime_and_an_unnamed_one_has_left_nothing(url: str) -> None:
    store = await open_store(url, shards=4)  # a store in memory lasts as long as it is open
    got: dict[str, list[Any]] = {"audit": [], "unnamed": [], "again": []}
    async with InProcessRuntime.open(url) as runtime:
        await runtime.subscribe(None, got["audit"].append, name="audit")
        unnamed = await runtime.subscribe(None, got["unnamed"].append)
        await runtime.submit(create(1))
        await until(lambda: bool(got["audit"] and got["unnamed"]))
    assert len(await store.checkpoints("audit")) == 4
    assert await store.checkpoints(unnamed.name) == {}
    async with InProcessRuntime.open(url) as runtime:
        await runtime.submit(create(2))
        await runtime.subscribe(None, got["audit"].append, name="audit")
        await runtime.subscribe(None, got["again"].append)
        await runtime.submit(create(3))
        await until(lambda: len(got["audit"]) == 3 and bool(got["again"]))
    assert {name: sorted(ids(events)) for name, events in got.items()} == {
        "audit": ["c-1", "c-2", "c-3"],
        "unnamed": ["c-1"],
        "again": ["c-3"],
    }
    await store.close()


async def test_a_log_behind_the_progress_of_a_named_one_is_refused_with_the_remedy(
    url: str, runtime: InProcessRuntime
) -> None:
    receipt = await runtime.submit(create(1))
    store = await open_store(url, create=False)
    for position, found in ((receipt.position, "has another event there"), (receipt.position + 1, "ends before it")):
        await store.reset("flowers", {receipt.shard: Checkpoint(position, b"of another log")})
        with pytest.raises(RestoredBehind, match=f"{found}.*subscribe under another name"):
            await runtime.subscribe(None, print, name="flowers")
    seen: list[Any] = []
    await runtime.subscribe(None, seen.append, name="more flowers", start="beginning")
    await until(lambda: ids(seen) == ["c-1"])
    await store.close()


async def test_pushes_bring_events_before_the_log_is_looked_at(runtime: InProcessRuntime) -> None:
    got: list[float] = []
    await runtime.subscribe(CustomerCreated, lambda _event: got.append(time.monotonic()))
    await runtime.submit(create(0))
    await until(lambda: len(got) == 1)
    delays = []
    for number in range(1, 6):
        got.clear()
        await runtime.submit(create(number))
        stored = time.monotonic()
        await until(lambda: bool(got))
        delays.append(got[-1] - stored)
    assert sorted(delays)[2] < 0.3  # heads are compared each second


async def test_pushes_come_again_after_nobody_could_be_asked(
    runtime: InProcessRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = runtime._ports.subscriptions
    listen, failures = shared._listen, [HostGone("projections", "gone"), TimeoutError()]

    async def sometimes(listener: str, timeout_s: float) -> list[EventRecord]:
        if failures:
            raise failures.pop()
        return await listen(listener, timeout_s)

    monkeypatch.setattr(shared, "_listen", sometimes)
    monkeypatch.setattr(subscriptions, "LISTEN_PAUSE_S", 0.001)
    got: list[Any] = []
    await runtime.subscribe(CustomerCreated, got.append)
    await until(lambda: not failures)
    await runtime.submit(create(1))
    await until(lambda: len(got) == 1)
    assert shared._sharing is not None
    assert not shared._sharing.done()


async def test_a_slow_one_slows_neither_commands_nor_others(runtime: InProcessRuntime) -> None:
    never = threading.Event()
    stuck = asyncio.Event()
    got: list[Any] = []

    async def never_returns(event: Event) -> None:
        stuck.set()
        await asyncio.Event().wait()

    await runtime.subscribe(None, never_returns)
    await runtime.subscribe(None, lambda _event: never.wait())
    await runtime.subscribe(None, got.append)
    async with asyncio.timeout(SOON_S):
        await asyncio.gather(*(runtime.submit(create(number)) for number in range(50)))
        await stuck.wait()
    await until(lambda: len(got) == 50)
    never.set()
    assert {event.customer_id for event in got} == {create(number).customer_id for number in range(50)}


async def test_one_that_fails_tries_again_and_the_other_shards_go_on(runtime: InProcessRuntime) -> None:
    got: list[Any] = []
    failures = 2

    def fragile(event: CustomerCreated) -> None:
        nonlocal failures
        if event.customer_id == "c-1" and failures:
            failures -= 1
            raise RuntimeError("not yet")
        got.append(event)

    subscription = await runtime.subscribe(CustomerCreated, fragile)
    await runtime.submit(create(1))
    await until(lambda: bool(subscription.lag().blocked))
    ((shard, reason),) = subscription.lag().blocked.items()
    assert "not yet" in reason
    await runtime.submit_many([create(number) for number in range(2, 12)])
    await until(lambda: len(got) == 11)
    assert subscription.lag().blocked == {}
    assert ids(got)[0] != "c-1"
    assert shard in range(4)


async def test_a_stream_yields_events_and_ends_with_its_runtime(url: str) -> None:
    seen: list[Any] = []

    async def watch(runtime: InProcessRuntime) -> None:
        async for event in runtime.stream(OrderCreated, start="beginning"):
            assert isinstance(event, OrderCreated)
            seen.append(event)

    async with InProcessRuntime.open(url, shards=4) as runtime:
        await runtime.submit(create(1))
        watching = asyncio.create_task(watch(runtime))
        await runtime.submit_many([order(number) for number in range(5)])
        await until(lambda: len(seen) == 5)
    await asyncio.wait_for(watching, SOON_S)
    assert ids(seen) == [f"o-{number}" for number in range(5)]


async def test_a_stream_that_was_left_goes_on_at_the_event_in_hand(runtime: InProcessRuntime) -> None:
    await runtime.submit(create(1))
    await runtime.submit_many([order(number) for number in range(4)])
    taken: list[list[str]] = []
    for count in (2, 3):
        async with aclosing(runtime.stream(OrderCreated, name="orders", start="beginning")) as events:
            orders: list[Any] = []
            async for event in events:
                orders.append(event)
                if len(orders) == count:
                    break
            taken.append(ids(orders))
    assert taken == [["o-0", "o-1"], ["o-1", "o-2", "o-3"]]


async def test_several_types_can_be_asked_for_at_once(runtime: InProcessRuntime) -> None:
    both: list[Any] = []
    either: Any = CustomerCreated | CustomerPromoted
    await runtime.subscribe(either, both.append)
    await runtime.submit_many([create(1), order(1), PromoteToVip(customer_id="c-1", reason="loyal")])
    await until(lambda: len(both) == 2)
    assert [event.event_type for event in both] == ["CustomerCreated", "CustomerPromoted"]


@pytest.mark.parametrize(
    ("event_type", "keywords", "words"),
    [
        (type("Foreign", (Event,), {"__module__": __name__}), {}, "application's event types"),
        (None, {"name": "  "}, "give a name"),
        (None, {"start": "tomorrow"}, "beginning"),
        (None, {"name": "twice"}, "unsubscribe it first"),
    ],
)
async def test_what_can_not_be_meant_is_refused(
    runtime: InProcessRuntime, event_type: Any, keywords: dict[str, Any], words: str
) -> None:
    await runtime.subscribe(None, print, name="twice")
    with pytest.raises(InvalidValue, match=words):
        await runtime.subscribe(event_type, print, **keywords)


class TestListeners:
    async def test_each_gets_what_was_pushed_since_its_last_call(self) -> None:
        listeners: Listeners[int] = Listeners()
        listeners.push(0)
        assert await listeners.listen("a", 0) == []
        listeners.push(1)
        assert await listeners.listen("b", 0) == []
        listeners.push(2)
        assert await listeners.listen("a", 0) == [1, 2]
        assert await listeners.listen("b", 0) == [2]
        waiting = asyncio.create_task(listeners.listen("a", SOON_S))
        await asyncio.sleep(0)
        listeners.push(3)
        assert await waiting == [3]

    async def test_what_is_kept_is_bounded_and_who_is_silent_is_forgotten(self) -> None:
        now = 0.0
        listeners: Listeners[int] = Listeners(pushes_max=3, silence_max_s=10, clock=lambda: now)
        await listeners.listen("a", 0)
        for number in range(5):
            listeners.push(number)
        assert await listeners.listen("a", 0) == [2, 3, 4]
        now = 11.0
        listeners.push(5)
        assert listeners._listeners == {}
