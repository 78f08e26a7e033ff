"""The SQLite store. Ownership and cold reads are `sql.py`'s; here is the hot path, in the driver's own words.

An append is one hop to a thread that owns a connection, and one transaction there. The sqlite3 driver lets go of the
interpreter lock at each row it steps over, and gets it back from a busy event loop only after 5 ms (measured: 250
rows/s in a thread beside one); so the hot statements take many rows in one step: multi-row VALUES going in, one row
for many coming out. Not here: the file itself (`sqlite_file.py`), the form of events (`sqlite_rows.py`).
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

from sqlalchemy import URL, Connection, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from store import paging, process, sqlite_file
from store.errors import OutcomeUnknown, StoreUnavailable
from store.records import EventRecord, Histories, ShardAppend, Snapshot, SnapshotPlace, Writer, versions_restored
from store.schema import StoreIdentity
from store.sql import SqlStore, Work
from store.sqlite_file import TEMPORARY_AT_HAND, UNFIT_VALUE, SqliteFile, primary_code, store_error
from store.sqlite_reading import Reader, Readers
from store.sqlite_rows import FIND_COMMANDS, READ_SHARD, READ_STREAM, READ_STREAMS, text_of

T = TypeVar("T")
INSERT_ROWS_MAX = 512
"""Rows in one INSERT. What is left goes in smaller powers of two, so that few statements are compiled, each once."""
INSERT = f"INSERT INTO events ({', '.join(EventRecord._fields)}) VALUES "  # noqa: S608
ROW = f"({', '.join('?' * len(EventRecord._fields))})"
# By row, not by stream: the name of a damaged row may be no text, behind which no text comes.
SNAPSHOT_PLACES = """SELECT json_group_array(json_array(
        row, hex(stream), CAST(version AS INTEGER),
        (SELECT CAST(version AS INTEGER) FROM events WHERE stream = page.stream ORDER BY version DESC LIMIT 1),
        (SELECT CAST(shard AS INTEGER) FROM events WHERE stream = page.stream ORDER BY version DESC LIMIT 1)))
    FROM (SELECT rowid AS row, stream, version FROM snapshots WHERE rowid > ? ORDER BY rowid LIMIT ?) AS page"""
WRITE_SNAPSHOTS = """INSERT INTO snapshots (stream, version, fingerprint, data, recorded_at)
    SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
        json_extract(value, '$[3]'), json_extract(value, '$[4]') FROM json_each(?) WHERE true
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint,
        data = excluded.data, recorded_at = excluded.recorded_at WHERE excluded.version >= snapshots.version"""
HEADS = "SELECT json_group_array(json_array(shard, head)) FROM shards"
OWNED = """SELECT json_group_array(json_array(shard, epoch, head)) FROM shards
    WHERE shard IN (SELECT value FROM json_each(?))"""
ADVANCE = """UPDATE shards SET head = json_extract(wanted.value, '$[3]') FROM json_each(?) AS wanted
    WHERE shards.shard = json_extract(wanted.value, '$[0]') AND epoch = json_extract(wanted.value, '$[1]')
    AND head = json_extract(wanted.value, '$[2]')"""
WRITING = "eventray_writing"


class SqliteStore(SqlStore):
    """An `EventStore` in one SQLite file, shared by the processes of one machine."""

    def __init__(self, file: SqliteFile, identity: StoreIdentity) -> None:
        super().__init__(identity, _engine(file))
        self._file = file
        self._write_thread = ThreadPoolExecutor(1, "eventray-store-write")
        self._readers = Readers(file)
        self._write_connection: sqlite3.Connection | None = None
        self._snapshot_connection: sqlite3.Connection | None = None
        self._closed = False

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._write_thread.shutdown)
        await self._readers.close()
        for connection in (self._write_connection, self._snapshot_connection):
            if connection is not None:
                connection.close()
        await self._engine.dispose()

    # Hot reads

    async def heads(self) -> dict[int, int]:
        return dict(await self._fetch(HEADS))

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        return await self._records(READ_SHARD, shard, after_position, limit)

    async def read_stream(self, stream: str, after_version: int, limit: int) -> Sequence[EventRecord]:
        return await self._records(READ_STREAM, stream, after_version, limit)

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        restorable = [stream for stream, fingerprint in fingerprints.items() if fingerprint is not None]

        def read(reader: Reader) -> Histories:  # in two steps, which may see the log at two times: it only grows
            snapshots = reader.snapshots(restorable) if restorable else {}
            wanted = sorted(versions_restored(fingerprints, snapshots).items())
            return Histories(snapshots, reader.records(READ_STREAMS, json.dumps(wanted), limit))

        return await self._reading(read)

    async def read_snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        return await self._reading(lambda reader: reader.snapshots(streams))

    async def snapshot_places(self) -> AsyncIterator[Sequence[SnapshotPlace]]:
        last_row = 0
        while page := await self._fetch(SNAPSHOT_PLACES, last_row, paging.SNAPSHOTS_PAGE):
            yield [
                SnapshotPlace(text_of(stream), version, last or 0, shard) for _, stream, version, last, shard in page
            ]
            last_row = page[-1][0]

    async def find_commands(self, keys: Collection[tuple[int, str, str]]) -> dict[tuple[int, str, str], EventRecord]:
        found = await self._records(FIND_COMMANDS, json.dumps(list(keys)))
        return {(record.shard, str(record.command_key), record.stream): record for record in found}

    # Writing

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        return await self._writing(lambda: self._append(appends))

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        return await self._writing(lambda: self._settle(epochs))

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        rows = list(snapshots)
        await self._writing(lambda: self._write_snapshots(rows))

    def _write_snapshots(self, snapshots: list[Snapshot]) -> None:
        """Write them between two appends, on a connection of their own whose commits don't wait for the disk."""
        try:
            if self._snapshot_connection is None:
                self._snapshot_connection = self._file.connect()
                self._snapshot_connection.execute("PRAGMA synchronous=NORMAL")
            self._snapshot_connection.execute(WRITE_SNAPSHOTS, (json.dumps(snapshots, ensure_ascii=False),))
        except (sqlite3.Error, *UNFIT_VALUE) as error:
            raise store_error(error) from error

    def _append(self, appends: Sequence[ShardAppend]) -> set[int]:
        connection = self._writing_connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            fenced = _write(connection, appends)
            self._commit(connection)
        except (sqlite3.Error, *UNFIT_VALUE) as error:
            raise store_error(error) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return fenced

    def _commit(self, connection: sqlite3.Connection) -> None:
        """Commit. Raises OutcomeUnknown if that fails and the transaction is not known to be open still."""
        try:
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            if not connection.in_transaction or primary_code(error) == sqlite3.SQLITE_IOERR:
                raise OutcomeUnknown(str(error)) from error
            raise

    def _settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        connection = self._writing_connection()
        try:
            connection.execute("BEGIN IMMEDIATE")
            owned = json.loads(connection.execute(OWNED, (json.dumps(list(epochs)),)).fetchone()[0])
        except sqlite3.Error as error:
            raise store_error(error) from error
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        return {shard: head for shard, epoch, head in owned if epochs[shard] == epoch}

    # Ownership

    async def take(self, holder: str) -> int:
        """As the port says; if a predecessor, stopped in a transaction, holds the file, recorded writers are ended."""
        try:
            return await super().take(holder)
        except StoreUnavailable as error:
            if not error.passing:
                raise
            for writer in (await self.writers()).values():
                await self._end(writer)
            return await super().take(holder)

    async def _read(self, work: Work[T]) -> T:
        try:
            async with self._engine.begin() as connection:
                return await work(connection)
        except DBAPIError as error:
            raise _translated(error) from error

    async def _write(self, work: Work[T]) -> T:
        try:
            async with self._engine.execution_options(**{WRITING: True}).begin() as connection:
                return await work(connection)
        except DBAPIError as error:
            raise _translated(error) from error

    async def _writer(self) -> Writer:
        return process.this_process()

    async def _end(self, writer: Writer) -> bool:
        try:
            return await asyncio.to_thread(process.end, writer)
        except (TimeoutError, PermissionError) as error:
            raise StoreUnavailable(f"process {writer.pid} can't be ended: {error}", False) from error

    # Threads and connections

    async def _records(self, query: str, *values: Any) -> Sequence[EventRecord]:
        return await self._reading(lambda reader: reader.records(query, *values))

    async def _fetch(self, query: str, *values: Any) -> list[Any]:
        (rows,) = await self._reading(lambda reader: reader.row(query, *values))
        return list(json.loads(rows))

    async def _reading(self, work: Callable[[Reader], T]) -> T:
        self._check_open()
        return await self._readers.read(work)

    def _writing_connection(self) -> sqlite3.Connection:
        if self._write_connection is None:
            try:
                connection = self._file.connect()
                connection.execute(TEMPORARY_AT_HAND)
            except sqlite3.Error as error:
                raise store_error(error) from error
            self._write_connection = connection
        return self._write_connection

    async def _writing(self, work: Callable[[], T]) -> T:
        self._check_open()
        return await asyncio.get_running_loop().run_in_executor(self._write_thread, work)

    def _check_open(self) -> None:
        if self._closed:
            raise StoreUnavailable("it has been closed here", False)


def _write(connection: sqlite3.Connection, appends: Sequence[ShardAppend]) -> set[int]:
    """Do the statements of an append, in an open transaction; return the fenced shards."""
    writing = [append for append in appends if append.records]
    wanted = [[a.shard, a.epoch, a.old_head, a.old_head + len(a.records)] for a in writing]
    advanced = connection.execute(ADVANCE, (json.dumps(wanted),)).rowcount if wanted else 0
    fenced: set[int] = set()
    if advanced < len(appends):  # some are fenced, or only to be confirmed
        numbers = json.dumps([append.shard for append in appends])
        owned = json.loads(connection.execute(OWNED, (numbers,)).fetchone()[0])
        epochs = {shard: epoch for shard, epoch, _ in owned}
        fenced = {append.shard for append in appends if epochs.get(append.shard) != append.epoch}
        lost = len(writing) - advanced - sum(append.shard in fenced for append in writing)
        assert lost == 0, f"at the same epoch, another head than was appended to: {owned}, {wanted}"
    records = [record for append in writing if append.shard not in fenced for record in append.records]
    start, rows = 0, INSERT_ROWS_MAX
    while start < len(records):
        while rows > len(records) - start:
            rows //= 2
        values = list(chain.from_iterable(records[start : start + rows]))
        connection.execute(INSERTS[rows], values)
        start += rows
    return fenced


def _engine(file: SqliteFile) -> AsyncEngine:
    engine = create_async_engine(
        URL.create("sqlite+aiosqlite", database=file.location, query={**file.mode, "uri": "true"}),
        connect_args={"timeout": sqlite_file.BUSY_TIMEOUT_S, "isolation_level": None},
        poolclass=AsyncAdaptedQueuePool,
    )

    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
        cursor = connection.cursor()
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")

    return engine


def _translated(error: DBAPIError) -> Exception:
    return store_error(error.orig if isinstance(error.orig, Exception) else error)


INSERTS = {1 << power: INSERT + ", ".join([ROW] * (1 << power)) for power in range(INSERT_ROWS_MAX.bit_length())}
