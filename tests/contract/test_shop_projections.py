"""The shop's further read models, on each kind of database: what was sold by day, and who is behind an address."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from actors.customers import CustomerEmailChanged, CustomerPromoted, CustomerType
from projections.customers import CustomerDirectory, DailySales
from projections.customers.sales import daily_sales
from projections.progress import SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import ProjectionSink
from projections.read_models import ReadModels
from projections.subscriber import Subscriber
from store import EventRecord
from store.memory import MemoryStore
from store.records import micros
from tests.logs import EVENTS, Log, created, ordered

SHARDS = 4
MONDAY = micros(datetime(1997, 1, 6, 23, 59, tzinfo=UTC))
TUESDAY = micros(datetime(1997, 1, 7, 0, 0, tzinfo=UTC))


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = MemoryStore("shop", shards=SHARDS)
    yield await Log.on(store)
    await store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def read_models(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReadModels]:
    urls = {"memory": "memory://shop", "sqlite": f"sqlite:///{tmp_path}/shop.db"}
    opened = ReadModels(urls.get(request.param) or request.getfixturevalue("postgres_url"))
    yield opened
    await opened.close()


async def follow(log: Log, read_models: ReadModels, projection: type[Projection], size: int) -> Subscriber:
    limits = SubscriberLimits(batch_size_max=size)
    sink = ProjectionSink(read_models, projection, EVENTS)
    subscriber = Subscriber(log.store, sink, range(SHARDS), limits=limits)
    await subscriber.start()
    while (await subscriber.step()).more:
        pass
    assert subscriber.lag().blocked == {}
    return subscriber


async def a_week(log: Log) -> list[EventRecord]:
    names = [f"c-{number}" for number in range(12)]
    records = await log.write(*(created(name) for name in names), occurred_at=MONDAY)
    records += await log.write(*(ordered(name, "1", "1.50") for name in names), occurred_at=MONDAY)
    promoted = CustomerPromoted(
        customer_id="c-3", from_type=CustomerType.REGULAR, to_type=CustomerType.VIP, reason="loyal"
    )
    records += await log.write(ordered("c-3", "2", "0.25"), promoted, ordered("c-3", "3", "100"), occurred_at=MONDAY)
    return records + await log.write(*(ordered(name, "4", "2") for name in names), occurred_at=TUESDAY)


WEEK = {
    (date(1997, 1, 6), "Regular"): (13, Decimal("18.25")),
    (date(1997, 1, 6), "Vip"): (1, Decimal("100.00")),
    (date(1997, 1, 7), "Regular"): (11, Decimal("22.00")),
    (date(1997, 1, 7), "Vip"): (1, Decimal("2.00")),
}


async def sales(read_models: ReadModels) -> dict[Any, Any]:
    rows = await read_models.select(DailySales, select(daily_sales))
    return {(row["day"], row["customer_type"]): (row["orders"], row["amount"]) for row in rows}


@pytest.mark.parametrize("size", [1, 7, 1_000])
async def test_sales_are_those_of_the_day_and_of_what_the_customer_was(
    log: Log, read_models: ReadModels, size: int
) -> None:
    await a_week(log)
    await follow(log, read_models, DailySales, size)
    assert await sales(read_models) == WEEK
    row = (await read_models.query(DailySales, (date(1997, 1, 6), "Vip"))).row
    assert row is not None
    assert str(row["amount"]) == "100.00"


async def test_sales_of_two_owners_at_once_count_each_order_once(log: Log, read_models: ReadModels) -> None:
    one, zombie = [await follow(log, read_models, DailySales, 5) for _ in range(2)]
    records = await a_week(log)
    for subscriber in (one, zombie):
        subscriber.push(records)
    for _ in range(40):
        await asyncio.gather(one.step(), zombie.step())
    assert await sales(read_models) == WEEK


async def test_customers_are_found_by_address_and_name_whatever_the_case(log: Log, read_models: ReadModels) -> None:
    await log.write(created("c-1"), created("c-2"), created("c-10"))
    moved = CustomerEmailChanged(customer_id="c-2", old_email="c-2@a.example", new_email="C-1@A.example")
    await log.write(moved)
    await follow(log, read_models, CustomerDirectory, 2)

    async def found(statement: Any) -> list[Any]:
        return [tuple(row.values()) for row in await read_models.select(CustomerDirectory, statement)]

    assert [row[0] for row in await found(CustomerDirectory.by_email("c-1@a.EXAMPLE"))] == ["c-1", "c-2"]
    assert await found(CustomerDirectory.by_email("c-2@a.example")) == []
    assert [row[0] for row in await found(CustomerDirectory.by_name("OF C-1"))] == ["c-1", "c-10"]
    assert await found(CustomerDirectory.by_name("of%c")) == []
    assert await found(CustomerDirectory.shared_emails()) == [("c-1@a.example", 2)]
    back = CustomerEmailChanged(customer_id="c-2", old_email="C-1@A.example", new_email="c-2@a.example")
    await log.write(back)
    await follow(log, read_models, CustomerDirectory, 2)
    assert await found(CustomerDirectory.shared_emails()) == []
