"""Several projection hosts over one log: shards move between them, are followed by two at once or by none, pushes come
twice, late, in any order or not at all; each event counts once, and a handler gets all of them in order.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from actors.customers import OrderCreated
from projections import Handler
from projections.customers import CustomerDirectory, CustomerProjection, DailySales
from projections.customers.sales import daily_sales
from projections.following import Following
from projections.progress import SubscriberLimits
from projections.projection import Projection
from projections.read_models import ReadModels
from store import EventRecord, EventStore
from store.records import micros
from tests.contract.rows import SHARDS
from tests.logs import EVENTS, Log, created, ordered

PROJECTIONS: list[type[Projection]] = [CustomerProjection, DailySales, CustomerDirectory]
LIMITS = SubscriberLimits(batch_size_max=20, apply_interval_s=0.0, heads_interval_s=0.1, retry_first_s=0.02)
NAMES = [f"c-{number}" for number in range(10)]
DAYS = [datetime(1997, 1, day, tzinfo=UTC) for day in (6, 7, 8)]


class Noting(Handler):
    """Keeps the orders that it gets, of each customer."""

    def __init__(self, seen: dict[str, list[str]]) -> None:
        self.seen = seen

    async def on_order(self, event: OrderCreated) -> None:
        self.seen.setdefault(event.customer_id, []).append(event.order_id)


class ProjectionHosts:
    """Several followers of one log, each with a connection of its own to the read models, as in processes of their own.

    Before `end`, pushes come as they like.
    """

    def __init__(self, store: EventStore, read_models: list[ReadModels], ending: AsyncExitStack) -> None:
        self.seen: dict[str, list[str]] = {}
        self.all: list[Following] = []
        self.late: list[EventRecord] = []
        for each in read_models:
            following = Following(store, each, PROJECTIONS, [Noting(self.seen)], EVENTS, LIMITS)
            ending.push_async_callback(following.abandon)
            self.all.append(following)

    def push(self, records: list[EventRecord], chance: random.Random) -> None:
        """Push some twice, some late, some in another order, and some, the last ones too, not at all."""
        for each in self.all:
            coming = [record for record in records if chance.random() < 0.8]
            coming += chance.sample(coming, len(coming) // 3) + self.late
            self.late = chance.sample(records, len(records) // 4)
            if chance.random() < 0.5:
                chance.shuffle(coming)
            each.push(coming)

    async def share(self, chance: random.Random) -> None:
        """Let each follow whichever shards, some of them several at once or none."""
        for each in self.all:
            await each.follow(shard for shard in range(SHARDS) if chance.random() < 0.6)

    async def end(self, store: EventStore) -> None:
        """Let one follow all, and wait until it has come to the log's end."""
        for each in self.all[1:]:
            await each.follow([])
        await self.all[0].follow(range(SHARDS))
        for shard, head in (await store.heads()).items():
            for name in [*(projection.name for projection in PROJECTIONS), Noting.name]:
                await self.all[0].wait_for(name, shard, head, 20)
        async with asyncio.timeout(10):  # what was under way when a shard moved is taken up from its row
            while await store.parked(Noting.name):
                await asyncio.sleep(0.01)


@pytest.fixture
async def read_models(store_url: str) -> AsyncIterator[ReadModels]:
    opened = ReadModels(store_url)
    yield opened
    await opened.close()


@pytest.fixture
async def hosts(store: EventStore, store_url: str, read_models: ReadModels) -> AsyncIterator[ProjectionHosts]:
    in_memory = store_url.startswith("memory:")  # those are seen by one only
    opened = [read_models if in_memory else ReadModels(store_url) for _ in range(3)]
    async with AsyncExitStack() as ending:
        for each in opened:
            ending.push_async_callback(each.close)
        yield ProjectionHosts(store, opened, ending)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


async def assert_equals(read_models: ReadModels, records: list[EventRecord]) -> None:
    """Compare the read models with a fold of the log that shares no code with the projections."""
    customers: dict[str, list[Decimal]] = {}
    sales: dict[date, tuple[int, Decimal]] = {}
    for record in records:
        event: Any = EVENTS.decode(record)
        spent = customers.setdefault(event.customer_id, [])
        if isinstance(event, OrderCreated):
            spent.append(event.total_amount)
            orders, amount = sales.get(event.occurred_at.date(), (0, Decimal(0)))
            sales[event.occurred_at.date()] = orders + 1, amount + event.total_amount
    for name, spent in customers.items():
        row = (await read_models.query(CustomerProjection, name)).row
        assert row is not None
        assert (row["total_orders"], row["total_spent"]) == (len(spent), sum(spent)), name
    rows = await read_models.select(DailySales, select(daily_sales))
    assert {row["day"]: (row["orders"], row["amount"]) for row in rows} == sales
    assert len(await read_models.select(CustomerDirectory, CustomerDirectory.by_name("name"))) == len(customers)


@pytest.mark.parametrize("seed", range(3))
async def test_each_event_counts_once_whatever_shards_and_pushes_do(
    store: EventStore, hosts: ProjectionHosts, read_models: ReadModels, seed: int
) -> None:
    chance, log = random.Random(seed), await Log.on(store)
    await hosts.all[0].follow(range(SHARDS))
    records = await log.write(*map(created, NAMES), occurred_at=micros(DAYS[0]))
    for number in range(12):
        day = micros(chance.choice(DAYS))
        written = await log.write(
            *(ordered(chance.choice(NAMES), f"{number}-{n}", "0.25") for n in range(15)), occurred_at=day
        )
        records += written
        hosts.push(written, chance)
        if chance.random() < 0.5:
            await hosts.share(chance)
        await asyncio.sleep(chance.choice([0, 0.02]))
    await hosts.end(store)
    await assert_equals(read_models, records)
    orders = [record.stream.removeprefix("order-") for record in records if record.type == "OrderCreated"]
    for name in NAMES:
        first = list(dict.fromkeys(hosts.seen.get(name, [])))
        assert first == [order for order in orders if order.startswith(f"{name}-")], "in order, and at least once"


async def test_a_shard_that_is_let_go_of_before_it_is_given_has_each_event_handled_once(
    store: EventStore, hosts: ProjectionHosts
) -> None:
    log, (first, second, _) = await Log.on(store), hosts.all
    await first.follow(range(SHARDS))
    expected = 0
    for number in range(6):
        records = await log.write(*(ordered(name, f"{number}-{n}") for name in NAMES for n in range(3)))
        expected += len(records)
        first.push(records)
        await first.follow([])
        await second.follow(range(SHARDS))
        first, second = second, first
    await until(lambda: sum(map(len, hosts.seen.values())) >= expected)
    assert sum(map(len, hosts.seen.values())) == expected
    assert all(orders == sorted(orders) for orders in hosts.seen.values())


async def test_what_begins_now_begins_once_whoever_follows(store: EventStore, hosts: ProjectionHosts) -> None:
    log, (first, second, _) = await Log.on(store), hosts.all
    await log.write(*(ordered(name, "before") for name in NAMES))
    await first.follow(range(SHARDS))
    await first.follow([])
    await log.write(*(ordered(name, "meanwhile") for name in NAMES))
    await second.follow(range(SHARDS))
    await until(lambda: len(hosts.seen) == len(NAMES))
    assert hosts.seen == {name: [f"{name}-meanwhile"] for name in NAMES}
