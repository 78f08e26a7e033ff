"""`eventray demo`: the verb around `cluster/demo`."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster.cli import EXIT_INTERRUPTED
from cluster.cli.console import complain, dashboard_line, print_json, progress_bars
from cluster.cli.options import EXIT_FAILED, Json, Store, run
from cluster.demo.purchases import read_purchases

DEMO_STORE = "sqlite:///eventray-demo.db"

Customers = Annotated[
    int | None, typer.Option("--customers", min=1, help="Only the first so many customers of the input.")
]

Dashboard = Annotated[
    bool, typer.Option("--dashboard", help="Start Ray with its dashboard, and stay until Ctrl-C, to look around.")
]


def demo(
    store: Store = DEMO_STORE, customers: Customers = None, dashboard: Dashboard = False, json: Json = False
) -> None:
    """Drive the purchases of a CD shop's 2,357 customers through customer actors, and check what came out.

    Each customer is compared with the input in the read model and in a fold of the log; any difference makes the exit
    code 1. Run it again on the same store and all commands are duplicates. Ctrl-C stops it (exit code 130); the next
    run does the rest.
    """
    from cluster.demo import page  # here, so that the reading verbs needn't wait for Ray's import
    from cluster.demo.driver import DemoReport, run_demo, run_with_dashboard

    def shown(report: DemoReport) -> None:
        watcher.end()
        if json:
            print_json(page.as_json(report))
        elif report.complete:
            page.show(report, Console(), _program())
        if dashboard and report.complete:
            complain("\nThe runtime stays until Ctrl-C.")

    with progress_bars() as watcher:
        if dashboard:
            report = run(run_with_dashboard(store, read_purchases(customers), watcher, _tell, shown))
        else:
            report = run(run_demo(store, read_purchases(customers), watcher))
            shown(report)
    if not report.complete:
        complain(f"eventray: stopped after {report.tally.submitted:,} commands; the next run does the rest")
        raise typer.Exit(EXIT_INTERRUPTED)
    if not report.succeeded:
        raise typer.Exit(EXIT_FAILED)


def _tell(dashboard: str | None) -> None:
    if dashboard is None:
        complain("eventray: the Ray that runs here has no dashboard: RAY_ADDRESS=local starts one that has")
    else:
        complain(dashboard_line(dashboard))


def _program() -> str:
    """How this command is typed: `make demo` leaves it in .venv/bin, which may not be on PATH."""
    this = Path(sys.argv[0])
    return str(this) if this.is_file() and shutil.which("eventray") is None else "eventray"
