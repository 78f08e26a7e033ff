"""A PostgreSQL database as a store: sessions with it, and making the tables of a new one.

Every session is direct: a pooler that lends one backend to several clients takes away the identity by which a
successor ends its predecessor. Not here: what is read and written (`postgres.py`).
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit
from weakref import WeakKeyDictionary

import asyncpg
from sqlalchemy import event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DisconnectionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from store.errors import EventrayError, InvalidValue, NotAStore
from store.postgres_errors import DRIVER_ERRORS, driver_error, sqlstate, store_error, undone_by_rival
from store.schema import CORE_TABLES, StoreIdentity, create_tables, metadata, read_identity
from store.urls import REMEDY, shown_url

CONNECT_TIMEOUT_S = 5.0
REPLY_TIMEOUT_S = 10.0
"""After so long without a reply a connection is taken for lost. Longer than the server's own statement_timeout."""
LOCK_TIMEOUT_S = 2.0
STATEMENT_TIMEOUT_S = 8.0
IDLE_TRANSACTION_TIMEOUT_S = 10.0
ATTEMPTS_MAX = 5
"""How often a transaction that a rival undid (a deadlock, a serialization failure) is run."""
READ_ONLY = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
"""The options of a transaction that reads one snapshot."""
POOL_SIZE = 1
POOL_OVERFLOW = 3
CREATING = 0x6576656E74726179
"""The advisory lock under which tables are made."""
ELSEWHERE = "use another database, or a schema of its own: ?search_path=SCHEMA"
TABLES = """SELECT relname::text FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relname = ANY(:names)"""
NO_SUCH_DATABASE, NO_SCHEMA = "3D000", "3F000"
SCHEMA_MISSING = "its search_path names no schema that exists: make it first (CREATE SCHEMA), or mend its name"
WRONG_OPTION = ("42704", "22023", "55P02")
"""No such setting, no such value of it, or none that a session may change: what the driver doesn't know, it sends."""
OTHER_TABLES = ("42703", "42P01", "42883", "42804")
"""No such column, table or operator: tables of our names, but not ours."""

FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl", "passfile")
"""Options that name a file."""

T = TypeVar("T")
Connect = Callable[[], Awaitable[asyncpg.Connection]]
Guard = Callable[[asyncpg.Connection], AbstractContextManager[None]]


@contextmanager
def bounded(session: asyncpg.Connection) -> Iterator[None]:
    """Take the session for lost if the block, which waits for replies on it, takes longer than 10 s."""
    silent = asyncio.get_running_loop().call_later(REPLY_TIMEOUT_S, session.terminate)
    try:
        yield
    finally:
        silent.cancel()


async def in_transaction(
    engine: AsyncEngine, work: Callable[[AsyncConnection], Awaitable[T]], guard: Guard, options: dict[str, Any]
) -> T:
    """Run `work` in one transaction and commit it; again where a rival has undone it, 5 times at most.

    `guard` stands over the session meanwhile, the commit included. Raises the driver's errors.
    """
    for attempt in range(1, ATTEMPTS_MAX + 1):
        try:
            async with engine.connect() as connection:
                await connection.execution_options(**options)
                with guard((await connection.get_raw_connection()).driver_connection):
                    async with connection.begin():
                        return await work(connection)
        except DRIVER_ERRORS as error:
            if attempt == ATTEMPTS_MAX or not undone_by_rival(error):
                raise
    raise AssertionError("an attempt returns or raises")


class PostgresDatabase:
    """The database behind a store, and how to connect to it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.shown = shown_url(url)

    def __repr__(self) -> str:
        return f"PostgresDatabase({self.shown!r})"

    async def connect(self, name: str = "eventray", **settings: str) -> asyncpg.Connection:
        """Open a session, called `name` in pg_stat_activity, in which no wait is for ever. Takes at most 5 s.

        `settings` are server settings beside. Raises InvalidValue for a URL that can't be meant, ConnectionError where
        no server can be reached, else the driver's errors.
        """
        try:
            return await asyncpg.connect(
                self._url, timeout=CONNECT_TIMEOUT_S, server_settings=_session(name) | settings
            )
        except asyncpg.PostgresError as error:
            if sqlstate(error) in WRONG_OPTION and "?" in self._url:
                remedy = f"leave out or mend the option that the server does not take ({error})"
                raise InvalidValue("store", ascii(self.shown), remedy) from None
            raise
        except ssl.SSLError:
            raise
        except OSError as error:
            self._check_files(error)
            reason = error.strerror or str(error) or f"no answer within {CONNECT_TIMEOUT_S:g} s"
            remedy = "start it there, or mend host and port in the URL"
            raise ConnectionError(f"no server can be reached at {self.shown} ({reason}): {remedy}") from error
        except ValueError as error:
            guilty = [f"mend {name}: " for name in parse_qs(urlsplit(self._url).query) if f"`{name}`" in str(error)]
            remedy = f"{''.join(guilty)}{REMEDY} ({type(error).__name__})"  # its own words may hold the password
            raise InvalidValue("store", ascii(self.shown), remedy) from None

    def _check_files(self, error: OSError) -> None:
        """Raise InvalidValue if what could not be opened is a file that the URL names."""
        named = {name: value for name, (value, *_) in parse_qs(urlsplit(self._url).query).items() if name in FILES}
        for name, value in named.items():
            if isinstance(error, FileNotFoundError | PermissionError) and not os.access(value, os.R_OK):
                remedy = f"mend {name}: the file can't be read ({error.strerror})"
                raise InvalidValue("store", ascii(self.shown), remedy) from None

    def engine(self, connect: Connect, size: int = POOL_SIZE, overflow: int = POOL_OVERFLOW) -> AsyncEngine:
        """Return an engine over sessions that `connect` opens; one found closed is replaced before it is lent.

        `size` of them are kept, and at most `overflow` more are opened while all are lent. Lending takes at
        most 10 s beyond connecting. What is done with the connection is for the caller to bound.
        """
        preparing: WeakKeyDictionary[asyncpg.Connection, asyncio.TimerHandle] = WeakKeyDictionary()

        async def connect_and_prepare() -> asyncpg.Connection:
            session = await connect()  # SQLAlchemy asks the server this and that before it lends it
            preparing[session] = asyncio.get_running_loop().call_later(REPLY_TIMEOUT_S, session.terminate)
            return session

        engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=connect_and_prepare,
            pool_size=size,
            max_overflow=overflow,
            pool_timeout=CONNECT_TIMEOUT_S,
        )

        @event.listens_for(engine.sync_engine, "checkout")
        def checkout(connection: DBAPIConnection, record: ConnectionPoolEntry, proxy: PoolProxiedConnection) -> None:
            session = connection.driver_connection
            if session in preparing:
                preparing.pop(session).cancel()
            if session.is_closed():
                raise DisconnectionError("the server has ended this session")

        return engine

    async def open(self, shards: int, create: bool) -> StoreIdentity:
        """Return the identity of the store in the database, made with that many shards if there is none and `create`.

        Raises NotAStore, leaving the database as it is; StoreUnavailable if it can't be read or made.
        """
        engine = self.engine(self.connect)
        try:
            async with engine.connect() as connection:
                with bounded((await connection.get_raw_connection()).driver_connection):
                    async with connection.begin():
                        identity = await self._identity(connection, shards, create)
        except DRIVER_ERRORS as error:
            raise self._unreadable(error) from error
        finally:
            await engine.dispose()
        if identity is None:
            raise NotAStore(self.shown, "its table `runtime` is empty")
        return identity

    async def _identity(self, connection: AsyncConnection, shards: int, create: bool) -> StoreIdentity | None:
        await self._check_encoding(connection)
        if not await self._tables(connection):
            if await connection.scalar(text("SELECT current_schema()")) is None:
                raise NotAStore(self.shown, SCHEMA_MISSING)
            if not create:
                raise NotAStore(self.shown, "the database has no tables of a store")
            await self._create(connection, shards)
        return await connection.run_sync(read_identity)

    async def _check_encoding(self, connection: AsyncConnection) -> None:
        encoding = await connection.scalar(text("SHOW server_encoding"))
        if encoding != "UTF8":
            raise NotAStore(self.shown, f"its encoding is {encoding}: make a database with ENCODING 'UTF8'")

    async def _tables(self, connection: AsyncConnection) -> set[str]:
        """Return which of a store's tables are in the current schema. Raises NotAStore unless it is all or none."""
        found = set(await connection.scalars(text(TABLES), {"names": list(metadata.tables)}))
        if found and not found >= CORE_TABLES:
            raise NotAStore(self.shown, f"it has tables of something else ({', '.join(sorted(found))}): {ELSEWHERE}")
        return found

    async def _create(self, connection: AsyncConnection, shards: int) -> None:
        """Make the tables in the connection's transaction; another process may be doing the same."""
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": CREATING})
        if not await self._tables(connection):
            await connection.run_sync(create_tables, shards)

    def _unreadable(self, error: BaseException) -> EventrayError:
        state = sqlstate(error)
        if state == NO_SUCH_DATABASE:
            return NotAStore(self.shown, "there is no such database: make it first (createdb)")
        if state == NO_SCHEMA:
            return NotAStore(self.shown, SCHEMA_MISSING)
        if state in OTHER_TABLES:
            return NotAStore(self.shown, f"its tables are those of something else ({driver_error(error)}): {ELSEWHERE}")
        return store_error(error)


def _session(name: str) -> dict[str, str]:
    """Return the settings of every session: nothing in it waits for ever, on either side of the wire."""
    seconds: dict[str, Any] = {
        "statement_timeout": STATEMENT_TIMEOUT_S,
        "lock_timeout": LOCK_TIMEOUT_S,
        "idle_in_transaction_session_timeout": IDLE_TRANSACTION_TIMEOUT_S,
    }
    return {
        "application_name": name,
        "default_transaction_isolation": "read committed",
        "jit": "off",
        # A client machine that vanished is noticed, and its locks are freed, after half a minute at most.
        "tcp_keepalives_idle": "10",
        "tcp_keepalives_interval": "5",
        "tcp_keepalives_count": "4",
        "tcp_user_timeout": "30000",
        **{setting: f"{int(value * 1000)}ms" for setting, value in seconds.items()},
    }
