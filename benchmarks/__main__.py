"""All benchmarks, one after another: `python -m benchmarks`, or `make bench`.

Writes what each printed to `benchmarks/results/`, then the table (also into the README) and the plots.
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from benchmarks.plots import write_plots
from benchmarks.suite import RUNS, run
from benchmarks.table import RESULTS, read_results, write_table


def main() -> None:
    """Parse the arguments, run, write."""
    names = [each.name for each in RUNS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="names of runs; the others' stay")
    parser.add_argument("--no-runs", action="store_true", help="write the table and the plots anew, no more")
    arguments = parser.parse_args()
    RESULTS.mkdir(exist_ok=True)
    for each in RUNS:
        if arguments.no_runs or each.name not in arguments.only:
            continue
        print(f"{each.name} ...", file=sys.stderr, end=" ", flush=True)
        began_s = time.perf_counter()
        report = run(each.module, each.whole)
        (RESULTS / f"{each.name}.json").write_text(json.dumps(report, indent=1) + "\n")
        print(f"{time.perf_counter() - began_s:.0f} s", file=sys.stderr)
    for path in write_plots(read_results(), RESULTS):
        print(path.name, file=sys.stderr)
    write_table()


if __name__ == "__main__":
    main()
