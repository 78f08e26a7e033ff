"""The peers and the bare driver doing what the runtime does: the same commands or rows into the same kind of database.

How each is used is said where it is: `eventsourcing_shop.py`, `eventsource_py_shop.py`, `raw.py`. None of them has a
projection following, nor a Ray beside it. Not here: our side (`commands.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from actors import Command
from benchmarks.content import Content
from benchmarks.eventsource_py_shop import POOL, EventsourcePyShop
from benchmarks.eventsourcing_shop import CACHE, EventsourcingShop
from benchmarks.one_row import one_row_commit_p50_ms
from benchmarks.peer import peer_settings
from benchmarks.places import Place
from benchmarks.raw import open_raw
from store.opening import open_store

THREADS = 16
"""Of `eventsourcing` on PostgreSQL; measured: with 1, 8, 16 and 32 threads 1,960, 3,020, 3,390 and 2,980 commands/s."""
TASKS = POOL["pool_size"]
"""Of `eventsource-py`; measured on PostgreSQL: 10 tasks 1,100, 30 tasks 900 commands/s, on SQLite no difference."""
RAW_BATCHES = 40
RAW_ONE_ROW_COMMITS = 300


async def measure_peers(
    place: Place, name: str, commands: Sequence[Command], batched: Sequence[Command], sizes: tuple[int, int]
) -> dict[str, float]:
    """Return commands in a second of each: `commands` one by one, `batched` in batches; and what the driver does.

    `sizes`: of batches, and of large ones.
    """
    threads = 1 if place.server_url is None else THREADS
    settings = await peer_settings(place, f"{name}_each")
    found = {"eventsourcing_each_per_s": _each(EventsourcingShop(settings), commands, 1)}
    settings = await peer_settings(place, f"{name}_cached") | CACHE | {"POSTGRES_POOL_SIZE": str(threads)}
    found["eventsourcing_each_cached_per_s"] = _each(EventsourcingShop(settings), commands, threads)
    # On PostgreSQL by its function. Its other way, a pipeline of inserts, did 14,500 commands/s beside 12,900; but now
    # and then it stands for ever, driver and server each waiting for the other.
    for kind, size in zip(("batched", "batched_large"), sizes, strict=True):
        settings = await peer_settings(place, f"{name}_{kind}") | CACHE
        found[f"eventsourcing_{kind}_per_s"] = _in_batches(EventsourcingShop(settings), batched, size)
    shop = await EventsourcePyShop.opened(place, f"{name}_other")
    found["eventsource_py_each_per_s"] = len(commands) / await shop.saved_each(commands, TASKS)
    _check("eventsource-py", await shop.events(), len(commands))
    await shop.close()
    commit_ms = await one_row_commit_p50_ms(place, f"{name}_one_row", RAW_ONE_ROW_COMMITS)
    found["raw_driver_one_row_per_s"] = 1000 / commit_ms
    found["raw_driver_batched_per_s"] = await _raw(place, f"{name}_raw", sizes[0])
    return found


def _each(shop: EventsourcingShop, commands: Sequence[Command], threads: int) -> float:
    took_s = shop.saved_each(commands, threads)
    _check("eventsourcing", shop.events(), len(commands))
    shop.close()
    return len(commands) / took_s


def _in_batches(shop: EventsourcingShop, commands: Sequence[Command], size: int) -> float:
    took_s = shop.saved_in_batches(commands, size)
    _check("eventsourcing", shop.events(), len(commands))
    shop.close()
    return len(commands) / took_s


def _check(peer: str, events: int, commands: int) -> None:
    if events != commands:
        raise SystemExit(f"{peer} stored {events} events for {commands} commands")


async def _raw(place: Place, name: str, batch_size: int) -> float:
    """Return rows in a second: those of a store, into its tables, so many in a transaction."""
    url = await place.new_url(name)
    store = await open_store(url)
    rows = Content(RAW_BATCHES * batch_size // 4, store.shards).rows(0, RAW_BATCHES * batch_size)
    await store.close()
    raw = await open_raw(url)
    try:
        began_s = time.perf_counter()
        for start in range(0, len(rows), batch_size):
            await raw.append(rows[start : start + batch_size])
        return len(rows) / (time.perf_counter() - began_s)
    finally:
        await raw.close()
