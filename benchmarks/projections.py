"""From commit to visible in the read model: `python -m benchmarks.projections [--store sqlite|postgres|URL] [--json]`.

Mixed commands come at a fixed rate through the whole path, each commit durable. A process of its own watches the heads
of the log and the checkpoints of the read model, some 200 times a second: an event was committed at the earliest when
its shard's head was last seen before it, and was visible at the latest when a checkpoint had passed it. Then the read
model is checked to be as far as the log. Not here: how many commands a second there can be (`commands.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import multiprocessing
import sys
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

from benchmarks.latencies import Latencies
from benchmarks.load import submit_paced, workload
from benchmarks.places import Place, place
from benchmarks.reporting import print_report, spread
from cluster import Runtime
from cluster.lag import catch_up
from projections.customers import CustomerProjection
from projections.read_models import ReadModels
from store.opening import open_store

CUSTOMERS = 10_000
COMMANDS_PER_CUSTOMER = 6
LOOK_S = 0.003
WARM_UP_S = 2.0
CATCH_UP_S = 2.0
"""The watching goes on for so long after the last command."""


class Seen(NamedTuple):
    """That a shard was at a position at some time, on the clock of `time.perf_counter`."""

    at_s: float
    position: int


class Watched(NamedTuple):
    """By shard, in the order of time, where the log and the read model were; begins with where they were at first."""

    committed: dict[int, list[Seen]]
    visible: dict[int, list[Seen]]


def watch(url: str, pipe: Connection) -> None:
    """Say that it has begun, watch until told to end, and send what was seen. Runs in a process of its own."""
    pipe.send(asyncio.run(_watch(url, pipe)))


async def _watch(url: str, pipe: Connection) -> Watched:
    store, read_models = await open_store(url, create=False), ReadModels(url)
    watched, earliest_s = Watched({}, {}), time.perf_counter()
    pipe.send("begun")
    while not pipe.poll():
        before_s = time.perf_counter()
        heads, positions = await asyncio.gather(store.heads(), read_models.positions(CustomerProjection))
        _note(watched.committed, heads, earliest_s)
        _note(watched.visible, positions, time.perf_counter())
        earliest_s = before_s
        await asyncio.sleep(max(0.0, before_s + LOOK_S - time.perf_counter()))
    await read_models.close()
    await store.close()
    return watched


def _note(seen: dict[int, list[Seen]], positions: Mapping[int, int], at_s: float) -> None:
    for shard, position in positions.items():
        changes = seen.setdefault(shard, [])
        if not changes or changes[-1].position < position:
            changes.append(Seen(at_s, position))


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


async def measure(url: str, rate: float, seconds: float) -> dict[str, float]:
    """Load a new runtime; return the figures."""
    commands = workload(CUSTOMERS, COMMANDS_PER_CUSTOMER)
    async with Runtime.open(url) as runtime:
        await submit_paced(runtime, commands, rate, WARM_UP_S)
        mine, theirs = multiprocessing.Pipe()
        watching = multiprocessing.get_context("spawn").Process(target=watch, args=(url, theirs))
        watching.start()
        await asyncio.to_thread(mine.recv)
        load = await submit_paced(runtime, commands, rate, seconds)
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
        await measure(await found.new_url(f"projections_{number}"), arguments.rate, arguments.seconds)
        for number in range(arguments.repeats)
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
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.rate <= 0 or arguments.seconds <= 0 or arguments.repeats < 1:
        parser.error("--rate, --seconds, --repeats: give more than 0")
    with place(arguments.store, arguments.directory) as found:
        figures = asyncio.run(measure_all(found, arguments))
        measured_on = asyncio.run(found.describe())
    settings = {name: getattr(arguments, name) for name in ("rate", "seconds", "repeats")}
    print_report(figures, settings, measured_on, arguments.json)


if __name__ == "__main__":
    main()
