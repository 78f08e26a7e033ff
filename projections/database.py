"""The database that read models are in: where it is, how a transaction is begun in it, what its errors mean.

Not here: its tables and what is written to them (`read_models.py`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from projections.errors import ReadModelRejected, ReadModelUnavailable
from store.errors import InvalidValue

BUSY_TIMEOUT_S = 5.0
_WRITES = "eventray_writes"
_UNFIT_VALUE = (OverflowError, UnicodeEncodeError)
"""What SQLite's driver raises on its own for a number over 64 bits and for a lone surrogate."""


def database_url(store_url: str) -> URL:
    """Return where the read models of a store are: SQLite: `shop.read.db` beside `shop.db`; memory: in memory.

    Raises InvalidValue for another database.
    """
    url = make_url(store_url)
    if url.drivername == "memory":
        return URL.create("sqlite+aiosqlite")
    if url.get_backend_name() == "sqlite":
        path = Path(url.database or "").absolute()
        return URL.create("sqlite+aiosqlite", database=str(path.with_name(f"{path.stem}.read{path.suffix}")))
    remedy = "give sqlite:///FILE: read models, and so runtimes, are not on PostgreSQL yet"
    raise InvalidValue("store", url.render_as_string(hide_password=True), remedy)


class Database:
    """Transactions on one database. Opening it does no I/O."""

    def __init__(self, url: URL) -> None:
        self.url = url
        self._engine = _engine(url)

    @property
    def path(self) -> Path | None:
        """The file, where it is one."""
        return Path(self.url.database) if self.url.get_backend_name() == "sqlite" and self.url.database else None

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Run the block in one snapshot. Raises ReadModelUnavailable."""
        with _translated():
            async with self._engine.connect() as connection:
                if self._engine.dialect.name != "sqlite":
                    await connection.execution_options(isolation_level="REPEATABLE READ")
                async with connection.begin():
                    yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Run the block in one transaction, committed at its end unless it raised or rolled back.

        Raises ReadModelUnavailable and ReadModelRejected, with nothing changed.
        """
        with _translated():
            async with self._engine.connect() as connection:
                await connection.execution_options(**{_WRITES: True})
                async with connection.begin():
                    yield connection

    async def close(self) -> None:
        """Let go of the connections. Calling it twice is safe."""
        await self._engine.dispose()


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        return create_async_engine(url)
    # An in-memory database is its connection: one, that all transactions take turns with.
    size: dict[str, Any] = {} if url.database else {"pool_size": 1, "max_overflow": 0}
    engine = create_async_engine(
        url, poolclass=AsyncAdaptedQueuePool, connect_args={"timeout": BUSY_TIMEOUT_S, "isolation_level": None}, **size
    )
    event.listen(engine.sync_engine, "connect", _on_connect)
    event.listen(engine.sync_engine, "begin", _on_begin)
    return engine


def _on_connect(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")
    # A power failure may take back the last commits, but never half of one: a checkpoint is in its read model's own
    # transaction, so both go back together and the log is applied again from there. Don't keep here what is nowhere
    # else.
    cursor.execute("PRAGMA synchronous=NORMAL")
    cursor.close()


def _on_begin(connection: Connection) -> None:
    # The driver's own way begins a transaction only at the first write, so reads would see several snapshots.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


@contextmanager
def _translated() -> Iterator[None]:
    """Raise the database's errors as the read model's."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise ReadModelUnavailable(str(error.orig)) from error
    except PoolTimeout as error:
        raise ReadModelUnavailable(str(error)) from error
    except DBAPIError as error:
        if getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_NOTADB:
            raise ReadModelUnavailable(str(error.orig)) from error
        raise ReadModelRejected(str(error.orig)) from error
    except StatementError as error:
        raise ReadModelRejected(str(error.orig or error)) from error
    except _UNFIT_VALUE as error:
        raise ReadModelRejected(str(error)) from error
