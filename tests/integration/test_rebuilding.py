"""A rebuild on Ray, beside a runtime that goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import pytest

from actors.customers import CreateCustomer, CreateOrder
from cluster import Runtime, Settings
from cluster.application import default_application
from cluster.rebuilding import rebuild
from projections.customers import CustomerProjection
from projections.read_models import ReadModels
from store import InvalidValue

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("ray_address")]

CUSTOMERS = [f"c-{number}" for number in range(20)]


class Unwatched:
    """Shows nothing."""

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        return lambda more: None


def order(customer: str, number: int) -> CreateOrder:
    return CreateOrder(order_id=f"{customer}-{number}", customer_id=customer, total_amount=Decimal("1.50"))


@pytest.mark.parametrize("store_url", ["sqlite", "postgres"], indirect=True)
async def test_a_rebuild_beside_a_runtime_loses_and_doubles_nothing(store_url: str, settings: Settings) -> None:
    ended = asyncio.Event()
    async with Runtime.open(store_url, shards=4, settings=settings) as runtime:
        people = [CreateCustomer(customer_id=each, name="Ada", email="ada@example.com") for each in CUSTOMERS]
        await runtime.submit_many(people)
        await runtime.submit_many([order(each, 0) for each in CUSTOMERS])

        async def go_on() -> int:
            number = 0
            while not ended.is_set():
                number += 1
                for each in CUSTOMERS[:2]:
                    receipt = await runtime.submit(order(each, number))
                    row = await runtime.query(CustomerProjection, each, after=receipt)
                    assert row is not None
                    assert row["total_orders"] == number + 1
            return number

        going_on = asyncio.create_task(go_on())
        rebuilt = await rebuild(store_url, default_application(), CustomerProjection.name, Unwatched())
        ended.set()
        more = await going_on
        assert (rebuilt.version, rebuilt.events >= 40, more > 0) == (1, True, True)
        for number, each in enumerate(CUSTOMERS):
            receipt = await runtime.submit(order(each, more + 1))
            row = await runtime.query(CustomerProjection, each, after=receipt)
            assert row is not None
            assert row["total_orders"] == (more + 2 if number < 2 else 2)
            assert row["total_spent"] == row["total_orders"] * Decimal("1.50")
    read_models = ReadModels(store_url)
    subscriber = await read_models._database.read(
        lambda connection: connection.exec_driver_sql("SELECT DISTINCT subscriber FROM checkpoints").scalars().all()
    )
    await read_models.close()
    assert subscriber == ["CustomerProjection@1.1"]


async def test_a_projection_that_the_application_has_not_is_refused(store_url: str) -> None:
    with pytest.raises(InvalidValue, match="CustomerProjection"):
        await rebuild(store_url, default_application(), "Nobody", Unwatched())
