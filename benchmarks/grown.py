"""Commands on a store that has grown, beside a new one: `python -m benchmarks.grown --directory D [--json]`.

D is where `benchmarks.store --growth --directory D` has left its store, the driver's tables, and the curve, which tells
how much slower the bare driver appends at that size. Mixed commands of new customers on both stores in turns, the read
model following; then, on the grown one, commands to customers of its log, which are not in memory.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors import Command
from actors.customers import ChangeEmail
from benchmarks.load import Load, spare_collector, submit_all, workload
from benchmarks.places import Place, place
from benchmarks.reporting import print_report, spreads
from cluster import Runtime
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.errors import EventrayError
from store.logs import configure_logs

COMMANDS_PER_CUSTOMER = 6
FOLLOWED_WITHIN_S = 900.0
"""How long the read model of a store that has grown may take to follow it for the first time."""


async def measure(directory: Path, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any], Any]:
    """Measure several times; return figures with their spread, settings, and what it was measured on."""
    curve = _curve(directory)
    with place("sqlite", directory) as grown, place("sqlite", None) as new:
        rounds = [await _round(grown, new, number, curve, arguments) for number in range(arguments.repeats)]
        settings = {"events": curve[-1]["events"], "commands": arguments.commands, "in flight": arguments.in_flight}
        return spreads(rounds), settings | {"repeats": arguments.repeats}, await grown.describe()


def _curve(directory: Path) -> list[dict[str, Any]]:
    path = directory / "growth-sqlite.json"
    if not path.exists():
        raise SystemExit(f"--directory {directory}: `benchmarks.store --growth --directory {directory}` makes it first")
    curve: list[dict[str, Any]] = json.loads(path.read_text())
    return curve


async def _round(
    grown: Place, new: Place, number: int, curve: list[dict[str, Any]], arguments: argparse.Namespace
) -> dict[str, float]:
    new_per_s, _ = await _measure_on(new.url(f"new_{number}"), "n-", 0, arguments)
    # Each time customers of their own: those of an earlier time, and run, are there already.
    prefix = f"g{time.time_ns()}-"
    grown_per_s, old_per_s = await _measure_on(grown.url("growth_store"), prefix, arguments.streams, arguments)
    driver = curve[-1]["raw append/s"] / curve[0]["raw append/s"]
    return {
        "commands/s, a new store": new_per_s,
        "commands/s, the grown store": grown_per_s,
        "grown / new": grown_per_s / new_per_s,
        "raw driver, grown / new": driver,
        "slow-down / raw driver's": grown_per_s / new_per_s / driver,
        "grown, customers not in memory, commands/s": old_per_s,
    }


async def _measure_on(url: str, prefix: str, streams: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Return commands/s of new customers, and, where the log has `streams`, of its customers."""
    async with Runtime.open(url) as runtime:
        await until_all_serve(runtime.status)
        await runtime.catch_up(CustomerProjection, timeout_s=FOLLOWED_WITHIN_S)
        spare_collector()
        commands = workload(arguments.commands // COMMANDS_PER_CUSTOMER + 1, COMMANDS_PER_CUSTOMER, prefix)
        await submit_all(runtime, itertools.islice(commands, arguments.commands // 4), arguments.in_flight)
        load = _checked(await submit_all(runtime, itertools.islice(commands, arguments.commands), arguments.in_flight))
        if not streams:
            return load.accepted / load.seconds, 0.0
        await runtime.catch_up(CustomerProjection, timeout_s=FOLLOWED_WITHIN_S)
        changes = itertools.islice(_changes(streams, prefix), arguments.commands // 4)
        old = _checked(await submit_all(runtime, changes, arguments.in_flight))
        return load.accepted / load.seconds, old.accepted / old.seconds


def _changes(streams: int, prefix: str) -> Iterator[Command]:
    chance = random.Random(prefix)
    for number in itertools.count():
        customer = f"c-{chance.randrange(streams)}"
        yield ChangeEmail(customer_id=customer, email=f"{prefix}{number}@example.com")


def _checked(load: Load) -> Load:
    if load.failures:
        sys.exit(f"commands failed: {dict(load.failures)}")
    return load


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grown", description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--directory", type=Path, required=True, help="where `benchmarks.store --growth` left its store"
    )
    parser.add_argument("--streams", type=int, default=1_000_000, help="that it was grown with")
    parser.add_argument("--commands", type=int, default=40_000)
    parser.add_argument("--in-flight", type=int, default=1_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if min(arguments.streams, arguments.commands, arguments.in_flight, arguments.repeats) < 1:
        parser.error("--streams, --commands, --in-flight, --repeats: give 1 or more")
    configure_logs()
    try:
        figures, settings, measured_on = asyncio.run(measure(arguments.directory, arguments))
    except EventrayError as error:
        sys.exit(f"benchmarks.grown: {error}")
    print_report(figures, settings, measured_on, arguments.json)


if __name__ == "__main__":
    main()
