"""`eventray audit projections` beside a runtime that goes on writing, before and after somebody has touched a row."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from actors.customers import CreateCustomer, CreateOrder, Customer, Order
from cluster.application import Application
from cluster.testing import InProcessRuntime
from projections.customers import CustomerDirectory, CustomerProjection, DailySales, LoyaltyProgramme
from tests.acceptance.commandline import Done, in_process

CUSTOMERS = [f"c-{number}" for number in range(20)]
APP = "tests.acceptance.test_audit_projections:application"
application = Application(
    [Customer, Order], [CustomerProjection, DailySales, CustomerDirectory], process_managers=[LoyaltyProgramme]
)


def order(customer: str, number: int) -> CreateOrder:
    return CreateOrder(order_id=f"{customer}-{number}", customer_id=customer, total_amount=Decimal("0.01"))


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Path]:
    """A directory with the store of a runtime under way, to which customers go on sending orders."""
    ended = asyncio.Event()
    async with InProcessRuntime.open(f"sqlite:///{tmp_path}/shop.db", app=application, shards=4) as runtime:
        await runtime.submit_many(
            [CreateCustomer(customer_id=each, name="Ada", email="ada@example.com") for each in CUSTOMERS]
        )

        async def go_on() -> None:
            number = 0
            while not ended.is_set():
                number += 1
                await runtime.submit_many([order(each, number) for each in CUSTOMERS])

        going_on = asyncio.create_task(go_on())
        receipt = await runtime.submit(order("c-0", 0))
        await runtime.query(CustomerProjection, "c-0", after=receipt)
        yield tmp_path
        ended.set()
        await going_on


async def audited(shop: Path, *words: str) -> Done:
    return await asyncio.to_thread(
        in_process, shop, "audit", "projections", *words, "--store", "sqlite:///shop.db", "--app", APP
    )


def damage(shop: Path, statement: str) -> None:
    with closing(sqlite3.connect(shop / "shop.read.db")) as connection, connection:
        connection.execute(statement)


@pytest.mark.timeout(120)
async def test_read_models_are_audited_while_they_are_written_and_what_differs_is_named(shop: Path) -> None:
    sound = await audited(shop, "--json")
    assert sound.exit_code == 0, sound
    told = sound.json
    assert (told["shards"], told["found"], told["findings"]) == (4, 0, [])
    assert {each["projection"]: each["rows"] for each in told["projections"]} == {
        "CustomerProjection": 20,
        "DailySales": 21,
        "CustomerDirectory": 21,
        "LoyaltyProgramme": 20,
    }
    assert told["events"] >= 21

    damage(shop, "UPDATE customers_v1 SET total_spent = total_spent + 100 WHERE id = 'c-7'")  # a cent
    damage(shop, "DELETE FROM directory_v1 WHERE id = 'c-3'")
    page = await audited(shop)
    assert page.exit_code == 1
    lines = page.out.splitlines()
    assert any(line.startswith("CustomerProjection, customers c-7: different: total_spent is ") for line in lines)
    assert any(line.startswith("CustomerDirectory, directory c-3: missing: the log makes it: id c-3") for line in lines)
    assert "DailySales: 21 rows, 0 findings" in page.out
    one = await audited(shop, "DailySales", "--json")
    assert (one.exit_code, [each["projection"] for each in one.json["projections"]]) == (0, ["DailySales"])
    unknown = await audited(shop, "Nobody")
    assert (unknown.exit_code, unknown.out) == (1, "")
    assert (
        "projection = 'Nobody': one of CustomerProjection, DailySales, CustomerDirectory, LoyaltyProgramme was expected"
        in unknown.err
    )
