"""Hosts that die, stop and come back, on a real Ray and file: nothing acknowledged is lost, nothing counts twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import psutil
import pytest

from actors.customers import ChangeEmail, CreateCustomer, CreateOrder
from actors.errors import DomainError, HostsLost
from actors.wire import Receipt
from cluster import Runtime
from projections.customers import CustomerProjection
from store.process import started
from tests.integration.faulty_shop import EndProcess, lost_reply_flag, stop_flag

FAULTY = "tests.integration.faulty_shop:app"
SERVING_AGAIN_S = 5.0


@pytest.fixture
def all_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every process that a runtime has by default: the exporter too, without which most tests do, and those in which
    seconds count, since its start takes some of a small machine's.
    """
    monkeypatch.delenv("EVENTRAY_METRICS_EXPORTER")


def rows(path: Path, query: str) -> list[tuple[object, ...]]:
    """Ask the file itself, by code that shares nothing with the runtime."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return list(connection.execute(query))


def host_pids(path: Path) -> set[int]:
    """The processes of the hosts that shards are assigned to."""
    query = "SELECT DISTINCT writer_pid FROM hosts JOIN shards ON assigned_to = name AND claimed_by = name"
    return {int(str(pid)) for (pid,) in rows(path, query)}


async def until(condition: Callable[[], bool], deadline_s: float = 30) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(deadline_s):
        while not condition():
            await asyncio.sleep(0.02)


def log_is_whole(path: Path) -> None:
    """Positions and versions gapless, heads true, no command's events twice."""
    for shard, head, count, lowest, highest in rows(
        path,
        "SELECT shards.shard, head, count(position), min(position), max(position) FROM shards "
        "LEFT JOIN events ON events.shard = shards.shard GROUP BY shards.shard",
    ):
        assert (count, highest or 0) == (head, head), f"shard {shard}"
        assert lowest in (1, None)
    for stream, count, lowest, highest in rows(
        path, "SELECT stream, count(*), min(version), max(version) FROM events GROUP BY stream"
    ):
        assert (lowest, highest) == (1, count), stream
    doubled = rows(
        path, "SELECT command_key, stream FROM events WHERE command_key NOT NULL GROUP BY 1, 2 HAVING count(*) > 1"
    )
    assert not doubled


class Load:
    """Workers that place orders as fast as they are answered, and a journal of what was acknowledged."""

    def __init__(self, runtime: Runtime, customers: int) -> None:
        self.runtime = runtime
        self.customers = customers
        self.receipts: dict[str, Receipt] = {}
        self.latencies_s: list[float] = []
        self._numbers = iter(range(10_000_000))
        self._stopped = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for n in range(self.customers):
            await self.runtime.submit(CreateCustomer(customer_id=f"c-{n}", name="Ada", email="ada@example.com"))
        self._workers = [asyncio.create_task(self._work()) for _ in range(50)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopped = True
        await asyncio.gather(*self._workers)

    async def _work(self) -> None:
        while not self._stopped:
            number = next(self._numbers)
            command_id = f"order-{number}"
            order = CreateOrder(
                order_id=str(number),
                customer_id=f"c-{number % self.customers}",
                total_amount=Decimal(f"{number % 100}.25"),
            )
            begun_s = time.monotonic()
            self.receipts[command_id] = await self.runtime.submit(order, command_id=command_id)
            self.latencies_s.append(time.monotonic() - begun_s)

    def acknowledged_once(self, path: Path) -> None:
        """Each acknowledged order is in the log once, where its receipt says."""
        stored = {
            str(key): (shard, position, stream, version)
            for key, shard, position, stream, version in rows(
                path, "SELECT command_key, shard, position, stream, version FROM events WHERE type = 'OrderCreated'"
            )
        }
        count = rows(path, "SELECT count(*) FROM events WHERE type = 'OrderCreated'")[0][0]
        assert count == len(stored) == len(self.receipts)
        for command_id, receipt in self.receipts.items():
            assert stored[command_id] == (receipt.shard, receipt.position, receipt.stream, receipt.version)

    async def read_model_is_the_fold(self, path: Path) -> None:
        """The read model counts each order once."""
        last = {receipt.shard: receipt for receipt in sorted(self.receipts.values(), key=lambda r: r.position)}
        spent: Counter[str] = Counter()
        orders: Counter[str] = Counter()
        for (data,) in rows(path, "SELECT data FROM events WHERE type = 'OrderCreated'"):
            event = json.loads(str(data))
            spent[event["customer_id"]] += round(float(event["total_amount"]) * 100)
            orders[event["customer_id"]] += 1
        for receipt in last.values():
            customer = next(
                str(event["customer_id"])
                for (data,) in rows(path, f"SELECT data FROM events WHERE stream = '{receipt.stream}'")
                for event in [json.loads(str(data))]
            )
            await self.runtime.query(CustomerProjection, customer, after=receipt, timeout_s=20)
        for customer, count in orders.items():
            row = await self.runtime.query(CustomerProjection, customer)
            assert row is not None
            assert (row["total_orders"], round(row["total_spent"] * 100)) == (count, spent[customer])


@pytest.mark.usefixtures("all_processes")
@pytest.mark.timeout(300)
async def test_a_host_killed_at_random_moments_under_load_loses_and_doubles_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    moments = random.Random(20261123)
    async with Runtime.open(f"sqlite:///{path}", hosts=1, shards=8) as runtime:
        async with Load(runtime, 20) as load:
            for _ in range(20):
                acknowledged = len(load.receipts)
                await until(lambda before=acknowledged: len(load.receipts) > before + 50)  # type: ignore[misc]
                await asyncio.sleep(moments.uniform(0, 0.2))
                (pid,) = host_pids(path)
                os.kill(pid, signal.SIGKILL)
                await until(lambda killed=pid: host_pids(path).isdisjoint({killed}))  # type: ignore[misc]
        assert len(load.receipts) > 1000
        await load.read_model_is_the_fold(path)
    log_is_whole(path)
    load.acknowledged_once(path)


@pytest.mark.timeout(120)
async def test_a_command_that_ends_each_host_is_given_up_and_the_others_are_done(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Runtime.open(f"sqlite:///{path}", hosts=2, shards=8, app=FAULTY) as runtime:
        async with Load(runtime, 20) as load:
            await until(lambda: len(load.receipts) > 100)
            with pytest.raises(HostsLost):
                await runtime.submit(EndProcess(probe_id="p-1"))
            given_up = len(load.receipts)
            await until(lambda: len(load.receipts) > given_up + 100)
        assert max(load.latencies_s) < 25
        await load.read_model_is_the_fold(path)
    log_is_whole(path)
    load.acknowledged_once(path)


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_host_stopped_between_update_and_commit_is_succeeded_within_5_s(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Runtime.open(f"sqlite:///{path}", hosts=1, shards=8, app=FAULTY) as runtime:
        await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
        (pid,) = host_pids(path)
        stop_flag(path).touch()
        begun_s = time.monotonic()
        receipt = await runtime.submit(ChangeEmail(customer_id="c-1", email="new@example.com"), command_id="change")
        took_s = time.monotonic() - begun_s
        assert not stop_flag(path).exists(), "the host was not stopped at all"
        assert host_pids(path).isdisjoint({pid})
        assert started(pid) is None, "the stopped host still lives"
        assert took_s < SERVING_AGAIN_S
        assert receipt.version == 2
        assert [key for (key,) in rows(path, "SELECT command_key FROM events WHERE stream = 'customer-c-1'")][1:] == [
            "change"
        ]
    log_is_whole(path)


@pytest.mark.alone
@pytest.mark.timeout(120)
async def test_a_call_to_a_stopped_host_is_answered_by_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Runtime.open(f"sqlite:///{path}", hosts=1, shards=8) as runtime:
        await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
        (pid,) = host_pids(path)
        os.kill(pid, signal.SIGSTOP)
        begun_s = time.monotonic()
        receipt = await runtime.submit(ChangeEmail(customer_id="c-1", email="new@example.com"), timeout_s=20)
        assert time.monotonic() - begun_s < SERVING_AGAIN_S
        assert receipt.version == 2
        assert started(pid) is None
    log_is_whole(path)


@pytest.mark.usefixtures("all_processes")
@pytest.mark.timeout(120)
async def test_a_commit_whose_reply_is_lost_is_stored_and_answered_once(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Runtime.open(f"sqlite:///{path}", hosts=1, shards=8, app=FAULTY) as runtime:
        await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
        lost_reply_flag(path).touch()
        receipt = await runtime.submit(ChangeEmail(customer_id="c-1", email="new@example.com"))
        assert not lost_reply_flag(path).exists()
        assert (receipt.version, receipt.duplicate) == (2, False)
        with pytest.raises(DomainError):
            await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
    log_is_whole(path)


@pytest.mark.usefixtures("all_processes")
@pytest.mark.timeout(120)
async def test_of_two_projection_hosts_one_is_killed_and_each_order_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "shop.db"
    async with Runtime.open(f"sqlite:///{path}", hosts=1, shards=8, projection_hosts=2) as runtime:
        before = (await runtime.status()).projection_hosts
        assert [len(each.shards) for each in before] == [4, 4]
        async with Load(runtime, 10) as load:
            await until(lambda: len(load.receipts) > 200)
            os.kill(min(projection_pids()), signal.SIGKILL)
            await until(lambda: len(load.receipts) > 600)
        await load.read_model_is_the_fold(path)
        after = (await runtime.rebalance()).projection_hosts
        assert [len(each.shards) for each in after] == [4, 4]
        assert len({each.name for each in before} & {each.name for each in after}) == 1


def projection_pids() -> set[int]:
    """The processes of this session's projection hosts."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and "rojection" in " ".join(process.cmdline())
    }
