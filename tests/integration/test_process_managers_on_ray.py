"""Process managers on a real Ray: one promotion each, whatever is killed, and also without a coordinator."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray

from actors.customers import CreateCustomer, CreateOrder, Customer, Order
from cluster import Runtime, Settings
from cluster.application import Application
from cluster.ray_edge import COORDINATOR, namespace_of
from projections.customers import CustomerProjection, LoyaltyProgramme
from projections.outbox import Outbox
from projections.read_models import ReadModels
from tests.integration.test_failover import host_pids, log_is_whole, rows

pytestmark = pytest.mark.timeout(180)

application = Application([Customer, Order], [CustomerProjection], process_managers=[LoyaltyProgramme])
CUSTOMERS = 40


def create(number: int) -> CreateCustomer:
    return CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com")


def order(number: int, customer: int, amount: str = "100") -> CreateOrder:
    return CreateOrder(order_id=f"o-{number}", customer_id=f"c-{customer}", total_amount=Decimal(amount))


def promoted(path: Path) -> dict[str, int]:
    """How often each customer was promoted."""
    query = "SELECT partition_key, count(*) FROM events WHERE type = 'CustomerPromoted' GROUP BY 1"
    return {str(key): int(str(count)) for key, count in rows(path, query)}


async def until(condition: Callable[[], bool], deadline_s: float = 40) -> None:
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.05)


def pid_of(runtime: Runtime, name: str) -> int:
    handle: Any = ray.get_actor(name, namespace=namespace_of(runtime._ports.store.store_id))
    pid: int = ray.get(handle.__ray_call__.remote(lambda _: os.getpid()))
    return pid


async def test_whatever_is_killed_each_customer_is_promoted_once(
    ray_address: str, settings: Settings, tmp_path: Path
) -> None:
    path, url = tmp_path / "shop.db", f"sqlite:///{tmp_path}/shop.db"
    async with Runtime.open(
        url, app=application, address=ray_address, shards=8, settings=settings, projection_hosts=2
    ) as runtime:
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=namespace_of(runtime._ports.store.store_id))
        await runtime.submit_many([create(number) for number in range(CUSTOMERS)])
        for number in range(6):
            orders = [order(number * CUSTOMERS + customer, customer) for customer in range(CUSTOMERS)]
            if number != 4:  # the fifth order of each is the one that counts
                await runtime.submit_many(orders, timeout_s=60)
                continue
            fifth = asyncio.create_task(runtime.submit_many(orders, timeout_s=60))
            await until(lambda: bool(promoted(path)))
            for pid in host_pids(path):
                os.kill(pid, signal.SIGKILL)
            followers: dict[str, list[int]] = await coordinator.projection_hosts.remote()
            os.kill(pid_of(runtime, next(iter(followers))), signal.SIGKILL)
            assert not [each for each in await fifth if isinstance(each, Exception)]
        await runtime.catch_up(LoyaltyProgramme, timeout_s=60)
    assert promoted(path) == {f"c-{customer}": 1 for customer in range(CUSTOMERS)}
    log_is_whole(path)
    read_models = ReadModels(url)
    state = await Outbox(read_models, LoyaltyProgramme).state()
    await read_models.close()
    assert (state.waiting, state.acknowledged, state.refused, state.failed) == (0, CUSTOMERS, 0, 0)


async def test_it_goes_on_while_the_coordinator_is_stopped(
    ray_address: str, settings: Settings, tmp_path: Path
) -> None:
    path, url = tmp_path / "shop.db", f"sqlite:///{tmp_path}/shop.db"
    async with Runtime.open(url, app=application, address=ray_address, shards=4, settings=settings) as runtime:
        await runtime.submit(create(1))
        pid = pid_of(runtime, COORDINATOR)
        coordinator = psutil.Process(pid)
        coordinator.suspend()
        try:
            await runtime.submit(order(1, 1, "500"))
            await until(lambda: promoted(path) == {"c-1": 1})
        finally:
            coordinator.resume()
        await runtime.catch_up(LoyaltyProgramme, timeout_s=60)
    assert promoted(path) == {"c-1": 1}
    log_is_whole(path)
