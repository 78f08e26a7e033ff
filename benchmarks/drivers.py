"""Many drivers at once, as Ray tasks over the nodes of a cluster; their results are merged.

Not here: what a driver submits (`load.py`), the arguments (`commands.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ray

from actors import Command
from benchmarks.latencies import Latencies
from benchmarks.load import Load, spare_collector, submit_all, workload
from benchmarks.machine import describe
from cluster import Runtime
from cluster.lag import catch_up
from projections.customers import CustomerProjection
from store.identity import uuid7
from store.opening import open_store
from store.urls import shared_url, shown_url

DRIVER_CPUS = 0.5
"""What a driver claims of Ray. It takes a whole core if there is one to be had."""
COMMANDS_PER_CUSTOMER = 6
START_TOGETHER_MAX_S = 120.0


class Drive(NamedTuple):
    """What one driver is to do."""

    url: str
    prefix: str
    """Of its customers' ids."""
    seed: int
    seconds: float
    in_flight: int
    customers: int


class Gate:
    """A Ray actor that lets all drivers begin together."""

    def __init__(self, drivers: int) -> None:
        self._missing = drivers
        self._open = asyncio.Event()

    async def arrive(self) -> None:
        """Return once all have arrived."""
        self._missing -= 1
        if not self._missing:
            self._open.set()
        await self._open.wait()


@ray.remote(num_cpus=DRIVER_CPUS, max_retries=0, scheduling_strategy="SPREAD")
def drive(plan: Drive, gate: Any) -> tuple[str, Load]:
    """Join the runtime and submit commands for a while; return the node's id and what was seen."""
    return ray.get_runtime_context().get_node_id(), asyncio.run(_drive(plan, gate))


async def _drive(plan: Drive, gate: Any) -> Load:
    async with Runtime.open(plan.url) as runtime:
        spare_collector()
        await gate.arrive.remote()
        commands = workload(plan.customers, COMMANDS_PER_CUSTOMER, plan.prefix, plan.seed)
        return await submit_all(runtime, _for_a_while(commands, plan.seconds), plan.in_flight)


def _for_a_while(commands: Iterator[Command], seconds: float) -> Iterator[Command]:
    end_s = time.monotonic() + seconds
    return itertools.takewhile(lambda _: time.monotonic() < end_s, commands)


async def measure_on_cluster(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Let drivers submit to the runtime of a store, which is joined or begun; check the log; return the figures."""
    url = shared_url(arguments.store or f"sqlite:///{directory / 'bench.db'}")
    async with Runtime.open(url, hosts=arguments.hosts, address=arguments.address) as runtime:
        _check_room(arguments.drivers)
        before = await _events_in(url)
        prefix = f"{uuid7().hex[:12]}-"
        gate = ray.remote(Gate).options(num_cpus=0, max_concurrency=10_000).remote(arguments.drivers)
        running = [
            drive.remote(
                Drive(url, f"{prefix}{number}-", number, arguments.seconds, arguments.in_flight, arguments.customers),
                gate,
            )
            for number in range(arguments.drivers)
        ]
        async with asyncio.timeout(START_TOGETHER_MAX_S + 10 * arguments.seconds):
            results: list[tuple[str, Load]] = await asyncio.gather(*running)
        total = merged([load for _, load in results])
        lag = await catch_up(runtime, url, CustomerProjection, f"{prefix}0-c-0", total.last_receipts)
        events = await _events_in(url) - before
    if events != total.accepted and not total.failures:
        sys.exit(f"the log got {events} events instead of {total.accepted}: does anybody else write to this store?")
    quantiles = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999, "max": 1.0}
    return {
        "drivers": arguments.drivers,
        "driver_nodes": len({node for node, _ in results}),
        "in_flight_per_driver": arguments.in_flight,
        "seconds": total.seconds,
        "commands": total.accepted,
        "failures": dict(total.failures),
        "commands_per_s": total.accepted / total.seconds,
        "commands_per_s_by_driver": [round(load.accepted / load.seconds) for _, load in results],
        **{f"latency_{name}_ms": total.latencies.quantile_s(share) * 1000 for name, share in quantiles.items()},
        "events_stored": events,
        "projection_lag_events": lag.events,
        "projection_lag_s": lag.seconds,
        "store": shown_url(url),
        **describe(None if arguments.store else directory),
    }


def merged(loads: list[Load]) -> Load:
    """Return what drivers that began together saw, as if it had been one. It took as long as the longest of them."""
    total = Load(Latencies(), Counter(), {}, max(load.seconds for load in loads))
    for load in loads:
        total.latencies.merge(load.latencies)
        total.failures.update(load.failures)
        for receipt in load.last_receipts.values():
            total.note(receipt)
    return total


def _check_room(drivers: int) -> None:
    """Raise SystemExit where the cluster has no room for so many drivers: they would wait for ever."""
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    cpus = available.get("CPU", 0.0)
    if drivers * DRIVER_CPUS > cpus:
        sys.exit(f"--drivers {drivers}: the cluster has {cpus:g} CPUs free, and each driver needs {DRIVER_CPUS}")


async def _events_in(url: str) -> int:
    store = await open_store(url, create=False)
    try:
        return sum((await store.heads()).values())
    finally:
        await store.close()
