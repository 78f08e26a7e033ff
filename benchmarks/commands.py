"""Commands per second and latency, through the whole path: `python -m benchmarks.commands [--json]`.

Mixed commands (creations, orders, e-mail changes, promotions) over many customers, a bounded number in flight, each
commit durable, the projection following; then the counts in the log and in the read model are checked. A lone
command's latency stands beside what it can't do without, measured in the same run: one empty Ray actor call and one
durable one-row commit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import ray

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from actors.hosting import HostHealth
from actors.wire import Receipt
from benchmarks.machine import describe, one_row_commit_p50_ms
from cluster import Runtime
from cluster.lag import Lag, catch_up
from cluster.ray_edge import namespace_of
from projections.customers import CustomerProjection
from store.opening import open_store

LONE_COMMANDS = 200
NO_LAG = Lag(0, 0.0)
ROUNDS = 10
"""The lone commands and what they are held against take turns, so that a noisy moment hits all of them."""


@dataclass(slots=True)
class Load:
    """What the load phase saw. Durations in seconds."""

    latencies_s: list[float] = field(default_factory=list)
    last_receipts: dict[int, Receipt] = field(default_factory=dict)
    seconds: float = 0.0
    lag: Lag = NO_LAG


def workload(commands: int, customers: int) -> Iterator[Command]:
    """Yield mixed commands, none of which will be refused; always the same. Creations are spread evenly."""
    chance = random.Random(1)
    created: list[str] = []
    vips: set[str] = set()
    for number in range(commands):
        if len(created) * commands <= number * customers and len(created) < customers:
            customer_id = f"c-{len(created)}"
            created.append(customer_id)
            yield CreateCustomer(customer_id=customer_id, name=f"Customer {number}", email=f"{customer_id}@example.com")
            continue
        customer_id, kind = chance.choice(created), chance.random()
        if kind < 0.1 and customer_id not in vips:
            vips.add(customer_id)
            yield PromoteToVip(customer_id=customer_id, reason="benchmark")
        elif kind < 0.25:
            yield ChangeEmail(customer_id=customer_id, email=f"{customer_id}-{number}@example.com")
        else:
            amount = Decimal(chance.randrange(10_000)) / 100
            yield CreateOrder(order_id=f"o-{number}", customer_id=customer_id, total_amount=amount)


async def put_under_load(runtime: Runtime, url: str, commands: list[Command], in_flight: int) -> Load:
    """Submit all commands, `in_flight` at a time; wait until the read model holds them."""
    load, pending = Load(), iter(commands)

    async def submit_some() -> None:
        for command in pending:
            started = time.perf_counter()
            receipt = await runtime.submit(command)
            load.latencies_s.append(time.perf_counter() - started)
            last = load.last_receipts.get(receipt.shard)
            if last is None or last.position < receipt.position:
                load.last_receipts[receipt.shard] = receipt

    started = time.perf_counter()
    await asyncio.gather(*(submit_some() for _ in range(in_flight)))
    load.seconds = time.perf_counter() - started
    load.lag = await catch_up(runtime, url, CustomerProjection, "c-0", load.last_receipts)
    return load


class Empty:
    """An actor that does nothing: what a Ray call costs by itself."""

    async def nothing(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload


async def measure_lone(runtime: Runtime, directory: Path) -> dict[str, float]:
    """Return medians in ms of a lone command, an empty Ray actor call and a durable one-row commit.

    The lone command goes to a customer in memory; a lone order has a new stream, for which the log is asked first.
    """
    actor: Any = ray.remote(Empty).options(num_cpus=0).remote()
    await actor.nothing.remote(b"")
    lone_ms, order_ms, call_ms, commit_ms = [], [], [], []
    await runtime.submit(CreateCustomer(customer_id="lone", name="Lone", email="lone@example.com"))
    per_round = LONE_COMMANDS // ROUNDS
    for this_round in range(ROUNDS):
        for number in range(per_round):
            change = ChangeEmail(customer_id="lone", email=f"lone-{this_round}-{number}@example.com")
            started = time.perf_counter()
            await runtime.submit(change)
            lone_ms.append((time.perf_counter() - started) * 1000)
        for number in range(per_round):
            order_id = f"lone-{this_round}-{number}"
            order = CreateOrder(order_id=order_id, customer_id="lone", total_amount=Decimal(1))
            started = time.perf_counter()
            await runtime.submit(order)
            order_ms.append((time.perf_counter() - started) * 1000)
        for _ in range(per_round):
            started = time.perf_counter()
            await actor.nothing.remote(b"x" * 300)
            call_ms.append((time.perf_counter() - started) * 1000)
        commit_ms.append(one_row_commit_p50_ms(directory / f"one-row-{this_round}.db", per_round))
    ray.kill(actor)
    lone, call, commit = statistics.median(lone_ms), statistics.median(call_ms), statistics.median(commit_ms)
    return {
        "lone_command_p50_ms": lone,
        "lone_order_p50_ms": statistics.median(order_ms),
        "empty_ray_call_p50_ms": call,
        "one_row_commit_p50_ms": commit,
        "lone_command_over_call_plus_commit": lone / (call + commit),
    }


async def commits_so_far(url: str) -> int:
    """Return how many transactions the hosts have committed, once their counts have caught up with the log."""
    store = await open_store(url, create=False)
    try:
        hosts = {route.host for route in await store.routes() if route.host is not None}
        namespace, events = namespace_of(store.store_id), sum((await store.heads()).values())
    finally:
        await store.close()
    handles = [await asyncio.to_thread(ray.get_actor, host, namespace=namespace) for host in hosts]
    async with asyncio.timeout(10):
        while True:
            healths: list[HostHealth] = await asyncio.gather(*(handle.health.remote() for handle in handles))
            if sum(health.events for health in healths) == events:
                return sum(health.commits for health in healths)
            await asyncio.sleep(0.05)


def check_counts(directory: Path, commands: list[Command]) -> None:
    """Compare the log and the read model with what was submitted. Raises SystemExit at a difference."""
    kinds = [type(command) for command in commands]
    expected = {
        "events": len(commands) + 2 * LONE_COMMANDS + 1,
        "customers": kinds.count(CreateCustomer) + 1,
        "orders": kinds.count(CreateOrder) + LONE_COMMANDS,
        "vips": kinds.count(PromoteToVip),
    }
    log, read_model = sqlite3.connect(directory / "bench.db"), sqlite3.connect(directory / "bench.read.db")
    try:
        (events,) = log.execute("SELECT count(*) FROM events").fetchone()
        customers, orders, vips = read_model.execute(
            "SELECT count(*), sum(total_orders), sum(type = 'Vip') FROM customers"
        ).fetchone()
    finally:
        log.close()
        read_model.close()
    found = {"events": events, "customers": customers, "orders": orders, "vips": vips}
    if found != expected:
        sys.exit(f"the counts differ: {found} instead of {expected}")


async def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Run all phases on a new store in `directory`."""
    commands = list(workload(arguments.commands, arguments.customers))
    url = f"sqlite:///{(directory / 'bench.db').absolute()}"
    async with Runtime.open(url) as runtime:
        lone = await measure_lone(runtime, directory)
        before = await commits_so_far(url)
        load = await put_under_load(runtime, url, commands, arguments.in_flight)
        commits = await commits_so_far(url) - before
    check_counts(directory, commands)
    cuts = statistics.quantiles(load.latencies_s, n=100)
    return {
        "commands": len(commands),
        "customers": arguments.customers,
        "in_flight": arguments.in_flight,
        "seconds": load.seconds,
        "commands_per_s": len(commands) / load.seconds,
        "latency_p50_ms": cuts[49] * 1000,
        "latency_p99_ms": cuts[98] * 1000,
        "commits": commits,
        "commands_per_commit": len(commands) / commits,
        "projection_lag_events": load.lag.events,
        "projection_lag_s": load.lag.seconds,
        **lone,
        **describe(directory),
    }


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=int, default=60_000)
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--directory", type=Path, help="where the store is made; default: the system's for such files")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="eventray-bench-", dir=arguments.directory) as directory:
        figures = asyncio.run(measure(arguments, Path(directory)))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:36} {value:,.2f}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main()
