"""Read models in an SQLite file or in memory: transactions on two threads, one that writes and one that reads.

A transaction is one hop to its thread, whatever is done in it. Not here: what that is (`read_models.py`).
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.pool import StaticPool

from projections.database import Database, Work, read_model_error
from projections.errors import ReadModelRejected, ReadModelUnavailable
from store.sqlite_file import CACHE_KIB, TEMPORARY_AT_HAND, UNFIT_VALUE, store_error, use_write_ahead_log

T = TypeVar("T")
BUSY_TIMEOUT_S = 5.0
WRONG_QUERY = {sqlite3.SQLITE_ERROR, sqlite3.SQLITE_ERROR_MISSING_COLLSEQ, sqlite3.SQLITE_READONLY}
"""Extended codes: of SQLITE_READONLY the others are about the file."""


class SqliteReadDatabase(Database):
    """A file, or without a path a database in memory, which is gone once closed."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.name = str(path or "memory")
        self._writing = _Thread("eventray-read-models-write", partial(_connect, path, "rwc"), "BEGIN IMMEDIATE")
        # A database in memory is its connection: one, that all transactions take turns with.
        self._reading = (
            _Thread("eventray-read-models", partial(_connect, path, "rw"), "BEGIN") if path else self._writing
        )
        self.dialect = self._writing.engine.dialect

    @property
    def is_there(self) -> bool:
        return self._path is None or self._path.exists()

    async def read(self, work: Work[T], for_long: bool = False) -> T:
        return await self._reading.run(work if self._path else partial(_changing_nothing, work))

    async def write(self, work: Work[T]) -> T:
        return await self._writing.run(work)

    def refusal(self, error: DBAPIError) -> str | None:
        cause = _driver_error(error)
        wrong = getattr(cause, "sqlite_errorcode", None) in WRONG_QUERY
        return str(store_error(cause).args[0]) if wrong else None

    async def close(self) -> None:
        for thread in (self._writing, self._reading):
            await thread.close()


class _Thread:
    """A thread with a connection of its own, which is opened when it is first used."""

    def __init__(self, name: str, connect: Callable[[], sqlite3.Connection], begin: str) -> None:
        self.engine = create_engine("sqlite://", creator=connect, poolclass=StaticPool)
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql(begin))
        self._executor = ThreadPoolExecutor(1, name)
        self._closed = False

    async def run(self, work: Work[T]) -> T:
        if self._closed:
            raise ReadModelUnavailable("it has been closed here")
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._transaction, work)

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            await asyncio.to_thread(self._executor.shutdown)
            self.engine.dispose()

    def _transaction(self, work: Work[T]) -> T:
        try:
            with self.engine.begin() as connection:
                return work(connection)
        except DBAPIError as error:
            raise read_model_error(store_error(_driver_error(error))) from error
        except StatementError as error:
            raise ReadModelRejected(str(error.orig or error)) from error
        except (sqlite3.Error, *UNFIT_VALUE) as error:
            raise read_model_error(store_error(error)) from error


def _changing_nothing(work: Work[T], connection: Connection) -> T:
    connection.exec_driver_sql("PRAGMA query_only=ON")
    try:
        return work(connection)
    finally:
        connection.exec_driver_sql("PRAGMA query_only=OFF")


def _driver_error(error: DBAPIError) -> Exception:
    return error.orig if isinstance(error.orig, Exception) else error


def _connect(path: Path | None, mode: str) -> sqlite3.Connection:
    """Open a connection in autocommit mode, so that transactions begin as SQLAlchemy is told to begin them.

    (The driver's own way begins one only at the first write, so that reads would see several snapshots.)
    """
    location = f"file:{quote(str(path))}?mode={mode}" if path else "file::memory:"
    connection = sqlite3.connect(
        location,
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    if mode == "rwc":
        use_write_ahead_log(connection)
        connection.execute(TEMPORARY_AT_HAND)
        # Where SQLite is built to overwrite what is deleted, a dropped table would be at hand whole.
        connection.execute("PRAGMA secure_delete=OFF")
    else:
        connection.execute("PRAGMA query_only=ON")
    # A power failure may take back the last commits, but never half of one: a checkpoint is in its read model's own
    # transaction, so both go back together and the log is applied again from there. Don't keep here what is nowhere
    # else.
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
    return connection
