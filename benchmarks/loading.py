"""Loading an aggregate that has a snapshot, by a repository and in a host, beside a SELECT of one row."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable

from actors.customers import ChangeEmail, Customer, Order
from actors.hosting import HostCore, HostLimits
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

        async def commit() -> None:
            await store.write_snapshots([snapshot])

        await load()
        one_row_ms, load_ms = await _p50_ms(select, LOADS), await _p50_ms(load, LOADS)
        after_ms = await _p50_ms(select, LOADS, commit)
        raw_ms = await _p50_ms(lambda: raw.read_one("customer-c-0", events), LOADS)
        cold_ms, warm_ms = await _in_a_host(store, events)
    finally:
        await raw.close()
        await store.close()
    return {
        "one row by the raw driver, p50 ms": [raw_ms],
        "one row by the store, p50 ms": [one_row_ms],
        "one row by the store after another's commit, p50 ms": [after_ms],
        f"load of {events:,} events with a snapshot, p50 ms": [load_ms],
        "load / one row by the store": [load_ms / one_row_ms],
        "command to it cold in a host, p50 ms": [cold_ms],
        "command to it in memory, p50 ms": [warm_ms],
        "(cold - in memory) / one row after another's commit": [(cold_ms - warm_ms) / after_ms],
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


async def _p50_ms(
    work: Callable[[], Awaitable[None]], times: int, before: Callable[[], Awaitable[None]] | None = None
) -> float:
    took_s = []
    for _ in range(times):
        if before is not None:
            await before()
        started_s = time.perf_counter()
        await work()
        took_s.append(time.perf_counter() - started_s)
    return statistics.median(took_s) * 1000
