"""What one durable commit of one row costs by the bare driver: the least that a lone command waits for."""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path

import asyncpg

from benchmarks.places import Place

DATA = "x" * 300


async def one_row_commit_p50_ms(place: Place, name: str, commits: int) -> float:
    """Return the median of durable commits of one row each into a new database (a new schema) of this name."""
    if place.server_url is None:
        return _of_sqlite(place.directory / f"{name}.db", commits)
    await place.new_url(name)
    return await _of_postgres(place.server_url, name, commits)


def _of_sqlite(path: Path, commits: int) -> float:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, data TEXT)")
    took_s = []
    for number in range(commits):
        started = time.perf_counter()
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO rows VALUES (?, ?)", (number, DATA))
        connection.execute("COMMIT")
        took_s.append(time.perf_counter() - started)
    connection.close()
    return statistics.median(took_s) * 1000


async def _of_postgres(url: str, schema: str, commits: int) -> float:
    """A prepared INSERT outside of a transaction block: one round trip."""
    session = await asyncpg.connect(url)
    try:
        await session.execute(f"CREATE TABLE {schema}.rows (id BIGINT PRIMARY KEY, data TEXT)")
        insert = await session.prepare(f"INSERT INTO {schema}.rows VALUES ($1, $2)")
        took_s = []
        for number in range(commits):
            started = time.perf_counter()
            await insert.fetch(number, DATA)
            took_s.append(time.perf_counter() - started)
    finally:
        await session.close()
    return statistics.median(took_s) * 1000
