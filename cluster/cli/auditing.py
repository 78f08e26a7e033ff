"""The verb `audit projections`: read models against the log.

Not here: how (`cluster/auditing.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import print_first, print_json, progress_bars
from cluster.cli.options import EXIT_FAILED, App, Json, Store, run, with_application

Names = Annotated[
    list[str] | None, typer.Argument(metavar="[PROJECTION]...", help="Which ones. Default: all of the application.")
]


def audit_projections(store: Store, projections: Names = None, app: App = None, json: Json = False) -> None:
    """Fold the log anew and compare it row by row with the read models; print each row and column that differs.

    Then the exit code is 1. A runtime may go on writing meanwhile: both sides are taken at the same checkpoints.
    """
    from cluster import auditing  # here, so that the other verbs needn't wait for Ray's import

    with progress_bars() as watcher:
        names = projections or ()
        result = run(with_application(app, lambda found: auditing.audit_projections(store, found, names, watcher)))
    if json:
        print_json(
            {
                "shards": result.shards,
                "events": result.events,
                "seconds": round(result.seconds, 3),
                "projections": [vars(each) for each in result.projections],
                "found": result.found,
                "findings": [finding._asdict() for finding in result.findings],
            }
        )
    else:
        print_first(result.findings, result.found)
        for each in result.projections:
            print(f"{each.projection}: {each.rows:,} rows, {each.found:,} findings")
        print(f"{result.events:,} events in {result.shards} shards, {result.seconds:.1f} s")
    if result.found:
        raise typer.Exit(EXIT_FAILED)
