"""`eventray up` and `down`: a runtime that stays, and its end. Not here: how (`cluster/life.py`)."""

from __future__ import annotations

from typing import Annotated

import typer

from cluster.cli.console import complain, dashboard_line, print_json, progress_bars
from cluster.cli.options import Address, App, Json, Shards, Store, run
from store.urls import shown_url

Hosts = Annotated[
    int | None,
    typer.Option(help="How many hosts a new runtime gets. Default: as many as the store had last, or one."),
]
Force = Annotated[bool, typer.Option("--force", help="End it at once: what is under way is not finished.")]


def up(
    store: Store,
    address: Address = None,
    hosts: Hosts = None,
    app: App = None,
    shards: Shards = None,
    json: Json = False,
) -> None:
    """Bring up a runtime that stays when this command has ended; join it if it runs.

    On the Ray at --address, or the one that runs on this machine; where there is none, one is begun here, and it stays
    too. Run it again after a whole cluster was lost: it goes on with what the store holds.
    """
    from cluster import life  # here, so that the reading verbs needn't wait for Ray's import

    with progress_bars() as watcher:
        watcher.phase("Bringing the runtime up", None)
        found = run(life.up(store, hosts, app, address, shards))
    status = found.status
    if not status.metrics and status.exporter is not None:
        complain(f"eventray: metrics are not served: {status.exporter.failure or 'the exporter is still starting'}")
    if found.joined and hosts not in (None, status.hosts_wanted):
        complain(f"eventray: it ran already, with {status.hosts_wanted} hosts: `eventray scale` changes that")
    if json:
        print_json(
            {
                "store_id": status.store_id,
                "address": found.address,
                "ray_begun": found.ray_begun,
                "joined": found.joined,
                "dashboard": found.dashboard,
                "hosts": status.hosts_wanted,
                "nodes": len(status.nodes),
                "metrics": status.metrics,
            }
        )
        return
    did = "joined" if found.joined else "began"
    ray = f"Ray at {found.address}" + (", begun here" if found.ray_begun else "")
    print(f"{did} the runtime on {shown_url(store)}: hosts: {status.hosts_wanted}, nodes: {len(status.nodes)}; {ray}")
    if status.metrics:
        print(f"metrics: {status.metrics}/metrics")
    if found.dashboard is not None:
        print(dashboard_line(found.dashboard))


def down(store: Store, address: Address = None, force: Force = False, json: Json = False) -> None:
    """End the runtime on a store: its hosts finish what they have in hand, and the store is given back.

    A Ray that `up` began ends with the last runtime on it.
    """
    from cluster import life

    with progress_bars() as watcher:
        watcher.phase("Ending the runtime", None)
        ended = run(life.down(store, address, force))
    if json:
        print_json({"ended": ended.ran, "ray_ended": ended.ray_ended})
        return
    what = "ended the runtime" if ended.ran else "no runtime was"
    print(f"{what} on {shown_url(store)}" + ("; ended the Ray that `up` had begun" if ended.ray_ended else ""))
