"""A whole runtime on PostgreSQL: hosts are killed and the server ends under load, and nothing is lost or doubled.

What is stored is judged by SQL of the test's own.
"""

from __future__ import annotations

import asyncio
import os
import signal
from decimal import Decimal

import psutil
import pytest

from actors.customers import ChangeEmail, CreateCustomer
from cluster import Runtime, Settings
from projections.customers import CustomerProjection
from tests.integration.postgres_log import LogSql
from tests.integration.test_failover import Load, until
from tests.postgres import Server

pytestmark = pytest.mark.usefixtures("ray_address")

UNEVEN_SHARDS = """SELECT count(*) FROM shards LEFT JOIN
    (SELECT shard, count(*), min(position), max(position) FROM events GROUP BY shard) AS log USING (shard)
    WHERE head <> coalesce(count, 0) OR head <> coalesce(max, 0) OR coalesce(min, 1) <> 1"""
UNEVEN_STREAMS = """SELECT count(*) FROM
    (SELECT count(*), min(version), max(version) FROM events GROUP BY stream) AS log WHERE count <> max OR min <> 1"""
ORDERS = "SELECT command_key, shard, position, stream, version FROM events WHERE type = 'OrderCreated'"
FOLD = """SELECT data::json ->> 'customer_id', count(*), sum((data::json ->> 'total_amount')::numeric)
    FROM events WHERE type = 'OrderCreated' GROUP BY 1"""


def host_pids() -> set[int]:
    """The processes of this session's hosts."""
    return {
        process.pid
        for process in psutil.Process().children(recursive=True)
        if process.status() != psutil.STATUS_ZOMBIE and " ".join(process.cmdline()).startswith("ray::Host")
    }


async def acknowledged(load: Load, more: int) -> None:
    before = len(load.receipts)
    await until(lambda: len(load.receipts) >= before + more, deadline_s=60)


@pytest.mark.timeout(200)
async def test_hosts_killed_and_a_server_that_ends_under_load_lose_and_double_nothing(
    postgres_url: str, postgres_log: LogSql, postgres_server: Server, settings: Settings
) -> None:
    async with Runtime.open(postgres_url, hosts=2, shards=8, settings=settings) as runtime:
        async with Load(runtime, 20) as load:
            await acknowledged(load, 200)
            for _ in range(2):
                os.kill(host_pids().pop(), signal.SIGKILL)
                await acknowledged(load, 200)
            postgres_server.end_at_once()
            await asyncio.to_thread(postgres_server.wait)
            await asyncio.to_thread(postgres_server.start)
            await acknowledged(load, 200)
        last = {receipt.shard: receipt for receipt in sorted(load.receipts.values(), key=lambda r: r.position)}
        fold = [line.split("|") for line in postgres_log(FOLD).splitlines()]
        for customer, count, spent in fold:
            for receipt in last.values():
                row = await runtime.query(CustomerProjection, customer, after=receipt, timeout_s=20)
            assert row is not None
            assert (row["total_orders"], row["total_spent"]) == (int(count), Decimal(spent))
    assert postgres_log(UNEVEN_SHARDS) == postgres_log(UNEVEN_STREAMS) == "0"
    stored = [tuple(line.split("|")) for line in postgres_log(ORDERS).splitlines()]
    assert len(fold) == 20
    assert sorted(stored) == sorted(
        (key, str(r.shard), str(r.position), r.stream, str(r.version)) for key, r in load.receipts.items()
    )


@pytest.mark.timeout(100)
async def test_a_runtime_waits_for_a_server_that_is_away(
    postgres_url: str, postgres_log: LogSql, postgres_server: Server, settings: Settings
) -> None:
    """Nobody submits meanwhile: the coordinator beats on, and the first command afterwards is served by the same."""
    async with Runtime.open(postgres_url, shards=8, settings=settings) as runtime:
        await runtime.submit(CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com"))
        held = "SELECT generation, epoch FROM runtime, shards WHERE shard = 0"
        before = postgres_log(held)
        await asyncio.to_thread(postgres_server.stop)
        away = asyncio.create_task(
            runtime.submit(ChangeEmail(customer_id="c-1", email="new@example.com"), command_id="while it was away")
        )
        await asyncio.sleep(2 * settings.beat_interval_s)
        await asyncio.to_thread(postgres_server.start)
        receipt = await away
        assert (receipt.version, receipt.duplicate) == (2, False)
        assert postgres_log(held) == before
