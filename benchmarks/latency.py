"""How long a command takes: `python -m benchmarks.latency [--store sqlite|postgres|URL] [--json]`.

A lone command, beside one empty Ray actor call and one durable one-row commit in turns with it. Mixed commands with 1
to some thousands in flight: throughput and percentiles for each. Then, at half of the highest rate that was seen there,
commands come when they are due whatever becomes of the earlier ones (an open loop), and each one's latency counts from
when it was due. All through the whole path, each commit durable, the projection following.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors import Command
from benchmarks.latencies import Latencies
from benchmarks.load import Load, spare_collector, submit_all, submit_paced, workload
from benchmarks.lone import measure_lone
from benchmarks.places import Place, add_runtime_arguments, place
from benchmarks.reporting import print_report, spread, spreads
from cluster import Runtime
from cluster.lag import catch_up
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.errors import EventrayError

CUSTOMERS = 10_000
COMMANDS_PER_CUSTOMER = 6
IN_FLIGHT = (1, 10, 100, 500, 1_000, 2_000, 4_000)
COMMANDS_EACH = 20
"""At a concurrency, each of so many in flight does so many commands; at least `--commands-least` in all."""
QUANTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99}


async def measure_once(
    found: Place, number: int, arguments: argparse.Namespace
) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Measure on a new store; return the figures, and a row for each concurrency."""
    url, commands = await found.new_url(f"latency_{number}"), workload(CUSTOMERS, COMMANDS_PER_CUSTOMER)
    async with Runtime.open(url, arguments.hosts, shards=arguments.shards) as runtime:
        await until_all_serve(runtime.status)
        spare_collector()
        lone = await measure_lone(runtime, found, f"latency_{number}")
        await submit_all(runtime, itertools.islice(commands, arguments.warm_up), IN_FLIGHT[-1])
        rows = [await _at(runtime, commands, in_flight, arguments) for in_flight in arguments.in_flight]
        top_rate = max(row["commands/s"] for row in rows)
        load = await submit_paced(runtime, commands, top_rate / 2, arguments.seconds)
        _check(load)
        await catch_up(runtime, url, CustomerProjection, "c-0", load.last_receipts)
    paced = {f"half_rate_{name}_ms": value for name, value in _quantiles_ms(load.latencies).items()}
    rates = {"top_rate_per_s": top_rate, "half_rate_per_s": load.accepted / load.seconds}
    return lone | rates | paced, rows


async def _at(
    runtime: Runtime, commands: Iterator[Command], in_flight: int, arguments: argparse.Namespace
) -> dict[str, float]:
    count = max(arguments.commands_least, COMMANDS_EACH * in_flight)
    load = await submit_all(runtime, itertools.islice(commands, count), in_flight)
    _check(load)
    quantiles = {f"{name} ms": value for name, value in _quantiles_ms(load.latencies).items()}
    return {"in flight": in_flight, "commands/s": load.accepted / load.seconds, **quantiles}


def _quantiles_ms(latencies: Latencies) -> dict[str, float]:
    return {name: latencies.quantile_s(share) * 1000 for name, share in QUANTILES.items()}


def _check(load: Load) -> None:
    if load.failures:
        sys.exit(f"commands failed: {dict(load.failures)}")


def curve_of(rounds: list[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Return the rows of rounds as one: medians, and of the commands in a second also the extremes."""
    curve = []
    for rows in zip(*rounds, strict=True):
        row = {name: spread([each[name] for each in rows])["median"] for name in rows[0]}
        rates = spread([each["commands/s"] for each in rows])
        curve.append(row | {"least commands/s": rates["min"], "most commands/s": rates["max"]})
    return curve


async def measure(found: Place, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Measure several times; return figures with their spread, settings with the curve, and what it was measured on."""
    measured = [await measure_once(found, number, arguments) for number in range(arguments.repeats)]
    settings = {name: getattr(arguments, name) for name in ("hosts", "shards", "seconds", "repeats")}
    settings["customers"] = CUSTOMERS
    curve = curve_of([rows for _, rows in measured])
    return spreads([figures for figures, _ in measured]), settings | {"curve": curve}, await found.describe()


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--in-flight", type=int, nargs="+", default=IN_FLIGHT, help="numbers of commands under way")
    parser.add_argument("--commands-least", type=int, default=500, help="at each of these numbers")
    parser.add_argument("--warm-up", type=int, default=20_000, help="commands before all that, not counted")
    parser.add_argument("--seconds", type=float, default=10, help="how long commands come at half of the top rate")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where stores are made, and stay; default: one that is removed")
    add_runtime_arguments(parser, hosts=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.seconds, arguments.repeats, arguments.commands_least, *arguments.in_flight) <= 0:
        parser.error("--seconds, --repeats, --commands-least, --in-flight: give more than 0")
    with place(arguments.store, arguments.directory) as found:
        try:
            figures, settings, measured_on = asyncio.run(measure(found, arguments))
        except EventrayError as error:
            sys.exit(f"benchmarks.latency: {error}")
    print_report(figures, settings, measured_on, arguments.json)


if __name__ == "__main__":
    main()
