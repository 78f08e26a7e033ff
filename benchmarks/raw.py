"""The bare drivers, as fast as they are used best: the limit that the store is held against.

They write the same rows into the same tables, which a store has made, in the same transactions; unfenced and unchecked.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import asyncpg

from store.records import EventRecord
from store.sqlite_file import SqliteFile
from store.urls import parsed_url

COLUMNS = ", ".join(EventRecord._fields)
PLACES = ", ".join("?" * len(EventRecord._fields))
PREFETCH = 1_000
"""Rows that asyncpg's cursor asks for at once: measured, it reads fastest so (by default 50, a third of the speed)."""


class Raw(Protocol):
    """What is measured of a driver."""

    async def append(self, rows: Sequence[EventRecord]) -> None:
        """Insert rows in one durable transaction."""
        ...

    async def read_all(self) -> int:
        """Iterate over the whole log, by shard and position; return the number of rows."""
        ...

    async def read_one(self, stream: str, version: int) -> None:
        """Select one event."""
        ...

    async def size_bytes(self) -> int:
        """Return what the events and their indexes take on the disk."""
        ...

    async def drop_snapshots(self) -> None:
        """Delete all snapshots of the store."""
        ...

    async def close(self) -> None: ...


class RawSqlite:
    """The sqlite3 module, on the calling thread, with the settings of the store's own connections."""

    def __init__(self, url: str) -> None:
        self._path = Path(parsed_url(url).path)
        self._connection = SqliteFile(url, self._path).connect()

    async def append(self, rows: Sequence[EventRecord]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany(f"INSERT INTO events ({COLUMNS}) VALUES ({PLACES})", rows)
        self._connection.execute("COMMIT")

    async def read_all(self) -> int:
        count = 0
        for _ in self._connection.execute(f"SELECT {COLUMNS} FROM events ORDER BY shard, position"):
            count += 1
        return count

    async def read_one(self, stream: str, version: int) -> None:
        query = f"SELECT {COLUMNS} FROM events WHERE stream = ? AND version = ?"
        assert self._connection.execute(query, (stream, version)).fetchone() is not None

    async def size_bytes(self) -> int:
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        ((pages,), (page_bytes,)) = (
            self._connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
        )
        return int(pages * page_bytes)

    async def drop_snapshots(self) -> None:
        self._connection.execute("DELETE FROM snapshots")

    async def close(self) -> None:
        self._connection.close()


class RawPostgres:
    """asyncpg: COPY going in, a cursor coming out."""

    def __init__(self, session: Any) -> None:
        self._session = session

    async def append(self, rows: Sequence[EventRecord]) -> None:
        await self._session.copy_records_to_table("events", records=rows, columns=EventRecord._fields)

    async def read_all(self) -> int:
        count = 0
        async with self._session.transaction():
            query = f"SELECT {COLUMNS} FROM events ORDER BY shard, position"
            async for _ in self._session.cursor(query, prefetch=PREFETCH):
                count += 1
        return count

    async def read_one(self, stream: str, version: int) -> None:
        query = f"SELECT {COLUMNS} FROM events WHERE stream = $1 AND version = $2"
        assert await self._session.fetchrow(query, stream, version) is not None

    async def size_bytes(self) -> int:
        return int(await self._session.fetchval("SELECT pg_total_relation_size('events')"))

    async def drop_snapshots(self) -> None:
        await self._session.execute("DELETE FROM snapshots")

    async def close(self) -> None:
        await self._session.close()


async def open_raw(url: str) -> Raw:
    """Open the driver on the tables of a store that is there."""
    if parsed_url(url).scheme == "sqlite":
        return RawSqlite(url)
    return RawPostgres(await asyncpg.connect(url, server_settings={"jit": "off", "enable_sort": "off"}))
