"""Events per second of a rebuild of CustomerProjection into SQLite: `python -m benchmarks.rebuild [--json]`.

A log of customers and their orders is written, then `eventray rebuild` fills its read model on all cores; then the
rows of 200 customers are checked against the log. In turns with it, `eventsourcing`'s projection runner fills the same
table from the first events of the same history.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from actors.customers import CustomerCreated, CustomerType, OrderCreated
from benchmarks.machine import describe
from benchmarks.peer_projection import Peer
from benchmarks.reporting import spread
from cluster import ray_session
from cluster.application import default_application
from cluster.rebuilding import rebuild
from cluster.settings import read_settings
from projections.customers import CustomerProjection
from projections.read_models import ReadModels
from store.events import Event
from store.identity import shard_of, uuid7
from store.opening import open_store
from store.ports import EventStore
from store.records import EventRecord, ShardAppend

PAGE_EVENTS = 5_000
RECORDED_AT = 1_764_000_000_000_000


class Unwatched:
    """Shows nothing."""

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a phase."""
        return lambda more: None


def history(events: int, customers: int) -> Iterator[Event]:
    """Yield as many events: each customer's creation, then orders in random order."""
    chance = random.Random(5)
    for number in range(customers):
        email = f"customer-{number}@example.com"
        yield CustomerCreated(
            customer_id=f"{number:06}", name=f"Customer {number}", email=email, type=CustomerType.REGULAR
        )
    for number in range(events - customers):
        amount = Decimal(chance.randrange(100, 20_000)) / 100
        yield OrderCreated(
            order_id=f"{number:08}", customer_id=f"{chance.randrange(customers):06}", total_amount=amount
        )


async def write_log(store: EventStore, events: int, customers: int) -> None:
    """Write a history into an empty store."""
    generation = await store.take("benchmark")
    await store.assign(generation, dict.fromkeys(range(store.shards), "benchmark"))
    claims = await store.claim("benchmark", range(store.shards))
    heads = dict.fromkeys(claims, 0)
    written = history(events, customers)
    while page := list(itertools.islice(written, PAGE_EVENTS)):
        old_heads, records = dict(heads), dict[int, list[EventRecord]]()
        for event in page:
            record = as_record(event, store.shards, heads)
            records.setdefault(record.shard, []).append(record)
        await store.append(
            [ShardAppend(shard, claims[shard].epoch, old_heads[shard], records[shard]) for shard in sorted(records)]
        )
    await store.release(generation)


def as_record(event: Any, shards: int, heads: dict[int, int]) -> EventRecord:
    """Return an event as the next of its shard, in a stream of its own."""
    shard = shard_of(event.customer_id, shards)
    heads[shard] += 1
    stream = f"order-{event.order_id}" if isinstance(event, OrderCreated) else f"customer-{event.customer_id}"
    return EventRecord(
        shard, heads[shard], stream, 1, event.customer_id, uuid7().bytes, event.event_type, event.schema_version,
        event.model_dump_json(), "{}", None, None, RECORDED_AT,
    )  # fmt: skip


async def check(url: str, events: int, customers: int) -> None:
    """Raise AssertionError unless the read model has all the orders, and their amounts."""
    expected: dict[str, tuple[int, Decimal]] = {}
    for event in history(events, customers):
        if isinstance(event, OrderCreated):
            count, spent = expected.get(event.customer_id, (0, Decimal(0)))
            expected[event.customer_id] = count + 1, spent + event.total_amount
    read_models = ReadModels(url)
    for key, (count, spent) in itertools.islice(expected.items(), 200):
        row = (await read_models.query(CustomerProjection, key)).row
        assert row is not None
        assert (row["total_orders"], row["total_spent"]) == (count, spent), key
    await read_models.close()


class Speeds(NamedTuple):
    """Events in a second, of each round."""

    ours: list[float]
    peer: list[float]


async def measure(events: int, customers: int, rounds: int, peer_events: int) -> Speeds:
    """Rebuild, and let the peer project, in turns."""
    with tempfile.TemporaryDirectory() as directory:
        url = f"sqlite:///{Path(directory) / 'shop.db'}"
        store = await open_store(url)
        await write_log(store, events, customers)
        await store.close()
        share = customers * peer_events // events
        peer = Peer(Path(directory), history(peer_events, max(1, share)))
        speeds = Speeds([], [])
        for this_round in range(rounds):
            result = await rebuild(url, default_application(), CustomerProjection.name, Unwatched())
            assert result.events == events
            speeds.ours.append(result.events_per_s)
            await check(url, events, customers)
            speeds.peer.append(await asyncio.to_thread(peer.projected, f"view-{this_round}"))
    return speeds


def main() -> None:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--customers", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-events", type=int, default=5_000, help="that the peer projects in each round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    ray_session.connect("local", read_settings())
    began = time.perf_counter()
    speeds = asyncio.run(measure(options.events, options.customers, options.rounds, options.peer_events))
    ray_session.disconnect()
    result: dict[str, Any] = {
        "events": options.events,
        "customers": options.customers,
        "events_per_s": [round(speed) for speed in speeds.ours],
        "peer_events": options.peer_events,
        "peer_events_per_s": [round(speed) for speed in speeds.peer],
        "times_the_peer": [round(mine / peer, 1) for mine, peer in zip(*speeds, strict=True)],
        "seconds_in_all": round(time.perf_counter() - began, 1),
    }
    figures = {
        name: spread([float(value) for value in result[name]])
        for name in ("events_per_s", "peer_events_per_s", "times_the_peer")
    }
    measured_on = describe(Path(tempfile.gettempdir())) | {"eventsourcing": version("eventsourcing")}
    if options.json:
        print(json.dumps(result | {"figures": figures, "measured_on": measured_on}))
    else:
        print(f"{options.events:,} events of {options.customers:,} customers, on {measured_on}", file=sys.stderr)
        for name, found in (("rebuild", speeds.ours), ("eventsourcing's projection runner", speeds.peer)):
            print(f"{name}: {', '.join(f'{speed:,.0f}' for speed in found)} events/s")


if __name__ == "__main__":
    main()
