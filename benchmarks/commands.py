"""Commands per second and latency, through the whole path: `python -m benchmarks.commands [--json]`.

Mixed commands (creations, orders, e-mail changes, promotions) over many customers, a bounded number in flight, each
commit durable, the projection following; then the counts in the log and in the read model are checked. A lone
command's latency stands beside what it can't do without, measured in the same run: one empty Ray actor call and one
durable one-row commit.

`--address A --drivers N --seconds S` puts a cluster under load instead: N drivers as Ray tasks over its nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sqlite3
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import ray

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from actors.hosting import HostHealth
from benchmarks.drivers import measure_on_cluster
from benchmarks.load import submit_all, workload
from benchmarks.machine import describe, one_row_commit_p50_ms
from cluster import Runtime
from cluster.lag import catch_up
from cluster.ray_edge import namespace_of
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.errors import EventrayError
from store.opening import open_store

LONE_COMMANDS = 200
ROUNDS = 10
"""The lone commands and what they are held against take turns, so that a noisy moment hits all of them."""


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
    commands_per_customer = arguments.commands / arguments.customers
    commands = list(itertools.islice(workload(arguments.customers, commands_per_customer), arguments.commands))
    url = f"sqlite:///{(directory / 'bench.db').absolute()}"
    async with Runtime.open(url) as runtime:
        await until_all_serve(runtime.status)
        lone = await measure_lone(runtime, directory)
        before = await commits_so_far(url)
        load = await submit_all(runtime, iter(commands), arguments.in_flight)
        lag = await catch_up(runtime, url, CustomerProjection, "c-0", load.last_receipts)
        commits = await commits_so_far(url) - before
    check_counts(directory, commands)
    return {
        "commands": len(commands),
        "customers": arguments.customers,
        "in_flight": arguments.in_flight,
        "seconds": load.seconds,
        "commands_per_s": len(commands) / load.seconds,
        "latency_p50_ms": load.latencies.quantile_s(0.5) * 1000,
        "latency_p99_ms": load.latencies.quantile_s(0.99) * 1000,
        "commits": commits,
        "commands_per_commit": len(commands) / commits,
        "projection_lag_events": lag.events,
        "projection_lag_s": lag.seconds,
        **lone,
        **describe(directory),
    }


def read_arguments() -> argparse.Namespace:
    """Parse the arguments, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=_at_least_1, default=60_000)
    parser.add_argument("--in-flight", type=_at_least_1, default=1_000, help="commands under way, of each driver")
    parser.add_argument("--customers", type=_at_least_1, default=10_000, help="of each driver")
    parser.add_argument("--directory", type=Path, help="where the store is made; default: the system's for such files")
    parser.add_argument("--json", action="store_true")
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument("--address", help="of Ray: HOST:PORT or auto; default: RAY_ADDRESS, or a Ray started for it")
    cluster.add_argument("--drivers", type=_at_least_1, help="Ray tasks that submit, spread over the nodes")
    cluster.add_argument("--seconds", type=float, default=10.0, help="how long the drivers submit")
    cluster.add_argument("--hosts", type=_at_least_1, default=1, help="of the runtime, where none is there to join")
    cluster.add_argument(
        "--store", default=os.environ.get("EVENTRAY_STORE"), help="default: EVENTRAY_STORE, or a new one"
    )
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 24 * 3600:
        parser.error(f"--seconds {arguments.seconds}: give more than 0, and a day at most")
    if arguments.address and arguments.drivers is None:
        arguments.drivers = 1
    return arguments


def _at_least_1(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text}: give a whole number from 1 on")
    return int(text)


def main() -> None:
    """Parse the arguments, measure, print."""
    arguments = read_arguments()
    work = measure if arguments.drivers is None else measure_on_cluster
    with tempfile.TemporaryDirectory(prefix="eventray-bench-", dir=arguments.directory) as directory:
        try:
            figures = asyncio.run(work(arguments, Path(directory)))
        except EventrayError as error:
            sys.exit(f"benchmarks.commands: {error}")
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:36} {value:,.2f}" if isinstance(value, float) else f"{name:36} {value}")


if __name__ == "__main__":
    main()
