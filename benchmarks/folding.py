"""Folding aggregates from their events, and loading one with a snapshot; beside `eventsourcing` and one SELECT."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from actors.customers import ChangeEmail, Customer, Order
from actors.hosting import HostCore, HostLimits
from actors.registry import AggregateRegistry
from actors.repository import Repository
from actors.snapshots import Snapshots
from actors.wire import Call, CommandMessage, Receipt, pack_call, unpack_answers
from benchmarks.content import Content, by_shard
from benchmarks.places import Place
from benchmarks.raw import open_raw
from store.identity import shard_of
from store.opening import open_store
from store.paging import collecting_rarely
from store.ports import EventStore
from store.writing import OfflineWriter

REGISTRY = AggregateRegistry([Customer, Order])
LOADS = 200
HOST_LOADS = 60


async def fold(place: Place, name: str, streams: int, events_each: int, repeats: int) -> dict[str, list[float]]:
    """Fold each of some streams to its end, all in one `get_many`, one by one, and by the peer, in turns."""
    store = await open_store(await place.new_url(f"{name}_fold"))
    found: dict[str, list[float]] = {}
    try:
        await _fill(store, streams * events_each, streams)
        repository, ids = Repository(store, REGISTRY), [f"c-{number}" for number in range(streams)]
        peer = await Peer.filled(place, f"{name}_peer", streams, events_each)
        with collecting_rarely():
            for _ in range(repeats):
                many = _rate(streams * events_each, await _timed_many(repository, ids, events_each))
                single = _rate(streams * events_each, await _timed_single(repository, ids, events_each))
                of_peer = _rate(streams * events_each, peer.timed_gets())
                for figure, value in (
                    ("fold, eventsourcing, repository.get, events/s", of_peer),
                    ("fold, Repository.get_many, events/s", many),
                    ("fold, Repository.get one by one, events/s", single),
                    ("fold, get_many / eventsourcing", many / of_peer),
                    ("fold, one by one / eventsourcing", single / of_peer),
                ):
                    found.setdefault(figure, []).append(value)
        peer.close()
    finally:
        await store.close()
    return found


class Peer:
    """`eventsourcing` with the same content: a customer with as many changes of e-mail address.

    With its own defaults: SQLite in WAL mode, a pool of connections on PostgreSQL. Its cache of aggregates and its
    snapshots stay off, as ours do: they fold nothing.
    """

    def __init__(self, application: Any, ids: list[Any], events_each: int) -> None:
        self._application, self._ids, self._events_each = application, ids, events_each

    @classmethod
    async def filled(cls, place: Place, name: str, streams: int, events_each: int) -> Peer:
        """Make it, with its own tables in the same place."""
        from eventsourcing.application import Application
        from eventsourcing.domain import Aggregate, event

        class PeerCustomer(Aggregate):
            @event("CustomerCreated")
            def __init__(self, customer_id: str, name: str, email: str, type: str) -> None:  # noqa: A002
                self.customer_id, self.name, self.email, self.type = customer_id, name, email, type

            @event("CustomerEmailChanged")
            def change_email(self, customer_id: str, old_email: str, new_email: str) -> None:
                self.email = new_email

        application: Any = Application(env=await _peer_settings(place, name))
        ids = []
        for number in range(streams):
            customer_id = f"c-{number}"
            customer = PeerCustomer(customer_id, f"Customer {number}", f"{customer_id}.1@example.com", "Regular")
            for version in range(1, events_each):
                old, new = f"{customer_id}.{version}@example.com", f"{customer_id}.{version + 1}@example.com"
                customer.change_email(customer_id, old, new)
            application.save(customer)
            ids.append(customer.id)
        return cls(application, ids, events_each)

    def timed_gets(self) -> float:
        """Get every aggregate, one by one; return the seconds."""
        started_s = time.perf_counter()
        for aggregate_id in self._ids:
            assert self._application.repository.get(aggregate_id).version == self._events_each
        return time.perf_counter() - started_s

    def close(self) -> None:
        """Let go of its connections."""
        self._application.close()


async def load_with_snapshot(place: Place, name: str, events: int) -> dict[str, list[float]]:
    """Load an aggregate of so many events that has a snapshot of its last one: by a repository, and in a host."""
    url = await place.new_url(f"{name}_snapshot")
    store, raw = await open_store(url), await open_raw(url)
    try:
        await _fill(store, events, 1)
        repository = Repository(store, REGISTRY)
        folded = await repository.get(Customer, "c-0")
        assert folded is not None
        snapshot = Snapshots().take(folded, 0)
        assert snapshot is not None
        await store.write_snapshots([snapshot])

        async def load() -> None:
            assert (await repository.load(Customer, "c-0")).version == events

        async def select() -> None:
            assert len(await store.read_stream("customer-c-0", events - 1, 1)) == 1

        await load()
        one_row_ms, load_ms = await _p50_ms(select, LOADS), await _p50_ms(load, LOADS)
        raw_ms = await _p50_ms(lambda: raw.read_one("customer-c-0", events), LOADS)
        cold_ms, warm_ms = await _in_a_host(store, events)
    finally:
        await raw.close()
        await store.close()
    return {
        "one row by the raw driver, p50 ms": [raw_ms],
        "one row by the store, p50 ms": [one_row_ms],
        f"load of {events:,} events with a snapshot, p50 ms": [load_ms],
        "load / one row by the store": [load_ms / one_row_ms],
        "command to it cold in a host, p50 ms": [cold_ms],
        "command to it in memory, p50 ms": [warm_ms],
        "(cold - in memory) / one row by the store": [(cold_ms - warm_ms) / one_row_ms],
    }


async def _in_a_host(store: EventStore, events: int) -> tuple[float, float]:
    """Return medians in ms of a command that changes nothing: to a cold aggregate, and to one in memory."""
    generation, shard = await store.take("a benchmark"), shard_of("c-0", store.shards)
    await store.assign(generation, {shard: "a host"})
    host = HostCore("a host", store, REGISTRY, HostLimits(), lambda _records: None)
    host.start()
    command = ChangeEmail(customer_id="c-0", email=f"c-0.{events}@example.com")
    number = 0

    async def submit(epochs: dict[int, int]) -> float:
        nonlocal number
        number += 1
        message = CommandMessage(
            shard, "ChangeEmail", f"command-{number}", True, command.model_dump_json(), None, None, 30_000, ""
        )
        started_s = time.perf_counter()
        (answer,) = unpack_answers(await host.execute(pack_call(Call("a session", number, epochs, [message]))))
        took_s = time.perf_counter() - started_s
        assert isinstance(answer, Receipt), answer
        assert answer.version == events
        return took_s * 1000

    cold, warm = [], []
    for _ in range(HOST_LOADS):
        epochs = await host.claim([shard])  # it begins with empty memory
        cold.append(await submit(epochs))
        warm.append(await submit(epochs))
    await host.stop()
    await store.release(generation)
    return statistics.median(cold), statistics.median(warm)


async def _fill(store: EventStore, events: int, streams: int) -> None:
    content = Content(streams, store.shards)
    async with OfflineWriter(store, "a benchmark") as writer:
        await writer.heads(range(store.shards))
        for begin in range(0, events, 5_000):
            await writer.append(by_shard(content.rows(begin, min(5_000, events - begin))))


async def _timed_many(repository: Repository, ids: list[str], events_each: int) -> float:
    started_s = time.perf_counter()
    found = await repository.get_many(Customer, ids)
    took_s = time.perf_counter() - started_s
    assert len(found) == len(ids)
    assert all(customer.version == events_each for customer in found.values())
    return took_s


async def _timed_single(repository: Repository, ids: list[str], events_each: int) -> float:
    started_s = time.perf_counter()
    for each in ids:
        customer = await repository.get(Customer, each)
        assert customer is not None
        assert customer.version == events_each
    return time.perf_counter() - started_s


async def _p50_ms(work: Callable[[], Awaitable[None]], times: int) -> float:
    took_s = []
    for _ in range(times):
        started_s = time.perf_counter()
        await work()
        took_s.append(time.perf_counter() - started_s)
    return statistics.median(took_s) * 1000


def _rate(events: int, seconds: float) -> float:
    return events / seconds


async def _peer_settings(place: Place, name: str) -> dict[str, str]:
    if place.server_url is None:
        return {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": os.fspath(place.directory / f"{name}.db"),
        }
    await place.new_url(name)
    host = place.server_url.partition("host=")[2].partition("&")[0]
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "",
        "POSTGRES_SCHEMA": name,
    }
