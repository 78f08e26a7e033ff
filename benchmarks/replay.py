"""Folding all of history: `python -m benchmarks.replay [--store sqlite|postgres|URL] [--events N] [--json]`.

In one process, aggregates from their streams, beside `eventsourcing` and the bare driver over the same rows. On Ray,
the replay of a whole log as `eventray replay` does it, on some cores beside one. All several times, in turns.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray

from benchmarks.content import fill
from benchmarks.folding import fold
from benchmarks.places import Place, place
from benchmarks.raw import open_raw
from benchmarks.reporting import print_report, spread
from cluster.application import default_application
from cluster.ray_session import search_path_for_workers
from cluster.replaying import replay_store
from store.opening import open_store

FOLDS = 3
"""Of the same streams for each replay of the log, which takes longer."""


class NobodyWatches:
    """A `Watcher` without progress bars."""

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        return lambda more: None


async def measure(found: Place, arguments: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Run both parts; return figures by name, and what else there is to say."""
    streams = arguments.streams or max(1, arguments.events // 10)
    values = await fold(found, "replay", arguments.fold_streams, arguments.fold_events, FOLDS * arguments.repeats)
    values |= await _over_the_log(found, arguments.events, streams, arguments.cores, arguments.repeats)
    settings = {"events": arguments.events, "streams": streams, "cores": arguments.cores, "repeats": arguments.repeats}
    return {name: spread(some) for name, some in values.items()}, settings


async def _over_the_log(place: Place, events: int, streams: int, cores: int, repeats: int) -> dict[str, list[float]]:
    """Fill a store and replay it whole, on one core and on several in turns."""
    url = await place.new_url("replay_log")
    store = await open_store(url)
    try:
        await fill(store, events, streams)
    finally:
        await store.close()
    rates: dict[int, list[float]] = {1: [], cores: []}
    for _ in range(repeats):
        for used, found_rates in rates.items():
            with _ray_on(used):
                await _replayed(url, events, streams)  # so that the workers are there
                found_rates.append(await _replayed(url, events, streams))
    raw = await open_raw(url)
    try:
        iterated = [await _iterated(raw.read_all) for _ in range(repeats + 1)][1:]
    finally:
        await raw.close()
    found = {
        "whole log, raw driver, rows/s": iterated,
        "whole log, replay on Ray, 1 core, events/s": rates[1],
    }
    if cores > 1:
        found[f"whole log, replay on Ray, {cores} cores, events/s"] = rates[cores]
        found[f"whole log, {cores} cores / 1 core"] = [
            more / one for more, one in zip(rates[cores], rates[1], strict=True)
        ]
    return found


async def _replayed(url: str, events: int, streams: int) -> float:
    replay = await replay_store(url, default_application(), NobodyWatches())
    if (replay.events, replay.aggregates, replay.failed) != (events, streams, 0):
        raise SystemExit(f"{replay.events} events of {replay.aggregates} aggregates were folded: {replay.failures}")
    return replay.events_per_s


async def _iterated(read_all: Any) -> float:
    started_s = time.perf_counter()
    rows: int = await read_all()
    return rows / (time.perf_counter() - started_s)


@contextmanager
def _ray_on(cores: int) -> Iterator[None]:
    """Run a Ray of this machine's own that gives out so many cores."""
    with search_path_for_workers():
        ray.init("local", num_cpus=cores, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        yield
    finally:
        ray.shutdown()


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.replay", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--events", type=int, default=200_000, help="in the log that is replayed whole")
    parser.add_argument("--streams", type=int, help="of that log; default: a tenth of the events")
    parser.add_argument("--cores", type=int, default=2, help="that the replay is given, beside one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fold-streams", type=int, default=100)
    parser.add_argument("--fold-events", type=int, default=100, help="of each stream that is folded in one process")
    parser.add_argument("--directory", type=Path, help="where stores are made, and stay; default: one that is removed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with place(arguments.store, arguments.directory) as found:
        figures, others = asyncio.run(measure(found, arguments))
        description = asyncio.run(found.describe())
    print_report(figures, others, description, arguments.json)


if __name__ == "__main__":
    main()
