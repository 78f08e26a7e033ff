"""Which benchmarks there are, the arguments with which `make bench` and `make check-speed` run them, and running one.

Not here: what becomes of the figures (`__main__.py`, `check.py`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600


class Run(NamedTuple):
    """A benchmark with arguments."""

    name: str
    """Of its file in `results/`."""
    module: str
    """In this package."""
    whole: tuple[str, ...] = ()
    """Arguments for `make bench`."""
    brief: tuple[str, ...] | None = None
    """Arguments for `make check-speed`; None: it is no part of that."""


BRIEF_COMMANDS = ("--commands", "15000", "--customers", "2500", "--peer-commands", "1000", "--repeats", "1")
BRIEF_LATENCY = ("--in-flight", "100", "1000", "--warm-up", "5000", "--seconds", "3", "--repeats", "1")
BRIEF_COLD = ("--customers", "1500", "--peer-customers", "150", "--repeats", "1")
BRIEF_LOG = ("--events", "30000", "--repeats", "1")

RUNS = (
    Run("commands-sqlite", "commands", brief=BRIEF_COMMANDS),
    Run(
        "commands-postgres",
        "commands",
        ("--store", "postgres", "--repeats", "2"),
        ("--store", "postgres", *BRIEF_COMMANDS),
    ),
    Run("latency-sqlite", "latency", ("--repeats", "2"), BRIEF_LATENCY),
    Run("latency-postgres", "latency", ("--store", "postgres", "--repeats", "1")),
    Run("cold-sqlite", "cold", ("--repeats", "2"), BRIEF_COLD),
    Run("cold-postgres", "cold", ("--store", "postgres", "--customers", "3000", "--repeats", "1")),
    Run("store-sqlite", "store", (), BRIEF_LOG),
    Run("store-postgres", "store", ("--store", "postgres"), ("--store", "postgres", *BRIEF_LOG)),
    Run("replay-sqlite", "replay", (), (*BRIEF_LOG, "--cores", "1")),
    Run("replay-postgres", "replay", ("--store", "postgres", "--events", "100000", "--repeats", "1")),
    Run("rebuild-sqlite", "rebuild", (), ("--events", "50000", "--customers", "2000", "--rounds", "1")),
    Run("projections-sqlite", "projections", ("--repeats", "2")),
    Run("projections-postgres", "projections", ("--store", "postgres", "--repeats", "2")),
    Run("scale-sqlite", "scale", ("--repeats", "2")),
    Run("scale-postgres", "scale", ("--store", "postgres", "--repeats", "2")),
    Run("memory-sqlite", "memory"),
    Run("naive-sqlite", "naive"),
    Run("growth-sqlite", "store", ("--growth", "--events", "1000000", "--streams", "100000")),
)


def run(module: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    """Run a benchmark in a process of its own; return what it printed. Raises SystemExit where it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTRAY_")}
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments, "--json"]
    done = subprocess.run(command, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode:
        sys.exit(f"benchmarks.{module} {' '.join(arguments)} failed with {done.returncode}:\n{done.stderr[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
