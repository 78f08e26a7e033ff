"""From commit to visible in the read model: `python -m benchmarks.projections [--store sqlite|postgres|URL] [--json]`.

Mixed commands come at a fixed rate through the whole path, each commit durable. A process of its own watches the heads
of the log and the checkpoints of the read model, some 400 times a second: an event was committed at the earliest when
its shard's head was last seen before it, and was visible at the latest when a checkpoint had passed it. Then the read
model is checked to be as far as the log. Not here: how many commands a second there can be (`commands.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import sys
from pathlib import Path

from benchmarks.latencies import Latencies
from benchmarks.load import spare_collector, submit_paced, workload
from benchmarks.places import Place, add_runtime_arguments, place
from benchmarks.reporting import print_report, spread
from benchmarks.watching import Watched, watch
from cluster import Runtime
from cluster.lag import catch_up
from projections.customers import CustomerProjection
from projections.read_models import ReadModels

CUSTOMERS = 10_000
COMMANDS_PER_CUSTOMER = 6
WARM_UP_S = 2.0
CATCH_UP_S = 2.0
"""The watching goes on for so long after the last command."""


def latencies_of(watched: Watched) -> Latencies:
    """Return how long each event took that was committed meanwhile. Raises SystemExit for one that never came."""
    found = Latencies()
    for shard, commits in watched.committed.items():
        shown = iter(watched.visible.get(shard, []))
        now = next(shown, None)
        for before, commit in itertools.pairwise(commits):
            for position in range(before.position + 1, commit.position + 1):
                while now is not None and now.position < position:
                    now = next(shown, None)
                if now is None:
                    sys.exit(f"event {position} of shard {shard} was never visible")
                found.add(now.at_s - commit.at_s)
    return found


async def _subscriber(url: str) -> str:
    """Return under what name the read model's checkpoints are kept."""
    read_models = ReadModels(url)
    try:
        return await read_models.read_live(CustomerProjection, lambda _, live: live.subscriber(CustomerProjection.name))
    finally:
        await read_models.close()


async def measure(url: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Load a new runtime; return the figures."""
    commands, rate = workload(CUSTOMERS, COMMANDS_PER_CUSTOMER), arguments.rate
    async with Runtime.open(url, arguments.hosts, shards=arguments.shards) as runtime:
        spare_collector()
        await submit_paced(runtime, commands, rate, WARM_UP_S)
        subscriber = await _subscriber(url)
        mine, theirs = multiprocessing.Pipe()
        watching = multiprocessing.get_context("spawn").Process(target=watch, args=(url, subscriber, theirs))
        watching.start()
        await asyncio.to_thread(mine.recv)
        load = await submit_paced(runtime, commands, rate, arguments.seconds)
        await asyncio.sleep(CATCH_UP_S)
        mine.send("end")
        watched: Watched = await asyncio.to_thread(mine.recv)
        watching.join()
        lag = await catch_up(runtime, url, CustomerProjection, "c-0", load.last_receipts)
    if load.failures:
        sys.exit(f"commands failed: {dict(load.failures)}")
    visible = latencies_of(watched)
    return {
        "commands/s": load.accepted / load.seconds,
        "events watched": visible.counts.total(),
        "commit to visible, p50, ms": visible.quantile_s(0.5) * 1000,
        "commit to visible, p99, ms": visible.quantile_s(0.99) * 1000,
        "commit to visible, max, ms": visible.quantile_s(1.0) * 1000,
        "command, p50, ms": load.latencies.quantile_s(0.5) * 1000,
        "command, p99, ms": load.latencies.quantile_s(0.99) * 1000,
        "events behind 2 s later": lag.events,
    }


async def measure_all(found: Place, arguments: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Measure several times, each time on a new store; return the spread of each figure."""
    rounds = [
        await measure(await found.new_url(f"projections_{number}"), arguments) for number in range(arguments.repeats)
    ]
    return {name: spread([each[name] for each in rounds]) for name in rounds[0]}


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.projections", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--rate", type=float, default=5_000, help="commands in a second")
    parser.add_argument("--seconds", type=float, default=10, help="how long they come")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where stores are made, and stay; default: one that is removed")
    add_runtime_arguments(parser, hosts=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rate <= 0 or arguments.seconds <= 0 or arguments.repeats < 1:
        parser.error("--rate, --seconds, --repeats: give more than 0")
    with place(arguments.store, arguments.directory) as found:
        figures = asyncio.run(measure_all(found, arguments))
        measured_on = asyncio.run(found.describe())
    settings = {name: getattr(arguments, name) for name in ("hosts", "shards", "rate", "seconds", "repeats")}
    print_report(figures, settings, measured_on, arguments.json)


if __name__ == "__main__":
    main()
