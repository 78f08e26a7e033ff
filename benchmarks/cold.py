"""First commands to customers not in memory: `python -m benchmarks.cold [--store sqlite|postgres|URL] [--json]`.

A log of customers with some events each is written; then a runtime that has just begun, and whose read model shows all
of the log, gets one command for each of them, many in flight: load, decide, commit. Once without snapshots, so that
each is folded whole; and once with one of each customer's last event. Beside it, with commands to the same customers
once they are in memory. In turns with it, before a runtime is begun, `eventsourcing` gets, changes and saves
customers of the same history one by one, without and with such snapshots; and gets them only. Compared are both without
snapshots, both with them, and (`with_snapshots_over_eventsourcing_without`) each as it is by default: ours has one by
the 100th event, the peer none. The database's pages are in the system's cache on both sides, as they were written
shortly before.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from actors import Command
from actors.customers import ChangeEmail, Customer, Order
from actors.registry import AggregateRegistry
from actors.repository import Repository
from actors.snapshots import Snapshots
from benchmarks.content import fill
from benchmarks.hosts import healths
from benchmarks.load import submit_all
from benchmarks.peer import Peer, Snapshotting
from benchmarks.places import Place, place
from benchmarks.raw import open_raw
from benchmarks.reporting import print_report, spreads
from cluster import Runtime
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.errors import EventrayError
from store.opening import open_store

PAGE = 500
CATCH_UP_S = 300.0
WARM_UP_CUSTOMERS = 211
"""They are in the log too, and loaded before the others, so that what is measured is not a program's first steps."""


async def commands_per_s(
    url: str, tag: str, arguments: argparse.Namespace, with_snapshots: bool
) -> tuple[float, float]:
    """Begin a runtime, give each customer a command and then another one, end it; return the commands in a second."""
    customers, all_customers = arguments.customers, arguments.customers + WARM_UP_CUSTOMERS
    async with Runtime.open(url) as runtime:
        await until_all_serve(runtime.status)
        await runtime.catch_up(CustomerProjection, timeout_s=CATCH_UP_S)
        await submit_all(runtime, _changes(range(customers, all_customers), tag), arguments.in_flight)
        load = await submit_all(runtime, _changes(range(customers), tag), arguments.in_flight)
        again = await submit_all(runtime, _changes(range(customers), f"again-{tag}"), arguments.in_flight)
        used = sum([health.snapshots.used for health in await healths(url, all_customers + customers)])
    if failures := load.failures + again.failures:
        sys.exit(f"commands failed: {dict(failures)}")
    if used != (all_customers if with_snapshots else 0):
        sys.exit(f"{used} snapshots were used by {all_customers} customers")
    return customers / load.seconds, customers / again.seconds


def _changes(customers: range, tag: str) -> Iterator[Command]:
    return (ChangeEmail(customer_id=f"c-{number}", email=f"{tag}-{number}@example.com") for number in customers)


async def write_snapshots(url: str, customers: int) -> None:
    """Have a snapshot of each customer as it is."""
    store = await open_store(url)
    try:
        repository, snapshots = Repository(store, AggregateRegistry([Customer, Order])), Snapshots()
        for start in range(0, customers, PAGE):
            ids = [f"c-{number}" for number in range(start, min(start + PAGE, customers))]
            taken = [snapshots.take(each, 0) for each in (await repository.get_many(Customer, ids)).values()]
            await store.write_snapshots([each for each in taken if each is not None])
    finally:
        await store.close()


async def measure_round(
    url: str, number: int, peers: tuple[Peer, Peer], arguments: argparse.Namespace
) -> dict[str, float]:
    """Run the peers, then the runtime without snapshots, then with them."""
    without, snapshotting = peers
    loaded = arguments.peer_customers / without.timed_gets()
    peer = arguments.peer_customers / without.timed_commands(f"round-{number}")
    snapshotting.take_snapshots()
    peer_snapshots = arguments.peer_customers / snapshotting.timed_commands(f"round-{number}")
    raw = await open_raw(url)
    try:
        await raw.drop_snapshots()
    finally:
        await raw.close()
    whole, _ = await commands_per_s(url, f"whole-{number}", arguments, with_snapshots=False)
    await write_snapshots(url, arguments.customers + WARM_UP_CUSTOMERS)
    restored, warm = await commands_per_s(url, f"restored-{number}", arguments, with_snapshots=True)
    return {
        "first_commands_per_s": whole,
        "first_commands_events_folded_per_s": whole * arguments.events_each,
        "eventsourcing_load_per_s": loaded,
        "eventsourcing_first_commands_per_s": peer,
        "over_eventsourcing_load": whole / loaded,
        "over_eventsourcing": whole / peer,
        "with_snapshots_first_commands_per_s": restored,
        "with_snapshots_eventsourcing_first_commands_per_s": peer_snapshots,
        "with_snapshots_over_eventsourcing": restored / peer_snapshots,
        "with_snapshots_over_commands_in_memory": restored / warm,
        "with_snapshots_over_eventsourcing_without": restored / peer,
    }


async def measure(found: Place, arguments: argparse.Namespace) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write the logs, measure some rounds; return figures with their spread, and what it was measured on."""
    customers = arguments.customers + WARM_UP_CUSTOMERS
    url = await found.new_url("cold")
    store = await open_store(url)
    try:
        await fill(store, customers * arguments.events_each, customers)
    finally:
        await store.close()
    size = (arguments.peer_customers, arguments.events_each)
    peers = (await Peer.filled(found, "peer", *size), await Peer.filled(found, "peer_snapshots", *size, Snapshotting))
    rounds = [await measure_round(url, number, peers, arguments) for number in range(arguments.repeats)]
    for peer in peers:
        peer.close()
    return spreads(rounds), await found.describe()


def main() -> None:
    """Parse the arguments, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", default="sqlite", help="sqlite, postgres (a server of its own) or postgresql://...")
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--events-each", type=int, default=100, help="of a customer")
    parser.add_argument("--in-flight", type=int, default=1_000, help="commands under way")
    parser.add_argument("--peer-customers", type=int, default=500, help="that the peer loads, in each round")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--directory", type=Path, help="where stores are made, and stay; default: one that is removed")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if (
        min(
            arguments.customers, arguments.in_flight, arguments.peer_customers, arguments.repeats, arguments.events_each
        )
        < 1
    ):
        parser.error("--customers, --events-each, --in-flight, --peer-customers, --repeats: give 1 or more")
    with place(arguments.store, arguments.directory) as found:
        try:
            figures, measured_on = asyncio.run(measure(found, arguments))
        except EventrayError as error:
            sys.exit(f"benchmarks.cold: {error}")
    names = ("customers", "events_each", "in_flight", "peer_customers", "repeats")
    print_report(figures, {name: getattr(arguments, name) for name in names}, measured_on, arguments.json)


if __name__ == "__main__":
    main()
