"""The drill of docs/operations.md: back a store up, go on, lose it, restore it, and go on from there."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Protocol

import pytest

from actors import Command
from actors.customers import CreateCustomer, CreateOrder, Customer
from cluster.testing import InProcessRuntime
from projections.customers import CustomerProjection
from projections.errors import RestoredBehind
from tests import postgres
from tests.acceptance.commandline import eventray, in_process

pytestmark = pytest.mark.timeout(120)
BEFORE, SINCE = range(20), range(20, 30)
ORDERS = 2


class Shop(Protocol):
    """A store that can be lost, on one backend."""

    url: str

    def back_up(self) -> None: ...

    def lose_and_restore_the_log_alone(self) -> None:
        """Leave read models that are ahead of the log."""
        ...

    def see_to_read_models(self) -> None:
        """Do what the docs say of `RestoredBehind`."""
        ...


class SqliteShop:
    """Its read models are in a file of their own."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.url = f"sqlite:///{directory / 'shop.db'}"

    def back_up(self) -> None:
        assert in_process(self._directory, "store", "backup", "backup.db", "--store", self.url).exit_code == 0

    def lose_and_restore_the_log_alone(self) -> None:
        for name in ("shop.db", "shop.db-wal", "shop.db-shm"):
            (self._directory / name).unlink(missing_ok=True)
        shutil.copy(self._directory / "backup.db", self._directory / "shop.db")

    def see_to_read_models(self) -> None:
        for path in self._directory.glob("shop.read.db*"):
            path.rename(path.with_name(f"lost-{path.name}"))


class PostgresShop:
    """Its read models are in the schema of its events."""

    def __init__(self, url: str, directory: Path, server: postgres.Server) -> None:
        self._directory, self._server = directory, server
        self.url, self._schema = url, url.partition("search_path=")[2]

    def back_up(self) -> None:
        told = in_process(self._directory, "store", "backup", "backup.dump", "--store", self.url)
        assert (told.exit_code, "nothing was backed up" in told.err) == (1, True)
        self._run(shlex.split(told.out))

    def lose_and_restore_the_log_alone(self) -> None:
        self._server.sql(f"TRUNCATE {self._schema}.events, {self._schema}.shards")
        self._restore("--data-only", "--table=events", "--table=shards")

    def see_to_read_models(self) -> None:
        self._server.sql(f"DROP SCHEMA {self._schema} CASCADE")
        self._restore()

    def _restore(self, *options: str) -> None:
        self._run(["pg_restore", f"--dbname={self._server.url('postgres')}", *options, "backup.dump"])

    def _run(self, command: list[str]) -> None:
        path = f"{self._server.programs}{os.pathsep}{os.environ['PATH']}"
        subprocess.run(command, cwd=self._directory, check=True, env={**os.environ, "PATH": path})


@pytest.fixture(params=["sqlite", "postgres"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    if request.param == "sqlite":
        return SqliteShop(tmp_path)
    new_url: Callable[[], str] = request.getfixturevalue("new_postgres_url")
    return PostgresShop(new_url(), tmp_path, request.getfixturevalue("postgres_server"))


def test_a_lost_store_is_restored_read_models_ahead_are_noticed_and_all_goes_on(shop: Shop, tmp_path: Path) -> None:
    asyncio.run(_submit(shop.url, BEFORE, already=False))
    shop.back_up()
    asyncio.run(_submit(shop.url, SINCE, already=False))

    shop.lose_and_restore_the_log_alone()
    with pytest.raises(RestoredBehind, match="the store was restored to an earlier state"):
        asyncio.run(_submit(shop.url, BEFORE, already=True))
    shop.see_to_read_models()
    audited = eventray(tmp_path, "audit", "store", "--store", shop.url, "--json")
    assert (audited.exit_code, audited.json["events"], audited.json["found"]) == (0, len(BEFORE) * (1 + ORDERS), 0)

    asyncio.run(_check(shop.url, there=BEFORE, gone=SINCE))
    asyncio.run(_submit(shop.url, BEFORE, already=True))
    asyncio.run(_submit(shop.url, SINCE, already=False))
    asyncio.run(_check(shop.url, there=[*BEFORE, *SINCE], gone=[]))


async def _submit(url: str, customers: Iterable[int], *, already: bool) -> None:
    """Create these customers with their orders, under ids of their own; `already`: all of it is in the log."""
    async with InProcessRuntime.open(url, shards=4) as runtime:
        for number in customers:
            key = f"c-{number}"
            commands: list[Command] = [CreateCustomer(customer_id=key, name="Ada", email="ada@example.com")]
            orders = (f"o-{number}-{order}" for order in range(ORDERS))
            commands += (CreateOrder(order_id=order, customer_id=key, total_amount=Decimal("1.50")) for order in orders)
            ids = [f"{key}-{each}" for each in range(len(commands))]
            receipts = await runtime.submit_many(commands, command_ids=ids)
            assert [getattr(receipt, "duplicate", receipt) for receipt in receipts] == [already] * len(commands)


async def _check(url: str, there: Iterable[int], gone: Iterable[int]) -> None:
    """Compare the read model with the log."""
    async with InProcessRuntime.open(url) as runtime:
        for number in there:
            receipt = await runtime.submit(
                CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com"),
                command_id=f"c-{number}-0",
            )
            row = await runtime.query(CustomerProjection, f"c-{number}", after=receipt)
            customer = await runtime.load(Customer, f"c-{number}")
            assert row is not None
            assert (row["total_orders"], row["name"]) == (ORDERS, customer.name)
        for number in gone:
            assert await runtime.query(CustomerProjection, f"c-{number}") is None
            assert (await runtime.load(Customer, f"c-{number}")).version == 0
