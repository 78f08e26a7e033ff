"""Appending to a log and reading all of it, typed, beside the bare driver. Not here: the command line (`store.py`)."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from actors.customers import CustomerCreated, CustomerEmailChanged
from benchmarks.content import Content, by_shard
from benchmarks.places import Place
from benchmarks.raw import Raw, open_raw
from store.codec import EventRegistry
from store.columns import column
from store.opening import open_store
from store.paging import collecting_rarely, read_log
from store.ports import EventStore
from store.writing import OfflineWriter

BATCH_ROWS = 500
BATCHES_IN_TURN = 20
"""Driver and store take turns, each with the same rows, so that a noisy moment hits both."""
READ_AT = 100_000
"""The size of log that a long one's reading is held against."""
EVENTS = EventRegistry([CustomerCreated, CustomerEmailChanged])

Told = Callable[[str], None]


class Reading(NamedTuple):
    """What reading a whole log came to."""

    events_per_s: float
    events_per_cpu_s: float
    raw_rows_per_s: float


class Appended(NamedTuple):
    """Seconds that the same rows took."""

    store_s: float
    raw_s: float


async def append_both(
    store: EventStore, writer: OfflineWriter, raw: Raw, content: Content, after: int, count: int
) -> Appended:
    """Append the next `count` events to the store, fenced, and the same rows by the driver, in batches of 500."""
    store_s = raw_s = 0.0
    for begin in range(after, after + count, BATCHES_IN_TURN * BATCH_ROWS):
        rows = content.rows(begin, min(BATCHES_IN_TURN * BATCH_ROWS, after + count - begin))
        batches = [rows[start : start + BATCH_ROWS] for start in range(0, len(rows), BATCH_ROWS)]
        started_s = time.perf_counter()
        for batch in batches:
            await raw.append(batch)
        turned_s = time.perf_counter()
        for batch in batches:
            await writer.append(by_shard(batch))
        store_s += time.perf_counter() - turned_s
        raw_s += turned_s - started_s
    return Appended(store_s, raw_s)


async def read_typed(store: EventStore) -> int:
    """Read the whole log as typed events, each stream's versions checked to be gapless; return their number."""
    count = 0
    with collecting_rarely():
        for shard, head in (await store.heads()).items():
            versions: dict[str, int] = {}
            async for page in read_log(store, shard, 0, head):
                for stream, version in zip(column(page, "stream"), column(page, "version"), strict=True):
                    if version != versions.get(stream, 0) + 1:
                        raise SystemExit(f"{stream}: version {version} does not follow")
                    versions[stream] = version
                count += len(EVENTS.decode_many(page))
    return count


async def read_both(store: EventStore, raw: Raw, expected: int) -> Reading:
    """Read a log of `expected` events by the driver, then typed."""
    started_s = time.perf_counter()
    rows = await raw.read_all()
    turned_s, turned_cpu_s = time.perf_counter(), time.process_time()
    events = await read_typed(store)
    seconds, cpu_s = time.perf_counter() - turned_s, time.process_time() - turned_cpu_s
    if not rows == events == expected:
        raise SystemExit(f"{rows} rows and {events} events were read, {expected} were written")
    return Reading(events / seconds, events / cpu_s, rows / (turned_s - started_s))


async def append_and_read(place: Place, name: str, events: int, streams: int, reads: int) -> dict[str, list[float]]:
    """Fill a new store and new tables of the driver's, then read the store's log a few times; return what was measured.

    The driver reads the store's own rows.
    """
    url, raw_url = await place.new_url(f"{name}_store"), await place.new_url(f"{name}_raw")
    store = await open_store(url)
    await (await open_store(raw_url)).close()
    raw, reader = await open_raw(raw_url), await open_raw(url)
    try:
        async with OfflineWriter(store, "a benchmark") as writer:
            await writer.heads(range(store.shards))
            content = Content(streams, store.shards)
            appended = await append_both(store, writer, raw, content, 0, events)
        await reader.read_all()  # so that each finds the same in the caches
        readings = [await read_both(store, reader, events) for _ in range(reads)]
    finally:
        for each in (raw, reader, store):
            await each.close()
    return {
        "append, raw driver, events/s": [events / appended.raw_s],
        "append, events/s": [events / appended.store_s],
        "append / raw driver": [appended.raw_s / appended.store_s],
        "typed read, raw driver, rows/s": [reading.raw_rows_per_s for reading in readings],
        "typed read, events/s": [reading.events_per_s for reading in readings],
        "typed read, events per CPU second": [reading.events_per_cpu_s for reading in readings],
        "typed read / raw driver": [reading.events_per_s / reading.raw_rows_per_s for reading in readings],
    }


async def grow(place: Place, events: int, streams: int, points: int, pause_after_s: float, told: Told) -> list[Any]:
    """Grow a store and the driver's tables to `events`, and return the curve: at each point speed, size and reading.

    The state is kept in the place's directory, so that a run that pauses, at the first point after so many seconds, is
    taken up again.
    """
    state_path = place.directory / f"growth-{place.kind}.json"
    curve: list[dict[str, Any]] = json.loads(state_path.read_text()) if state_path.exists() else []
    began_s, urls = time.perf_counter(), [place.url(name) for name in ("growth_store", "growth_raw")]
    if not curve:
        urls = [await place.new_url(name) for name in ("growth_store", "growth_raw")]
    store = await open_store(urls[0])
    await (await open_store(urls[1])).close()
    raw, reader = await open_raw(urls[1]), await open_raw(urls[0])
    content = Content(streams, store.shards)
    sizes = sorted({min(READ_AT, events), *(events * point // points for point in range(1, points + 1))})
    try:
        for size in sizes:
            done = curve[-1]["events"] if curve else 0
            if size <= done:
                continue
            found = sum((await store.heads()).values())
            if found != done:
                raise SystemExit(f"{place.directory} holds {found} events and not {done}: name another directory")
            async with OfflineWriter(store, "a benchmark") as writer:
                await writer.heads(range(store.shards))
                appended = await append_both(store, writer, raw, content, done, size - done)
            curve.append(await _point(store, reader, size, size - done, appended, size in (sizes[-1], READ_AT)))
            _keep(state_path, curve)
            told(f"{size:,} events: {curve[-1]}")
            if time.perf_counter() - began_s > pause_after_s and size < events:
                told(f"paused at {size:,} of {events:,} events: run it again to go on")
                break
    finally:
        for each in (raw, reader, store):
            await each.close()
    return curve


async def _point(
    store: EventStore, reader: Raw, size: int, added: int, appended: Appended, reading: bool
) -> dict[str, Any]:
    read = None
    if reading:
        await reader.read_all()
        read = await read_both(store, reader, size)
    return {
        "events": size,
        "append/s": round(added / appended.store_s),
        "raw append/s": round(added / appended.raw_s),
        "append / raw": round(appended.raw_s / appended.store_s, 3),
        "bytes/event": round(await reader.size_bytes() / size),
        "read/s": None if read is None else round(read.events_per_s),
        "raw read/s": None if read is None else round(read.raw_rows_per_s),
    }


def _keep(path: Path, curve: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(curve))
