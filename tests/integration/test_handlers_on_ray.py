"""Handlers on Ray: they run where projections do, and one that blocks holds up neither commands nor read models."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from actors.customers import CreateCustomer, Customer, CustomerCreated, Order
from cluster import Runtime
from cluster.application import Application
from cluster.settings import Settings
from projections import Handler, Policy
from projections.customers import CustomerProjection


class Writing(Handler):
    """Writes a line for each customer to the file that its maker's environment names."""

    def __init__(self) -> None:
        self.path = Path(PATH[0])

    async def on_created(self, event: CustomerCreated) -> None:
        with self.path.open("a") as file:
            file.write(f"{self.idempotency_key(event)} {event.customer_id}\n")


class Blocking(Handler, policy=Policy(timeout_s=600)):
    """Never returns, and blocks its event loop."""

    async def on_created(self, event: CustomerCreated) -> None:
        time.sleep(600)  # noqa: ASYNC251 - what must not matter


PATH: list[str] = [""]
application = Application([Customer, Order], [CustomerProjection], [Writing, Blocking])


async def test_one_that_blocks_holds_up_nobody_else(
    ray_address: str, store_url: str, settings: Settings, tmp_path: Path
) -> None:
    PATH[0] = str(tmp_path / "lines")
    began = time.monotonic()
    async with Runtime.open(store_url, app=application, address=ray_address, settings=settings) as runtime:
        for number in range(5):
            receipt = await runtime.submit(
                CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com")
            )
            assert await runtime.query(CustomerProjection, f"c-{number}", after=receipt) is not None
        async with asyncio.timeout(20):
            while not (tmp_path / "lines").exists() or len((tmp_path / "lines").read_text().splitlines()) < 5:
                await asyncio.sleep(0.05)
    assert {line.split()[1] for line in (tmp_path / "lines").read_text().splitlines()} == {
        f"c-{number}" for number in range(5)
    }
    assert time.monotonic() - began < 60
