"""Folding aggregates from their events in one process, beside `eventsourcing`."""

from __future__ import annotations

import time

from actors.customers import Customer, Order
from actors.registry import AggregateRegistry
from actors.repository import Repository
from benchmarks.content import fill
from benchmarks.peer import Peer
from benchmarks.places import Place
from benchmarks.raw import Raw, open_raw
from store.opening import open_store
from store.paging import collecting_rarely

REGISTRY = AggregateRegistry([Customer, Order])


async def fold(place: Place, name: str, streams: int, events_each: int, repeats: int) -> dict[str, list[float]]:
    """Fold each of some streams to its end, all in one `get_many`, one by one, and by the peer, in turns."""
    url = await place.new_url(f"{name}_fold")
    store, raw = await open_store(url), await open_raw(url)
    found: dict[str, list[float]] = {}
    try:
        await fill(store, streams * events_each, streams)
        repository, ids = Repository(store, REGISTRY), [f"c-{number}" for number in range(streams)]
        peer = await Peer.filled(place, f"{name}_peer", streams, events_each)
        with collecting_rarely():
            for _ in range(repeats):
                many = _rate(streams * events_each, await _timed_many(repository, ids, events_each))
                single = _rate(streams * events_each, await _timed_single(repository, ids, events_each))
                of_peer = _rate(streams * events_each, peer.timed_gets())
                iterated = _rate(streams * events_each, await _timed_raw(raw, streams * events_each))
                for figure, value in (
                    ("fold, raw driver iterating over the rows, rows/s", iterated),
                    ("fold, eventsourcing, repository.get, events/s", of_peer),
                    ("fold, Repository.get_many, events/s", many),
                    ("fold, Repository.get one by one, events/s", single),
                    ("fold, get_many / eventsourcing", many / of_peer),
                    ("fold, one by one / eventsourcing", single / of_peer),
                ):
                    found.setdefault(figure, []).append(value)
        peer.close()
    finally:
        await raw.close()
        await store.close()
    return found


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


async def _timed_raw(raw: Raw, events: int) -> float:
    started_s = time.perf_counter()
    rows = await raw.read_all()
    took_s = time.perf_counter() - started_s
    assert rows == events
    return took_s


def _rate(events: int, seconds: float) -> float:
    return events / seconds
