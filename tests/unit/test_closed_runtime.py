"""A closed runtime says so at once, whatever it is asked: it touches neither Ray nor the store any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest
from sqlalchemy import select

from actors.customers import CreateCustomer, Customer, CustomerCreated
from actors.wire import Receipt
from cluster import SyncRuntime, subscriptions, sync
from cluster.client import ClientClosed
from cluster.ray_edge import RayTransport
from cluster.ray_followers import RayFollowers
from cluster.runtime import Runtime
from cluster.testing import InProcessRuntime
from cluster.transport import HostGone
from cluster.undoing import begun
from projections.customers import CustomerProjection
from projections.errors import ConsistencyTimeout
from projections.subscriber import Subscriber
from store import InvalidValue
from store.identity import uuid7

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
RECEIPT = Receipt("a command", "customer-c-1", 1, 0, 1, "a store", False)
AT_ONCE_S = 2.0

ASKED: dict[str, Callable[[Any], Any]] = {
    "submit": lambda runtime: runtime.submit(ADA),
    "submit to an actor": lambda runtime: runtime.actor(Customer, "c-1").submit(ADA),
    "query": lambda runtime: runtime.query(CustomerProjection, "c-1"),
    "query after": lambda runtime: runtime.query(CustomerProjection, "c-1", after=RECEIPT),
    "select": lambda runtime: runtime.select(CustomerProjection, select(CustomerProjection.tables[0])),
    "catch_up": lambda runtime: runtime.catch_up(CustomerProjection),
    "subscribe": lambda runtime: runtime.subscribe(None, print),
    "stream": lambda runtime: first(runtime.stream()),
    "load": lambda runtime: runtime.load(Customer, "c-1"),
    "load an actor": lambda runtime: runtime.actor(Customer, "c-1").load(),
    "status": lambda runtime: runtime.status(),
    "scale": lambda runtime: runtime.scale(2),
    "rebalance": lambda runtime: runtime.rebalance(),
}
every_method = pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)


def first(events: Any) -> Any:
    return next(events) if hasattr(events, "__next__") else anext(events)


class NotToBeAsked:
    """A coordinator's handle that fails the test when it is used: Ray would connect to whatever is there."""

    def __getattr__(self, method: str) -> NoReturn:
        raise AssertionError(f"{method} was asked for")


async def opened() -> Runtime:
    """Return a `Runtime` whose hosts are in this process."""
    ending = AsyncExitStack()
    within = await ending.enter_async_context(InProcessRuntime.open(f"memory://{uuid7()}", shards=4))
    return Runtime(within._ports, NotToBeAsked(), ending, joined=False)


@pytest.fixture
def blocking() -> Iterator[SyncRuntime]:
    """A `SyncRuntime` whose hosts are in this process; it is closed in the end."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    within = asyncio.run_coroutine_threadsafe(opened(), loop).result()
    runtime = SyncRuntime(within, loop, thread)
    yield runtime
    runtime.close()


@every_method
async def test_whatever_is_asked_of_it_is_refused_at_once(asked: Callable[[Any], Any]) -> None:
    runtime = await opened()
    await runtime.close()
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(ClientClosed, match="open the runtime again"):
            await asked(runtime)


async def test_who_waits_for_the_coordinator_while_it_closes_waits_no_longer() -> None:
    """Where this process has left Ray, no answer comes any more."""
    runtime, asked, given_up = await opened(), asyncio.Event(), asyncio.Event()

    async def status() -> None:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    runtime._coordinator = SimpleNamespace(status=SimpleNamespace(remote=status))
    waiting = asyncio.create_task(runtime.status())
    await asked.wait()
    await runtime.close()
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(ClientClosed):
            await waiting
        await given_up.wait()


@every_method
def test_so_it_is_where_it_blocks(asked: Callable[[Any], Any], blocking: SyncRuntime) -> None:
    address = blocking.actor(Customer, "c-1")
    blocking.close()
    with pytest.raises(ClientClosed):
        asked(blocking)
    with pytest.raises(ClientClosed):
        address.submit(ADA)


def test_who_waits_in_another_thread_while_it_closes_hears_so(
    blocking: SyncRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = threading.Event()

    async def wait_for(*_: object) -> None:
        waits.set()
        await asyncio.sleep(600)

    ahead = blocking.submit(ADA)._replace(position=99)
    monkeypatch.setattr(blocking._runtime._ports.followers, "wait_for", wait_for)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(blocking.query, CustomerProjection, "c-1", after=ahead, timeout_s=600)
        waits.wait(AT_ONCE_S)
        blocking.close()
        with pytest.raises(ClientClosed):
            waiting.result(AT_ONCE_S)


def test_what_a_cancelled_opening_had_begun_is_undone_before_its_loop_ends() -> None:
    loop, undone, begins, go_on = asyncio.new_event_loop(), list[str](), threading.Event(), threading.Event()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def begin() -> str:
        begins.set()
        go_on.wait()
        return "Ray"

    async def open_it() -> None:
        async with AsyncExitStack() as ending:
            await begun(begin, undone.append, ending)

    opening = asyncio.run_coroutine_threadsafe(open_it(), loop)
    begins.wait()
    opening.cancel()
    threading.Timer(0.05, go_on.set).start()
    sync._end(loop, thread)
    assert undone == ["Ray"]


async def test_many_commands_get_that_answer_each_and_what_it_is_made_of_can_still_be_read() -> None:
    runtime = await opened()
    subscription = await runtime.subscribe(None, print)
    await runtime.close()
    assert [type(answer) for answer in await runtime.submit_many([ADA, ADA])] == [ClientClosed] * 2
    assert "CreateCustomer" in runtime.registry.bindings
    assert Customer in runtime.application.aggregates
    await runtime.unsubscribe(subscription)
    await runtime.close()


def test_a_subscription_and_a_stream_that_block_have_ended_with_it(
    blocking: SyncRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscriptions, "STOP_S", 0.1)
    subscription = blocking.subscribe(None, print)
    blocking.submit(ADA)
    seen = []
    for event in blocking.stream(CustomerCreated, start="beginning"):
        seen.append(event)
        blocking.close()
    assert len(seen) == 1
    blocking.unsubscribe(subscription)


async def test_a_subscription_that_begins_while_it_closes_does_not_outlive_it(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime, begins, go_on = await opened(), asyncio.Event(), asyncio.Event()
    start = Subscriber.start

    async def slow_start(subscriber: Subscriber) -> None:
        await start(subscriber)
        begins.set()
        await go_on.wait()

    monkeypatch.setattr(Subscriber, "start", slow_start)
    subscribing = asyncio.create_task(runtime.subscribe(None, print))
    await begins.wait()
    await runtime.close()
    go_on.set()
    with pytest.raises(ClientClosed):
        await subscribing
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


async def test_who_waits_for_a_read_model_while_it_closes_hears_so_and_that_the_command_did_succeed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = await opened()
    receipt = await runtime.submit(ADA)

    async def gone(*_: object) -> None:
        raise HostGone("projections", "it is ended")

    monkeypatch.setattr(runtime._ports.followers, "wait_for", gone)
    waiting = asyncio.create_task(runtime.catch_up(CustomerProjection, timeout_s=60))
    await asyncio.sleep(0)
    await runtime.close()
    async with asyncio.timeout(AT_ONCE_S):
        with pytest.raises(ConsistencyTimeout, match=r"did succeed.*The runtime was closed meanwhile"):
            await waiting
    assert receipt.version == 1


async def test_the_projection_hosts_are_asked_for_nothing_any_more() -> None:
    followers = RayFollowers(RayTransport("a namespace"), NotToBeAsked())
    await followers.close()
    with pytest.raises(HostGone, match="closed"):
        await followers.wait_for("CustomerProjection", 0, 1, 10)


@pytest.mark.parametrize("hosts", ["x", 1.5, True, None, 5])
async def test_no_number_of_hosts_is_refused_before_anybody_is_asked(hosts: Any) -> None:
    runtime = await opened()
    with pytest.raises(InvalidValue, match=r"hosts = .*: give 1 to 4"):
        await runtime.scale(hosts)
    await runtime.close()
