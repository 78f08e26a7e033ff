"""What live customers cost in memory: `python -m benchmarks.memory [--customers 100000] [--json]`. Linux only.

The memory of one host's process is read (PSS, and RSS): idle; with all customers created; and, in a new host on the
same store, idle again and with all customers read from the log. Each figure is taken once nothing is under way. The
aim is 300 MB above an idle host for 100,000. Not here: one Ray actor for each customer (`naive.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import ray

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer
from actors.health import HostHealth
from actors.wire import Receipt
from benchmarks.machine import describe
from benchmarks.processes import MB, check_linux, memory_mb_of
from cluster import Runtime
from cluster.ray_edge import namespace_of
from store.opening import open_store

BATCH = 5_000
SETTLING_S = 1.0
"""How long a host is left alone before its memory is read."""
AIM_MB = 300
"""Above an idle host, for `AIM_CUSTOMERS`."""
AIM_CUSTOMERS = 100_000


class HostProcess:
    """The one host of a runtime, as the machine sees it."""

    def __init__(self, handle: Any, pid: int) -> None:
        self._handle, self._pid = handle, pid

    @classmethod
    async def of(cls, url: str) -> HostProcess:
        """Find the host of the runtime on this store."""
        store = await open_store(url, create=False)
        try:
            ((name, writer),) = (await store.writers()).items()
        finally:
            await store.close()
        handle = await asyncio.to_thread(ray.get_actor, name, namespace=namespace_of(store.store_id))
        return cls(handle, writer.pid)

    async def memory_mb(self) -> dict[str, float]:
        """Return PSS and RSS in millions of bytes, once nothing is under way."""
        await asyncio.sleep(SETTLING_S)
        return memory_mb_of(self._pid)

    async def live_aggregates(self) -> int:
        """Return how many aggregates it has in memory."""
        health: HostHealth = await self._handle.health.remote()
        return health.live_aggregates


async def submit_all(runtime: Runtime, commands: Iterable[Command]) -> None:
    """Submit commands, some thousand at a time. Raises SystemExit if one is not accepted."""
    batch: list[Command] = []

    async def send() -> None:
        for answer in await runtime.submit_many(batch):
            if not isinstance(answer, Receipt):
                sys.exit(f"a command failed: {answer}")
        batch.clear()

    for command in commands:
        batch.append(command)
        if len(batch) == BATCH:
            await send()
    await send()


async def measure_growth(
    runtime: Runtime, url: str, customers: int, commands: Iterable[Command], first: Command
) -> dict[str, float]:
    """Return by how much a runtime's host grows with the commands, which are for that many customers."""
    await submit_all(runtime, [first])
    host = await HostProcess.of(url)
    idle = await host.memory_mb()
    await submit_all(runtime, commands)
    grown = await host.memory_mb()
    if (live := await host.live_aggregates()) < customers:
        sys.exit(f"the host holds {live} aggregates, not {customers}")
    above_pss, above_rss = grown["pss"] - idle["pss"], grown["rss"] - idle["rss"]
    return {
        "idle_pss_mb": idle["pss"],
        "pss_mb": grown["pss"],
        "above_idle_pss_mb": above_pss,
        "above_idle_rss_mb": above_rss,
        "bytes_per_customer": above_pss * MB / customers,
    }


async def measure(customers: int, directory: Path) -> dict[str, Any]:
    """Run both phases on a new store in `directory`."""
    url = f"sqlite:///{(directory / 'memory.db').absolute()}"
    ids = [f"customer-{number:06}" for number in range(customers)]
    creations = (
        CreateCustomer(customer_id=each, name=f"Customer of the shop {each}", email=f"{each}@example.com")
        for each in ids
    )
    changes = (ChangeEmail(customer_id=each, email=f"{each}@example.org") for each in ids)
    lone = CreateCustomer(customer_id="lone", name="Lone", email="lone@example.com")
    again = ChangeEmail(customer_id="lone", email="lone@example.org")
    async with Runtime.open(url) as runtime:
        created = await measure_growth(runtime, url, customers, creations, lone)
    async with Runtime.open(url) as runtime:
        read = await measure_growth(runtime, url, customers, changes, again)
    most_mb = max(created["above_idle_pss_mb"], read["above_idle_pss_mb"])
    return {
        "customers": customers,
        **{f"created_{name}": value for name, value in created.items()},
        **{f"read_{name}": value for name, value in read.items()},
        "most_above_idle_pss_mb": most_mb,
        "share_of_the_aim": most_mb / (AIM_MB * customers / AIM_CUSTOMERS),
        **describe(directory),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    check_linux()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--customers", type=int, default=AIM_CUSTOMERS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.customers < 1:
        parser.error(f"--customers {arguments.customers}: give 1 or more")
    with tempfile.TemporaryDirectory(prefix="eventray-bench-") as directory:
        figures = asyncio.run(measure(arguments.customers, Path(directory)))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:36} {value:,.1f}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main()
