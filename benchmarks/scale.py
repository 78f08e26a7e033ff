"""What a command costs as hosts and nodes are added: `python -m benchmarks.scale [--store postgres] [--json]`.

On few cores throughput can't show how a system scales; CPU time for each command can: of driver, hosts, store,
projections, read models, coordinator, exporter and Ray, apart. One runtime on local nodes begun for this is scaled up,
with as much in flight for each host at every size. Ray calls and transactions are counted, and from all that is
reckoned what 10, 100 and 1,000 hosts would come to (`ceilings.py`, docs/scaling.md). Linux only.

The JSON: `store`, `settings`, `points`, `one_host`, `small_calls`, `ray_call`, `costs`, `ceilings`, `took_s`,
`measured_on`. A point has `hosts`, `nodes`, `in_flight`, `commands`; `commands_per_s`; `cpu_us_per_command` by role
(`driver`, `host`, `store`, `projection`, `read_models`, `coordinator`, `exporter`, `ray`, and `all`), each of these
with `median`, `min`, `max`; as medians `cpu_us_per_command_by_thread`, `ray_calls_per_1000` by method,
`transactions_per_1000` by operation, `commands_per_call`, `commands_per_append`, `append_us_per_command` (by the
clock), `wal_bytes_per_command`, `fixed_work_us` (CPU of what is always the same work: how fast the machine was); what
the same processes take at rest, `standing_cpu_ms_per_s` by role, `standing_cpu_ms_per_s_by_thread`,
`standing_ray_calls_per_s`; `processes` by role, and on PostgreSQL `sessions`. `one_host` is a point of one host with
as much in flight as the largest size, `small_calls` one with little; `ray_call` has the CPU of an empty Ray call,
`caller_us` and `callee_us`. `costs` are `fixed` and `each` of lines, `ceilings` a list by hosts and commands in
flight of each driver.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.ceilings import Line, ceiling, costs_of
from benchmarks.processes import check_linux
from benchmarks.reporting import DESCRIPTION_SHOWN, shown

if TYPE_CHECKING:
    from cluster import Runtime

SHARDS = 64
NODES_MAX = 4
NODES_WITHIN_S = 30.0
SMALL_IN_FLIGHT = 8
SMALL_SHARE = 0.1
"""Of the commands, with small calls."""
CEILINGS = tuple((hosts, in_flight) for hosts in (10, 100, 1_000) for in_flight in (1_000, 10_000))
"""Hosts, and commands in flight of each driver."""

TABLE_WIDTH = 130
SHOWN = {
    "at rest, CPU in ms for each second": "standing_cpu_ms_per_s",
    "Ray calls for 1,000 commands": "ray_calls_per_1000",
    "at rest, Ray calls for each second": "standing_ray_calls_per_s",
    "transactions for 1,000 commands": "transactions_per_1000",
}
"""Tables by their titles."""


async def measure(arguments: argparse.Namespace, url: str) -> dict[str, Any]:
    """Scale a runtime up on nodes that are added for it; return the points, with small calls, and of bare Ray calls."""
    import ray
    from ray.cluster_utils import Cluster

    from benchmarks.scaling import Plan, Size, measure_call, measure_size
    from cluster import Runtime

    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    plan = Plan(arguments.commands, arguments.in_flight, arguments.repeats, arguments.rest)
    small = plan._replace(commands=max(100, int(plan.commands * SMALL_SHARE)), in_flight_per_host=SMALL_IN_FLIGHT)
    points: list[dict[str, Any]] = []
    try:
        async with Runtime.open(url, hosts=1, shards=SHARDS, address=cluster.address) as runtime:
            began_s = time.monotonic()
            small_calls = await measure_size(runtime, url, Size(1, 1), small)
            ray_call = await measure_call()
            together = plan._replace(in_flight_per_host=plan.in_flight_per_host * arguments.hosts[-1])
            one_host = await measure_size(runtime, url, Size(1, 1), together)
            for hosts in arguments.hosts:
                nodes = min(hosts, NODES_MAX)
                for _ in range(nodes - 1 - len(cluster.worker_nodes)):
                    cluster.add_node(wait=False, num_cpus=1)  # on this thread, for Ray sets signal handlers
                await _until_there(runtime, nodes)
                await runtime.scale(hosts)
                points.append(await measure_size(runtime, url, Size(hosts, nodes), plan))
                print(f"{hosts} hosts on {nodes} nodes are measured, {time.monotonic() - began_s:.0f} s")
    finally:
        await asyncio.to_thread(ray.shutdown)
        await asyncio.to_thread(cluster.shutdown)
    return {"points": points, "one_host": one_host, "small_calls": small_calls, "ray_call": ray_call}


async def _until_there(runtime: Runtime, nodes: int) -> None:
    async with asyncio.timeout(NODES_WITHIN_S):
        while len((await runtime.status()).nodes) < nodes:  # noqa: ASYNC110 - it can only be asked
            await asyncio.sleep(0.1)


def report(arguments: argparse.Namespace, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON of a run but for what it was measured on."""
    costs = costs_of(measured["points"], measured["small_calls"], sqlite=arguments.store == "sqlite")
    return {
        "store": "sqlite" if arguments.store == "sqlite" else "postgres",
        "settings": {
            "in_flight_per_host": arguments.in_flight,
            "commands": arguments.commands,
            "repeats": arguments.repeats,
            "rest_s": arguments.rest,
            "shards": SHARDS,
        },
        **measured,
        "costs": {
            name: value._asdict() if isinstance(value, Line) else value for name, value in costs._asdict().items()
        },
        "ceilings": [ceiling(costs, hosts, in_flight)._asdict() for hosts, in_flight in CEILINGS],
    }


def print_tables(figures: Mapping[str, Any]) -> None:
    """Print what people read of it."""
    console = Console(highlight=False, width=TABLE_WIDTH)
    described = figures["measured_on"]
    console.print(", ".join(f"{name} {described[name]}" for name in DESCRIPTION_SHOWN if name in described))
    points = [*figures["points"], figures["one_host"], figures["small_calls"]]
    heads = [f"{p['hosts']} hosts\n{p['nodes']} nodes\n{p['in_flight']} in flight" for p in points]
    console.print(_table("CPU of a command in us, beyond what is spent at rest", heads, [_cpu(p) for p in points]))
    for title, name in SHOWN.items():
        console.print(_table(title, heads, [point[name] for point in points]))
    console.print("an empty Ray call, CPU:", ", ".join(f"{name} {us:,.0f}" for name, us in figures["ray_call"].items()))
    ceilings = figures["ceilings"]
    heads = [f"{each['hosts']} hosts\n{each['in_flight']} in flight" for each in ceilings]
    console.print(_table("by arithmetic from these (in flight: of each driver)", heads, ceilings))


def _cpu(point: Mapping[str, Any]) -> dict[str, float]:
    return {
        "commands/s": point["commands_per_s"]["median"],
        **{role: each["median"] for role, each in point["cpu_us_per_command"].items()},
        "commands/call": point["commands_per_call"],
        "commands/append": point["commands_per_append"],
        "fixed work": point["fixed_work_us"],
    }


def _table(title: str, heads: Sequence[str], columns: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE)
    table.add_column("", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for name in dict.fromkeys(name for column in columns for name in column):
        table.add_row(name, *(_shown(column.get(name, "")) for column in columns))
    return table


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else shown(value)


def read_arguments() -> argparse.Namespace:
    """Parse the arguments, checked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--hosts", type=_rising, default=[1, 2, 4, 8], help="sizes, rising: 1,2,4,8; up to 4 nodes")
    parser.add_argument("--in-flight", type=int, default=500, help="commands under way for each host")
    parser.add_argument("--commands", type=int, default=10_000, help="in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rest", type=float, default=1.5, help="seconds without commands beside each repeat")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.commands < 100 or arguments.repeats < 1 or arguments.in_flight < 1 or arguments.rest <= 0:
        parser.error("--commands: give 100 or more; --repeats, --in-flight, --rest: more than 0")
    return arguments


def _rising(text: str) -> list[int]:
    sizes = [int(each) if each.isascii() and each.isdigit() else 0 for each in text.split(",")]
    if sizes != sorted(set(sizes)) or not 1 <= sizes[0] <= sizes[-1] <= SHARDS:
        raise argparse.ArgumentTypeError(f"{text}: give rising numbers from 1 to {SHARDS}, parted by commas")
    return sizes


def main() -> None:
    """Parse the arguments, measure, print."""
    check_linux()
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(prefix="bs-", ignore_cleanup_errors=True) as directory:  # Ray's sockets are in it
        os.environ.update(RAY_TMPDIR=directory, RAY_AUTH_MODE="disabled")
        from benchmarks.places import place

        async def whole() -> dict[str, Any]:
            with place(arguments.store, Path(directory) / "store") as found:
                began_s = time.monotonic()
                measured = await measure(arguments, await found.new_url("scale"))
                took_s = round(time.monotonic() - began_s, 1)
                return report(arguments, measured) | {"took_s": took_s, "measured_on": await found.describe()}

        with redirect_stdout(sys.stderr):  # Ray tells much
            figures = asyncio.run(whole())
    if arguments.json:
        print(json.dumps(figures))
    else:
        print_tables(figures)


if __name__ == "__main__":
    main()
