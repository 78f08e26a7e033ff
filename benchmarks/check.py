"""Whether we are still as fast beside our peers and the bare driver as we were: `make check-speed`.

Each benchmark that has a floor runs briefly, and each ratio is compared with its floor in `floors.toml`. Ratios of one
run only: an absolute time says more about the machine than about the program. Exits with 1 where a floor is broken.
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite import RUNS, run

FLOORS = Path(__file__).parent / "floors.toml"
ATTEMPTS = 2
"""A run that breaks a floor is repeated once: another program may have had the machine for a moment."""


class Floor(NamedTuple):
    """A bound of a ratio."""

    run: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None

    def broken_by(self, value: float | None) -> str | None:
        """Return what is wrong with a value, None if nothing is."""
        name = f"{self.run}: {self.figure}"
        if value is None:
            return f"{name} was not measured"
        if self.at_least is not None and not value >= self.at_least:
            return f"{name} is {value:.3g}, at least {self.at_least:g} is wanted"
        if self.at_most is not None and not value <= self.at_most:
            return f"{name} is {value:.3g}, at most {self.at_most:g} is wanted"
        return None


def read_floors(path: Path) -> list[Floor]:
    """Read floors. Raises SystemExit for one that bounds nothing, or is of a run that is not there."""
    floors = [Floor(**entry) for entry in tomllib.loads(path.read_text())["floor"]]
    brief = {each.name for each in RUNS if each.brief is not None}
    for floor in floors:
        if (floor.at_least is None) == (floor.at_most is None):
            sys.exit(f"{path.name}: {floor.run}: {floor.figure}: give either at_least or at_most")
        if floor.run not in brief:
            sys.exit(f"{path.name}: {floor.run}: give one of {', '.join(sorted(brief))}")
    return floors


def broken(floors: Sequence[Floor], name: str, report: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with a run's report, by these floors."""
    of_run = [(floor, report["figures"].get(floor.figure)) for floor in floors if floor.run == name]
    found = [floor.broken_by(None if values is None else values["median"]) for floor, values in of_run]
    return [problem for problem in found if problem is not None]


def check(floors: Sequence[Floor], names: Sequence[str]) -> list[str]:
    """Run each benchmark that has a floor, print its ratios; return what is wrong."""
    problems: list[str] = []
    for each in RUNS:
        own = [floor for floor in floors if floor.run == each.name]
        if each.brief is None or not own or (names and each.name not in names):
            continue
        for attempt in range(ATTEMPTS):
            began_s = time.perf_counter()
            report = run(each.module, each.brief)
            found = broken(own, each.name, report)
            print(f"{each.name}, {time.perf_counter() - began_s:.0f} s")
            for floor in own:
                value = report["figures"].get(floor.figure, {"median": float("nan")})["median"]
                bound = f"at least {floor.at_least:g}" if floor.at_least is not None else f"at most {floor.at_most:g}"
                print(f"  {floor.figure:50} {value:10.2f}   {bound}", flush=True)
            if not found:
                break
            if attempt + 1 < ATTEMPTS:
                print(f"  {'; '.join(found)}: once more")
        problems += found
    return problems


def main() -> None:
    """Run, compare, say what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.check", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--floors", type=Path, default=FLOORS)
    parser.add_argument("--only", nargs="+", default=[], help="names of runs")
    arguments = parser.parse_args()
    problems = check(read_floors(arguments.floors), arguments.only)
    for problem in problems:
        print(f"too slow: {problem}", file=sys.stderr)
    if problems:
        sys.exit(1)
    print("all floors are held")


if __name__ == "__main__":
    main()
