"""The verb `rebuild`: a read model filled anew from the log, while the one that is there goes on being read.

Not here: how (`cluster/rebuilding.py`).
"""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import print_json, progress_bars
from cluster.cli.options import App, Json, Store, run, with_application

Name = Annotated[str, typer.Argument(metavar="PROJECTION", help="The projection, by its name.")]


def rebuild(projection: Name, store: Store, app: App = None, json: Json = False) -> None:
    """Fill a projection's read model anew; it takes the old one's place once it is as far. Reads go on meanwhile.

    A runtime may go on too. Run it again after an interruption: it goes on where it was.
    """
    from cluster import rebuilding  # here, so that the other verbs needn't wait for Ray's import

    with progress_bars() as watcher:
        rebuilt = run(with_application(app, lambda found: rebuilding.rebuild(store, found, projection, watcher)))
    speed = rebuilt.events_per_s
    if json:
        summary = {"projection": projection, "version": rebuilt.version, "events": rebuilt.events}
        print_json({**summary, "seconds": round(rebuilt.seconds, 3), "events_per_s": round(speed)})
    else:
        took = f"{rebuilt.events:,} events in {rebuilt.seconds:.1f} s, {speed:,.0f} events/s"
        print(f"{projection}, version {rebuilt.version}: {took}")
