"""The runtime on Ray: what users do with it, joining, and that nothing is left when it closes."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial

import pytest
import ray
from ray.util import list_named_actors

from actors.customers import CreateCustomer, CreateOrder, Customer, CustomerCreated, PromoteToVip
from actors.errors import DomainError, InvalidCommand
from actors.wire import Receipt
from cluster import Runtime, Settings, SyncRuntime
from cluster.ray_edge import COORDINATOR, namespace_of
from projections.customers import CustomerProjection
from store import ConcurrencyError, EventStore, InvalidValue, StoreHeld, open_store
from store.process import started
from store.records import Route

pytestmark = pytest.mark.usefixtures("ray_address")

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")


async def until(condition: Callable[[], Awaitable[bool]], within_s: float = 20) -> None:
    """Wait until a condition holds; fail if it takes too long."""
    async with asyncio.timeout(within_s):
        while not await condition():
            await asyncio.sleep(0.05)


def actors_of(store_id: str) -> list[str]:
    return [each["name"] for each in list_named_actors(True) if each["namespace"] == namespace_of(store_id)]


async def are_all_there(store_id: str, settings: Settings) -> bool:
    """Tell whether a coordinator, two hosts and a projection host are there, and the exporter if there is to be one."""
    return len(actors_of(store_id)) == 4 + settings.metrics_exporter


@pytest.mark.parametrize("store_url", ["sqlite", "postgres"], indirect=True)
async def test_commands_are_decided_stored_and_projected_and_a_second_opener_joins(
    store_url: str, settings: Settings
) -> None:
    async with Runtime.open(store_url, settings=settings) as runtime:
        first = await runtime.submit(ADA)
        assert (first.stream, first.version, first.duplicate) == ("customer-c-1", 1, False)
        order = CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00"))
        placed = await runtime.submit(order, command_id="cart-77", metadata={"asked_by": "test"})
        assert await runtime.submit(order, command_id="cart-77") == placed._replace(duplicate=True)
        with pytest.raises(ConcurrencyError):
            await runtime.submit(PromoteToVip(customer_id="c-1", reason="loyal"), expected_version=7)
        ada = runtime.actor(Customer, "c-1")
        promoted = await ada.submit(PromoteToVip(customer_id="c-1", reason="loyal"), consistency=[CustomerProjection])
        with pytest.raises(InvalidCommand):
            await ada.submit(PromoteToVip(customer_id="c-2", reason="loyal"))
        row = await runtime.query(CustomerProjection, "c-1", after=promoted)
        assert row is not None
        assert (row["type"], row["total_orders"], row["total_spent"]) == ("Vip", 1, Decimal("42.00"))
        assert (await runtime.load(Customer, "c-1", version=1)).type == "Regular"
        assert (await runtime.load(Customer, "c-1", as_of=datetime(2020, 1, 1, tzinfo=UTC))).version == 0
        assert (await ada.load()).type == "Vip"
        again, other = await runtime.submit_many([ADA, ADA.model_copy(update={"customer_id": "c-2"})])
        assert isinstance(again, DomainError)
        assert not isinstance(other, Exception)
        many = [CreateCustomer(customer_id=f"many-{each}", name="A" * 150, email=ADA.email) for each in range(700)]
        receipts = [receipt for receipt in await runtime.submit_many(many) if isinstance(receipt, Receipt)]
        assert [receipt.stream for receipt in receipts] == [f"customer-many-{each}" for each in range(700)]
        async with Runtime.open(store_url, settings=settings) as second:
            receipt = await second.submit(ADA.model_copy(update={"customer_id": "c-3", "name": "Grace"}))
        row = await runtime.query(CustomerProjection, "c-3", after=receipt)
        assert row is not None, "whoever joined leaves it running"
        assert row["name"] == "Grace"
        assert await runtime.query(CustomerProjection, "many-699", after=receipts[-1]) is not None


async def test_a_store_that_is_held_elsewhere_is_not_opened(store_url: str, settings: Settings) -> None:
    store = await open_store(store_url)
    generation = await store.take("a runtime elsewhere")

    over = asyncio.Event()

    async def beat() -> None:
        while not over.is_set():
            await store.beat(generation)
            await asyncio.sleep(0.1)

    beating = asyncio.create_task(beat())
    with pytest.raises(StoreHeld, match="a runtime elsewhere"):
        await Runtime.open(store_url, settings=settings)
    assert not beating.done()
    over.set()
    await beating
    assert actors_of(store.store_id) == []
    await store.close()


def pid_of_a_killed_process() -> int:
    process = subprocess.Popen(["sleep", "60"])
    process.kill()
    process.wait()
    return process.pid


async def test_the_runtime_of_a_killed_process_is_waited_for_until_it_has_ended_too(
    store_url: str, settings: Settings
) -> None:
    store = await open_store(store_url)
    generation = await store.take(f"process {pid_of_a_killed_process()} on {platform.node()}, 0123abcd")
    over = asyncio.Event()

    async def beat_on() -> None:
        deadline = asyncio.get_running_loop().time() + 4
        while asyncio.get_running_loop().time() < deadline:
            await store.beat(generation)
            await asyncio.sleep(0.1)
        over.set()
        await store.release(generation)

    beating = asyncio.create_task(beat_on())
    async with Runtime.open(store_url, settings=settings) as runtime:
        assert over.is_set()
        await runtime.submit(ADA)
    await beating
    await store.close()


async def test_closing_ends_the_processes_and_gives_the_store_back(store_url: str, settings: Settings) -> None:
    async with Runtime.open(store_url, hosts=2, settings=settings) as runtime:
        receipt = await runtime.submit(ADA)
        store = await open_store(store_url)
        pids = [writer.pid for writer in (await store.writers()).values()]
        assert len(pids) == 2
        await until(partial(are_all_there, receipt.store_id, settings))

    async def gone() -> bool:
        return not actors_of(receipt.store_id) and all(started(pid) is None for pid in pids)

    await until(gone)
    assert {route.host for route in await store.routes()} == {None}
    async with asyncio.timeout(1):
        await store.take("the next one")
    await store.close()


async def test_a_killed_host_is_replaced_under_another_name(store_url: str, settings: Settings) -> None:
    async with Runtime.open(store_url, settings=settings) as runtime:
        await runtime.submit(ADA)
        store = await open_store(store_url)
        ((former, writer),) = (await store.writers()).items()
        os.kill(writer.pid, signal.SIGKILL)
        receipt = await runtime.submit(PromoteToVip(customer_id="c-1", reason="loyal"))
        assert receipt.version == 2
        (now,) = {route.host for route in await store.routes()}
        assert now != former
        assert await runtime.query(CustomerProjection, "c-1", after=receipt)
        await store.close()


async def test_a_killed_coordinator_comes_back_and_leaves_the_hosts_at_work(store_url: str, settings: Settings) -> None:
    async with Runtime.open(store_url, hosts=2, settings=settings) as runtime:
        first = await runtime.submit(ADA)
        store = await open_store(store_url)
        routes, pids = await store.routes(), {writer.pid for writer in (await store.writers()).values()}
        before = await runtime.status()
        coordinator = ray.get_actor(COORDINATOR, namespace=namespace_of(first.store_id))
        ray.kill(coordinator, no_restart=False)
        promoted = await runtime.submit(PromoteToVip(customer_id="c-1", reason="loyal"), timeout_s=5)
        assert promoted.version == 2, "while there is no coordinator"
        after = await runtime.status()
        assert after.generation == before.generation + 1
        assert [each.name for each in after.hosts] == [each.name for each in before.hosts]
        assert after.projection_hosts[0].name == before.projection_hosts[0].name
        assert await store.routes() == routes, "no epoch has risen"
        assert await runtime.query(CustomerProjection, "c-1", after=promoted)
        os.kill(min(pids), signal.SIGKILL)
        await until(lambda: _served_by_others(store, routes))
        assert (await runtime.submit(ADA.model_copy(update={"customer_id": "c-2"}))).version == 1
        await store.close()
    assert actors_of(first.store_id) == []


async def _served_by_others(store: EventStore, before: list[Route]) -> bool:
    """Whether all shards are claimed, some by another host than before."""
    routes = await store.routes()
    return {route.host for route in routes} != {route.host for route in before} and all(
        route.epoch > 0 and route.host for route in routes
    )


DRIVER = """
import asyncio, sys
from cluster import Runtime

async def main():
    async with Runtime.open(sys.argv[1], hosts=2, address=sys.argv[2]):
        print("open", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_a_killed_driver_leaves_no_process_behind(store_url: str, ray_address: str, settings: Settings) -> None:
    driver = await asyncio.create_subprocess_exec(
        sys.executable, "-c", DRIVER, store_url, ray_address, stdout=asyncio.subprocess.PIPE
    )
    assert driver.stdout is not None
    assert await driver.stdout.readline() == b"open\n"
    store = await open_store(store_url)
    pids = [writer.pid for writer in (await store.writers()).values()]
    assert len(pids) == 2
    await until(partial(are_all_there, store.store_id, settings))
    driver.kill()

    async def gone() -> bool:
        return not actors_of(store.store_id) and all(started(pid) is None for pid in pids)

    await until(gone, within_s=5)
    await driver.wait()
    await store.close()


@pytest.mark.parametrize(
    ("url", "hosts", "words"),
    [
        ("memory://", 1, "cluster.testing"),
        ("sqlite:///{}/shop.db", 0, "hosts = 0"),
        ("sqlite:///{}/shop.db", 65, "hosts = 65"),
    ],
)
async def test_what_cannot_be_opened_is_said_in_a_line(url: str, hosts: int, words: str, tmp_path: object) -> None:
    with pytest.raises(InvalidValue, match=words):
        await Runtime.open(url.format(tmp_path), hosts=hosts)


async def test_subscribers_get_events_also_after_a_projection_host_was_replaced(
    store_url: str, settings: Settings
) -> None:
    got: list[str] = []
    delays: list[float] = []

    async def note(event: CustomerCreated) -> None:
        got.append(event.customer_id)
        delays.append(time.monotonic() - stored_at)

    async with Runtime.open(store_url, settings=settings) as runtime:
        stored_at = time.monotonic()
        await runtime.subscribe(CustomerCreated, note)
        for number in range(10):
            receipt = await runtime.submit(ADA.model_copy(update={"customer_id": f"c-{number}"}))
            stored_at = time.monotonic()
            async with asyncio.timeout(20):
                while len(got) <= number:
                    await asyncio.sleep(0.002)
            if number == 5:
                (host,) = [name for name in actors_of(receipt.store_id) if name.startswith("projections-")]
                ray.kill(ray.get_actor(host, namespace=namespace_of(receipt.store_id)))
        assert got == [f"c-{number}" for number in range(10)]
        assert sorted(delays[:5])[2] < 0.3  # pushed: the log is looked at each second


def test_the_blocking_form_does_the_same(store_url: str, settings: Settings) -> None:
    got: list[str] = []
    with SyncRuntime.open(store_url, settings=settings) as runtime:
        subscription = runtime.subscribe(None, lambda event: got.append(event.customer_id), start="beginning")
        receipt = runtime.submit(ADA)
        row = runtime.query(CustomerProjection, "c-1", after=receipt)
        assert row is not None
        assert row["email"] == "ada@example.com"
        assert runtime.actor(Customer, "c-1").load().version == 1
        with pytest.raises(DomainError):
            runtime.submit(ADA)
        events = runtime.stream(CustomerCreated, start="beginning")
        assert next(events).version == 1
        events.close()
        deadline = time.monotonic() + 20
        while not got and time.monotonic() < deadline:
            time.sleep(0.005)
        runtime.unsubscribe(subscription)
    assert got == ["c-1"]
