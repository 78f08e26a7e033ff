"""Loading an aggregate that has a snapshot, by a repository and in a host, beside a SELECT of one row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

from actors.customers import ChangeEmail, Customer, Order
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.registry import AggregateRegistry
from actors.repository import Repository
from actors.snapshots import Snapshots
from actors.wire import Call, CommandMessage, Receipt, pack_call, unpack_answers
from benchmarks.content import fill
from benchmarks.places import Place
from benchmarks.raw import open_raw
from store.identity import shard_of
from store.opening import open_store
from store.ports import EventStore

REGISTRY = AggregateRegistry([Customer, Order])
LOADS = 200
HOST_LOADS = 60


async def load_with_snapshot(place: Place, name: str, events: int) -> dict[str, list[float]]:
    """Load an aggregate of so many events that has a snapshot of its last one: by a repository, and in a host."""
    url = await place.new_url(f"{name}_snapshot")
    store, raw = await open_store(url), await open_raw(url)
    try:
        await fill(store, events, 1)
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
        cold_ms, warm_ms, after_claim_ms = await _in_a_host(store, events, select)
    finally:
        await raw.close()
        await store.close()
    return {
        "one row by the raw driver, p50 ms": [raw_ms],
        "one row by the store, p50 ms": [one_row_ms],
        f"load of {events:,} events with a snapshot, p50 ms": [load_ms],
        "load / one row by the store": [load_ms / one_row_ms],
        "after a claim: one row by the store, p50 ms": [after_claim_ms],
        "after a claim: command to it cold in a host, p50 ms": [cold_ms],
        "after a claim: command to it in memory, p50 ms": [warm_ms],
        "after a claim: (cold - in memory) / one row": [(cold_ms - warm_ms) / after_claim_ms],
    }


async def _in_a_host(
    store: EventStore, events: int, select: Callable[[], Awaitable[None]]
) -> tuple[float, float, float]:
    """Return medians in ms of a command without events to a cold aggregate, of one to one in memory, and of a SELECT.

    Each follows a claim: who comes after a wait for the disk has to be woken and finds nothing in the caches. (One that
    follows a command without such a wait takes a half of the time and less.)
    """
    generation, shard = await store.take("a benchmark"), shard_of("c-0", store.shards)
    other = (shard + 1) % store.shards
    await store.assign(generation, {shard: "a host", other: "a host"})
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

    cold, warm, row = [], [], []
    for _ in range(HOST_LOADS):
        epochs = await host.claim([shard])  # it begins with empty memory
        cold.append(await submit(epochs))
        await host.claim([other])
        warm.append(await submit(epochs))
        await host.claim([other])
        row.append(await _ms(select))
    await host.stop()
    await store.release(generation)
    return statistics.median(cold), statistics.median(warm), statistics.median(row)


async def _p50_ms(work: Callable[[], Awaitable[None]], times: int) -> float:
    return statistics.median([await _ms(work) for _ in range(times)])


async def _ms(work: Callable[[], Awaitable[None]]) -> float:
    started_s = time.perf_counter()
    await work()
    return (time.perf_counter() - started_s) * 1000
