"""Commands per second through the whole path: `python -m benchmarks.commands [--store sqlite|postgres|URL] [--json]`.

Mixed commands (creations, orders, e-mail changes, promotions) over many customers, each commit durable, the projection
following; then the counts in the log and in the read model are checked. Both ways of a driver: one that awaits many
commands at once, and `submit_many` of a batch after another. In the same run, before each time that a runtime is
begun: the peers and the bare driver (`peers.py`), singly beside singly, batches beside batches of the same size. Not
here: latency under load (`latency.py`).

`--address A --drivers N --seconds S` puts a cluster under load instead: N drivers as Ray tasks over its nodes.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import case, func, select

from actors import Command
from actors.customers import CreateCustomer, CreateOrder, PromoteToVip
from actors.wire import Receipt
from benchmarks.drivers import measure_on_cluster
from benchmarks.hosts import healths
from benchmarks.load import spare_collector, submit_all, workload
from benchmarks.lone import LONE_COMMANDS, measure_lone
from benchmarks.peers import measure_peers
from benchmarks.places import Place, add_runtime_arguments, at_least_1, place
from benchmarks.reporting import print_report, spreads
from cluster import Runtime
from cluster.lag import catch_up
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.errors import EventrayError
from store.opening import open_store

PEER_BATCHES = 5
"""Batches of a peer for as many single commands as one of its batches has."""


async def commits_so_far(url: str) -> int:
    """Return how many transactions the hosts have committed that wrote all of this log."""
    store = await open_store(url, create=False)
    try:
        events = sum((await store.heads()).values())
    finally:
        await store.close()
    return sum([health.commits for health in await healths(url, events)])


async def check_counts(runtime: Runtime, url: str, commands: Sequence[Command]) -> None:
    """Compare the log and the read model with what was submitted. Raises SystemExit at a difference."""
    kinds = [type(command) for command in commands]
    expected = {
        "events": len(commands) + 2 * LONE_COMMANDS + 1,
        "customers": kinds.count(CreateCustomer) + 1,
        "orders": kinds.count(CreateOrder) + LONE_COMMANDS,
        "vips": kinds.count(PromoteToVip),
    }
    store = await open_store(url, create=False)
    try:
        events = sum((await store.heads()).values())
    finally:
        await store.close()
    (table,) = CustomerProjection.tables
    counting: Any = select(
        func.count().label("customers"),
        func.sum(table.c.total_orders).label("orders"),
        func.sum(case((table.c.type == "Vip", 1), else_=0)).label("vips"),
    ).select_from(table)
    (counted,) = await runtime.select(CustomerProjection, counting)
    found = {"events": events, **{name: int(value) for name, value in counted.items()}}
    if found != expected:
        sys.exit(f"the counts differ: {found} instead of {expected}")


async def measure_runtime(
    found: Place, name: str, awaited: Sequence[Command], batched: Sequence[Command], arguments: argparse.Namespace
) -> dict[str, float]:
    """Begin a runtime on a new store; submit lone commands, then `awaited` many at once, then `batched`."""
    url = await found.new_url(name)
    async with Runtime.open(url, arguments.hosts, shards=arguments.shards) as runtime:
        await until_all_serve(runtime.status)
        spare_collector()
        lone = await measure_lone(runtime, found, name)
        before = await commits_so_far(url)
        load = await submit_all(runtime, iter(awaited), arguments.in_flight)
        lag = await catch_up(runtime, url, CustomerProjection, "c-0", load.last_receipts)
        commits = await commits_so_far(url) - before
        middle = len(batched) // 2
        batched_s, last_receipts = await _in_batches(runtime, batched[:middle], arguments.batch)
        await catch_up(runtime, url, CustomerProjection, "c-0", last_receipts)
        large_s, last_receipts = await _in_batches(runtime, batched[middle:], arguments.large_batch)
        await catch_up(runtime, url, CustomerProjection, "c-0", last_receipts)
        await check_counts(runtime, url, [*awaited, *batched])
    return {
        "seconds": load.seconds,
        "commands_per_s": len(awaited) / load.seconds,
        "latency_p50_ms": load.latencies.quantile_s(0.5) * 1000,
        "latency_p99_ms": load.latencies.quantile_s(0.99) * 1000,
        "commits": commits,
        "commands_per_commit": len(awaited) / commits,
        "projection_lag_events": lag.events,
        "projection_lag_s": lag.seconds,
        "submit_many_per_s": middle / batched_s,
        "submit_many_large_per_s": (len(batched) - middle) / large_s,
        **lone,
    }


async def _in_batches(runtime: Runtime, commands: Sequence[Command], size: int) -> tuple[float, dict[int, Receipt]]:
    last_receipts: dict[int, Receipt] = {}
    began_s = time.perf_counter()
    for start in range(0, len(commands), size):
        for result in await runtime.submit_many(commands[start : start + size]):
            if not isinstance(result, Receipt):
                raise result
            last_receipts[result.shard] = result
    return time.perf_counter() - began_s, last_receipts


async def measure_round(found: Place, number: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Run the peers, then the runtime, each in databases of its own."""
    per_customer = arguments.commands / arguments.customers
    peers: dict[str, float] = {}
    if arguments.peer_commands:
        singles, batched = (
            list(itertools.islice(workload(max(1, round(count / per_customer)), per_customer), count))
            for count in (arguments.peer_commands, PEER_BATCHES * arguments.peer_commands)
        )
        sizes = (arguments.batch, arguments.large_batch)
        spare_collector()
        peers = await measure_peers(found, f"peer_{number}", singles, batched, sizes)
    commands = workload(arguments.customers, per_customer)
    awaited = list(itertools.islice(commands, arguments.commands))
    batched = list(itertools.islice(commands, arguments.commands))
    ours = await measure_runtime(found, f"commands_{number}", awaited, batched, arguments)
    return ours | peers | _ratios(ours, peers)


def _ratios(ours: dict[str, float], peers: dict[str, float]) -> dict[str, float]:
    if not peers:
        return {}
    single, batched, large = (ours[name] for name in ("commands_per_s", "submit_many_per_s", "submit_many_large_per_s"))
    return {
        "over_eventsourcing_each": single / peers["eventsourcing_each_per_s"],
        "over_eventsourcing_each_cached": single / peers["eventsourcing_each_cached_per_s"],
        "over_eventsource_py_each": single / peers["eventsource_py_each_per_s"],
        "over_raw_driver_one_row": single / peers["raw_driver_one_row_per_s"],
        "submit_many_over_eventsourcing_batched": batched / peers["eventsourcing_batched_per_s"],
        "submit_many_large_over_eventsourcing_batched": large / peers["eventsourcing_batched_large_per_s"],
        "submit_many_over_raw_driver_batched": batched / peers["raw_driver_batched_per_s"],
    }


def read_arguments() -> argparse.Namespace:
    """Parse the arguments, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.commands", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=at_least_1, default=60_000, help="awaited singly, and as many in batches")
    parser.add_argument("--in-flight", type=at_least_1, default=1_000, help="commands under way, of each driver")
    parser.add_argument("--customers", type=at_least_1, default=10_000, help="of each driver")
    parser.add_argument("--batch", type=at_least_1, default=500, help="commands of a submit_many, of a peer's save")
    parser.add_argument("--large-batch", type=at_least_1, default=5_000, help="the same once more, with so many")
    parser.add_argument("--peer-commands", type=int, default=2_000, help="of each peer; 0: no peers")
    parser.add_argument("--repeats", type=at_least_1, default=3)
    parser.add_argument("--directory", type=Path, help="where the store is made; default: the system's for such files")
    parser.add_argument(
        "--store",
        help="sqlite (default), postgres (a server of its own) or postgresql://...; on a cluster its store's URL, "
        "default: EVENTRAY_STORE, or a new one",
    )
    add_runtime_arguments(parser, hosts=2)
    parser.add_argument("--json", action="store_true")
    cluster = parser.add_argument_group("on a cluster")
    cluster.add_argument("--address", help="of Ray: HOST:PORT or auto; default: RAY_ADDRESS, or a Ray started for it")
    cluster.add_argument("--drivers", type=at_least_1, help="Ray tasks that submit, spread over the nodes")
    cluster.add_argument("--seconds", type=float, default=10.0, help="how long the drivers submit")
    arguments = parser.parse_args()
    if not 0 < arguments.seconds <= 24 * 3600:
        parser.error(f"--seconds {arguments.seconds}: give more than 0, and a day at most")
    if arguments.peer_commands < 0:
        parser.error(f"--peer-commands {arguments.peer_commands}: give 0 or more")
    if arguments.address and arguments.drivers is None:
        arguments.drivers = 1
    if arguments.drivers is not None:
        arguments.store = arguments.store or os.environ.get("EVENTRAY_STORE")
    return arguments


def drive_cluster(arguments: argparse.Namespace, directory: Path) -> None:
    """Put a cluster under load, print what came of it."""
    figures = asyncio.run(measure_on_cluster(arguments, directory))
    if arguments.json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name:36} {value:,.2f}" if isinstance(value, float) else f"{name:36} {value}")


def drive_alone(arguments: argparse.Namespace, directory: Path) -> None:
    """Measure rounds on this machine, print their spread; in JSON the medians also stand by themselves."""

    async def all_rounds(found: Place) -> tuple[list[dict[str, float]], dict[str, Any]]:
        rounds = [await measure_round(found, number, arguments) for number in range(arguments.repeats)]
        return rounds, await found.describe()

    with place(arguments.store or "sqlite", directory) as found:
        rounds, measured_on = asyncio.run(all_rounds(found))
    figures = spreads(rounds)
    names = (
        "hosts",
        "shards",
        "commands",
        "in_flight",
        "customers",
        "batch",
        "large_batch",
        "peer_commands",
        "repeats",
    )
    settings = {name: getattr(arguments, name) for name in names}
    medians = {name: values["median"] for name, values in figures.items()} if arguments.json else {}
    print_report(figures, settings | medians, measured_on, arguments.json)


def main() -> None:
    """Parse the arguments, measure, print."""
    arguments = read_arguments()
    drive = drive_alone if arguments.drivers is None else drive_cluster
    with tempfile.TemporaryDirectory(
        prefix="eventray-bench-", dir=arguments.directory, ignore_cleanup_errors=True
    ) as directory:
        try:
            drive(arguments, Path(directory))
        except EventrayError as error:
            sys.exit(f"benchmarks.commands: {error}")


if __name__ == "__main__":
    main()
