"""`eventray scale` and `rebalance`: changing a runtime that runs. Not here: how (`cluster/scaling.py`)."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.cli.console import print_json, progress_bars
from cluster.cli.options import Address, Json, Store, run

if TYPE_CHECKING:
    from cluster.status import RuntimeStatus

HostCount = Annotated[int, typer.Option("--hosts", help="How many hosts there are to be.")]


def scale(store: Store, hosts: HostCount, address: Address = None, json: Json = False) -> None:
    """Let the runtime on a store keep so many hosts, and wait until each serves its share of the shards.

    Shards are moved a few at a time, and no caller sees an error. The number is kept in the store.
    """
    from cluster import scaling  # here, so that the reading verbs needn't wait for Ray's import

    _print(_waited_for("Moving shards", scaling.scale(store, hosts, address)), json)


def rebalance(store: Store, address: Address = None, json: Json = False) -> None:
    """Wait until the hosts are spread over the nodes, and the shards over the hosts, as evenly as can be."""
    from cluster import scaling

    _print(_waited_for("Moving shards", scaling.rebalance(store, address)), json)


def _waited_for(title: str, work: Coroutine[Any, Any, RuntimeStatus]) -> RuntimeStatus:
    with progress_bars() as watcher:
        watcher.phase(title, None)
        return run(work)


def _print(status: RuntimeStatus, json: bool) -> None:
    shards = {str(each.name): len(each.shards) for each in status.hosts}
    if json:
        print_json({"hosts": status.hosts_wanted, "nodes": len(status.nodes), "shards": shards, "moved": status.moved})
        return
    print(f"hosts: {status.hosts_wanted}, nodes: {len(status.nodes)}")
    for name, count in shards.items():
        print(f"{name}: {count} shards")
