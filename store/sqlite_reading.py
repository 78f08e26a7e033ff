"""Reading an SQLite store: threads with a connection each, and what a query brings there, as records or snapshots.

Queries that many aggregates wait for run side by side. One that comes alone goes to the same thread as the last: that
one is awake, and has the pages at hand. Not here: which queries there are (`sqlite_rows.py`), writing (`sqlite.py`).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from store.errors import StoreUnavailable
from store.records import EventRecord, Snapshot
from store.sqlite_file import SqliteFile, primary_code, store_error
from store.sqlite_rows import Unfit, careful_records_of, carefully, records_of, text_of

T = TypeVar("T")
READERS = 2
READ_SNAPSHOTS = """SELECT json_group_array(json_array(
        hex(stream), CAST(version AS INTEGER), hex(fingerprint), hex(data), CAST(recorded_at AS INTEGER)))
    FROM snapshots WHERE stream IN (SELECT value FROM json_each(?))"""
NOT_JSON = (sqlite3.SQLITE_ERROR, 0)
"""What SQLite says where a value is a BLOB, and what Python's driver says where a text is not UTF-8."""


class Reader:
    """One thread with its connection. `begin`, `in_hand` and `close` are for others; the rest runs on that thread."""

    def __init__(self, file: SqliteFile) -> None:
        self._thread = ThreadPoolExecutor(1, "eventray-store-read")
        self._begun: list[Future[Any]] = []
        self._file = file
        self._connection: sqlite3.Connection | None = None

    def begin(self, work: Callable[[Reader], T]) -> Future[T]:
        """Give it work, to be done after what it has in hand."""
        begun = self._thread.submit(work, self)
        self._begun.append(begun)
        return begun

    def in_hand(self) -> int:
        """Return how many pieces of work it has not done, those too that nobody waits for any more."""
        self._begun = [each for each in self._begun if not each.done()]
        return len(self._begun)

    def row(self, query: str, *values: Any) -> tuple[Any, ...]:
        """Return the one row that a query has. Raises StoreUnavailable."""
        try:
            if self._connection is None:
                self._connection = self._file.connect()
            row: tuple[Any, ...] = self._connection.execute(query, values).fetchone()
        except sqlite3.Error as error:
            raise store_error(error) from error
        return row

    def records(self, query: str, *values: Any) -> Sequence[EventRecord]:
        """Return the records that one of the queries of `sqlite_rows.py` brings."""
        try:
            return records_of(self.row(query, *values))
        except Unfit:
            pass
        except StoreUnavailable as error:
            if primary_code(error.__cause__ or error) not in NOT_JSON:
                raise
        return careful_records_of(self.row(carefully(query), *values))

    def snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        """Return the snapshots of those streams that have one, as they are stored."""
        (rows,) = self.row(READ_SNAPSHOTS, json.dumps(list(streams)))
        found = [Snapshot(text_of(s), version, text_of(f), text_of(d), at) for s, version, f, d, at in json.loads(rows)]
        return {snapshot.stream: snapshot for snapshot in found}

    def close(self) -> None:
        """Let the thread end when it has done what it has in hand, then close the connection. Blocks."""
        self._thread.shutdown()
        if self._connection is not None:
            self._connection.close()


class Readers:
    """All reading threads of one store, for one event loop."""

    def __init__(self, file: SqliteFile) -> None:
        self._readers = [Reader(file) for _ in range(READERS)]

    async def read(self, work: Callable[[Reader], T]) -> T:
        """Have one of them do this: the first of those that have the least in hand."""
        reader = min(self._readers, key=Reader.in_hand)
        return await asyncio.wrap_future(reader.begin(work))

    async def close(self) -> None:
        """End them."""
        for reader in self._readers:
            await asyncio.to_thread(reader.close)
