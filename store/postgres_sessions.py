"""The sessions of one opened PostgreSQL store: one that writes, a few that read, and who is ended when.

A session that blocks another for 300 ms is ended by the server (pg_terminate_backend), if it is one of this store's:
a paused host must not keep its successor waiting. Not here: what the sessions are used for (`postgres.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any
from weakref import WeakSet

import asyncpg

from store import postgres_database
from store.errors import EventrayError, StoreUnavailable
from store.postgres_database import PostgresDatabase, bounded
from store.postgres_errors import DRIVER_ERRORS, LOST, store_error
from store.records import Writer

LOCK_WAIT_S = 0.3
"""How long a row is waited for before those who block it are ended."""
CLOSE_TIMEOUT_S = 2.0
END_TIMEOUT_S = 2.0
READERS_MAX = 3
INDEXES_ONLY = {
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "plan_cache_mode": "force_generic_plan",
}
"""A plan that was made while the log was short is kept for long: it must be the one that fits a long log. So nothing is
planned anew for each read, which took longer than the read itself."""

STARTED = "(extract(epoch FROM backend_start) * 1000000)::int8::text"
IDENTITY = f"SELECT pid, {STARTED} FROM pg_stat_activity WHERE pid = pg_backend_pid()"  # noqa: S608
END = f"""SELECT pg_terminate_backend(pid, $3) FROM pg_stat_activity
    WHERE pid = $1 AND {STARTED} = $2 AND pid <> pg_backend_pid()"""  # noqa: S608
SUCCEED = """UPDATE hosts SET writer_pid = $1, writer_started = $2
    FROM unnest($3::int8[], $4::text[]) AS former (pid, started)
    WHERE writer_pid = former.pid AND writer_started = former.started"""
END_BLOCKERS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = ANY(pg_blocking_pids($1)) AND datname = current_database() AND application_name = $2
    AND wait_event_type IS DISTINCT FROM 'Lock' AND xact_start < clock_timestamp() - make_interval(secs => $3)"""


class Sessions:
    """They belong to the event loop that opens them. Raises the store's errors, but within what it lends."""

    def __init__(self, database: PostgresDatabase, name: str) -> None:
        """`name` is what all sessions of this store have in common, and no others."""
        self._database, self._name = database, name
        self._all: WeakSet[asyncpg.Connection] = WeakSet()
        self._idle: list[asyncpg.Connection] = []
        self._free = asyncio.Semaphore(READERS_MAX)
        self._writer: asyncpg.Connection | None = None
        self._identities: list[Writer] = []
        """Of the writing session, after those of former ones that may not be over yet."""
        self._unblocking: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connect(self, **settings: str) -> asyncpg.Connection:
        """Open one more session. Raises the driver's errors."""
        if self._closed:
            raise StoreUnavailable("it has been closed here", False)
        session = await self._database.connect(self._name, **settings)
        self._all.add(session)
        return session

    async def close(self) -> None:
        self._closed = True
        for task in self._unblocking:
            task.cancel()
        await asyncio.gather(*self._unblocking, *map(_close, list(self._all)), return_exceptions=True)

    async def fetch(self, query: str, *values: Any) -> list[asyncpg.Record]:
        """Read in one statement. Raises the store's errors."""
        try:
            async with asyncio.timeout(_reading_s()), self._reader() as session:
                return list(await session.fetch(query, *values))
        except DRIVER_ERRORS as error:
            raise store_error(error) from error

    @asynccontextmanager
    async def _reader(self) -> AsyncIterator[asyncpg.Connection]:
        """Lend a session for one read; after an error it is not used again. Raises the driver's errors."""
        async with self._free:
            self._idle = [session for session in self._idle if not session.is_closed()]
            session = self._idle.pop() if self._idle else await self.connect(**INDEXES_ONLY)
            try:
                yield session
            except BaseException:  # cancelled too: within a statement it is no good for another
                session.terminate()
                raise
            self._idle.append(session)

    # The writing session

    @property
    def identity(self) -> Writer:
        """The backend of the writing session."""
        return self._identities[-1]

    async def writer(self) -> asyncpg.Connection:
        """Return the session that writes; one user at a time.

        A new one, before it is used, has ended the backend of the last, and is recorded in its place for all hosts
        that claimed here. Raises StoreUnavailable.
        """
        if self._writer is None or self._writer.is_closed():
            try:
                self._writer = await self._open_writer()
            except DRIVER_ERRORS as error:
                raise store_error(error) from error
        return self._writer

    async def _open_writer(self) -> asyncpg.Connection:
        session = await self.connect()
        try:
            with self.watched(session):
                identity = Writer("", *await session.fetchrow(IDENTITY))
                for former in self._identities:
                    await _end(session, former)
                self._identities.append(identity)
                former_pids = [writer.pid for writer in self._identities]
                former_starts = [writer.started for writer in self._identities]
                await session.execute(SUCCEED, identity.pid, identity.started, former_pids, former_starts)
        except BaseException:  # cancelled too: nobody would know of this session
            session.terminate()
            raise
        self._identities = [identity]
        return session

    async def end(self, writer: Writer) -> bool:
        """End that backend if it still is the same and not this store's own; return whether it had to be."""
        if writer in self._identities:
            return False
        try:
            async with asyncio.timeout(_reading_s()), self._reader() as session:
                return await _end(session, writer)
        except DRIVER_ERRORS as error:
            raise store_error(error) from error

    # Waits that end

    @contextmanager
    def watched(self, session: asyncpg.Connection) -> Iterator[None]:
        """Let no wait on this session be for ever: end those who block it, then, if it stays silent, itself."""
        blocked = asyncio.get_running_loop().call_later(LOCK_WAIT_S, self._unblock, session.get_server_pid())
        try:
            with bounded(session):
                yield
        finally:
            blocked.cancel()

    def _unblock(self, pid: int) -> None:
        task = asyncio.get_running_loop().create_task(self._end_blockers(pid))
        self._unblocking.add(task)
        task.add_done_callback(self._unblocking.discard)

    async def _end_blockers(self, pid: int) -> None:
        with suppress(EventrayError):  # whoever is blocked says so, when its lock_timeout is over
            await self.fetch(END_BLOCKERS, pid, self._name, LOCK_WAIT_S * 0.8)


async def _end(session: asyncpg.Connection, writer: Writer) -> bool:
    """End a backend and wait until it is gone; return whether it was there. Raises StoreUnavailable if it stays."""
    ended = await session.fetchval(END, writer.pid, writer.started, int(END_TIMEOUT_S * 1000))
    if ended is False:
        raise StoreUnavailable(f"backend {writer.pid} does not end", True)
    return ended is not None


def _reading_s() -> float:
    return postgres_database.CONNECT_TIMEOUT_S + postgres_database.REPLY_TIMEOUT_S


async def _close(session: asyncpg.Connection) -> None:
    with suppress(asyncpg.PostgresError, *LOST):  # then it has been aborted
        await session.close(timeout=CLOSE_TIMEOUT_S)
