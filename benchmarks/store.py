"""The store beside its bare driver: `python -m benchmarks.store [--store sqlite|postgres|URL] [--json]`.

Append in batches of 500, fenced and durable; typed read of the whole log, versions checked; fold of 100 streams of 100
events beside `eventsourcing`; load of a 10,000-event aggregate with a snapshot. With `--growth`, instead, a store grows
to `--events` over `--streams` and shows the curve; with `--directory` and `--pause-after` in several runs.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from benchmarks.folding import fold
from benchmarks.loading import load_with_snapshot
from benchmarks.log import append_and_read, grow
from benchmarks.places import Place, place
from benchmarks.reporting import print_report, spread
from store.logs import configure_logs


async def measure(found: Place, arguments: argparse.Namespace) -> tuple[dict[str, dict[str, float]], dict[str, Any]]:
    """Run all phases; return figures by name, and what else there is to say."""
    streams = arguments.streams or max(1, arguments.events // 10)
    settings = {"events": arguments.events, "streams": streams, "repeats": arguments.repeats}
    if arguments.growth:
        told = _tell_nobody if arguments.json else _tell
        curve = await grow(found, arguments.events, streams, arguments.points, arguments.pause_after, told)
        return {}, settings | {"growth": curve}
    values: dict[str, list[float]] = {}
    for repeat in range(arguments.repeats):
        for phase in (
            append_and_read(found, f"r{repeat}", arguments.events, streams, reads=3),
            fold(found, f"r{repeat}", arguments.fold_streams, arguments.fold_events, repeats=3),
            load_with_snapshot(found, f"r{repeat}", arguments.snapshot_events),
        ):
            for name, some in (await phase).items():
                values.setdefault(name, []).extend(some)
    return {name: spread(some) for name, some in values.items()}, settings


def _tell(text: str) -> None:
    print(text, file=sys.stderr)


def _tell_nobody(text: str) -> None:
    """The figures alone are wanted."""


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.store", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--events", type=int, default=100_000)
    parser.add_argument("--streams", type=int, help="default: a tenth of the events")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--fold-streams", type=int, default=100)
    parser.add_argument("--fold-events", type=int, default=100, help="of each stream that is folded")
    parser.add_argument("--snapshot-events", type=int, default=10_000, help="of the aggregate that has a snapshot")
    parser.add_argument("--growth", action="store_true", help="grow one store to --events, and show the curve")
    parser.add_argument("--points", type=int, default=10, help="of the curve")
    parser.add_argument("--pause-after", type=float, default=float("inf"), help="seconds; run it again to go on")
    parser.add_argument("--directory", type=Path, help="where stores are made, and stay; default: one that is removed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    configure_logs()
    with place(arguments.store, arguments.directory) as found:
        figures, others = asyncio.run(measure(found, arguments))
        description = asyncio.run(found.describe())
    print_report(figures, others, description, arguments.json)


if __name__ == "__main__":
    main()
