"""A process of its own that watches how far a log and one of its read models are.

It asks the bare drivers, which takes little of the machine that it watches. Not here: what is made of it
(`projections.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import asyncpg

from projections.opening import read_model_path
from store.urls import parsed_url

LOOK_S = 0.002
HEADS = "SELECT shard, head FROM shards"
POSITIONS = "SELECT shard, position FROM checkpoints WHERE subscriber = '{}'"

Ask = Callable[[], Awaitable[Iterable[tuple[int, int]]]]
"""Asks for positions by shard."""


class Seen(NamedTuple):
    """That a shard was at a position at some time, on the clock of `time.perf_counter`."""

    at_s: float
    position: int


class Watched(NamedTuple):
    """By shard, in the order of time, where the log and the read model were; begins with where they were at first."""

    committed: dict[int, list[Seen]]
    visible: dict[int, list[Seen]]


def watch(url: str, subscriber: str, pipe: Connection) -> None:
    """Say that it has begun, watch until told to end, and send what was seen. Runs in a process of its own."""
    pipe.send(asyncio.run(_watch(url, subscriber, pipe)))


async def _watch(url: str, subscriber: str, pipe: Connection) -> Watched:
    heads, positions = await _open(url, subscriber)
    watched, earliest_s = Watched({}, {}), time.perf_counter()
    pipe.send("begun")
    while not pipe.poll():
        before_s = time.perf_counter()
        _note(watched.committed, await heads(), earliest_s)
        _note(watched.visible, await positions(), time.perf_counter())
        earliest_s = before_s
        await asyncio.sleep(max(0.0, before_s + LOOK_S - time.perf_counter()))
    return watched


async def _open(url: str, subscriber: str) -> tuple[Ask, Ask]:
    """Return what asks for the heads of the log, and for the checkpoints of the read model."""
    parsed, queries = parsed_url(url), (HEADS, POSITIONS.format(subscriber))
    if parsed.scheme == "sqlite":
        log = Path(parsed.path)
        heads, positions = (_of_sqlite(*each) for each in zip((log, read_model_path(log)), queries, strict=True))
    else:
        heads, positions = [await _of_postgres(url, query) for query in queries]
    return heads, positions


def _of_sqlite(path: Path, query: str) -> Ask:
    connection = sqlite3.connect(path, isolation_level=None)

    async def ask() -> Iterable[tuple[int, int]]:
        return connection.execute(query).fetchall()

    return ask


async def _of_postgres(url: str, query: str) -> Ask:
    statement = await (await asyncpg.connect(url)).prepare(query)

    async def ask() -> Iterable[tuple[int, int]]:
        return [(shard, position) for shard, position in await statement.fetch()]

    return ask


def _note(seen: dict[int, list[Seen]], positions: Iterable[tuple[int, int]], at_s: float) -> None:
    for shard, position in positions:
        changes = seen.setdefault(shard, [])
        if not changes or changes[-1].position < position:
            changes.append(Seen(at_s, position))
