"""Read models in the PostgreSQL database of the events, in the same schema, over sessions of their own.

No call waits for ever, but one that is meant to: a server that says nothing is a lost one. Not here: what is read and
written (`read_models.py`), connecting (`store/postgres_database.py`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.database import Database, Work, read_model_error
from projections.errors import ReadModelRejected
from store.errors import StoreUnavailable
from store.postgres_database import CREATING, READ_ONLY, Guard, PostgresDatabase, bounded, in_transaction
from store.postgres_errors import DRIVER_ERRORS, driver_error, sqlstate, store_error
from store.postgres_sessions import INDEXES_ONLY, Sessions

T = TypeVar("T")
SESSIONS_MAX = 4
WRONG_QUERY = ("0A", "21", "25006", "42", "54")
"""SQLSTATEs of what the server can't do, rows where one was to be, writing, what it can't make out, and its limits."""
SETTINGS = {
    # A power failure may take back the last commits, but never half of one: a checkpoint is in its read model's own
    # transaction, so both go back together and the log is applied again from there.
    "synchronous_commit": "off",
    # One that is paused in a transaction holds checkpoints, for which its successor waits.
    "idle_in_transaction_session_timeout": "2000ms",
    **INDEXES_ONLY,
}


class PostgresReadDatabase(Database):
    """It belongs to the event loop that first uses it."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.name = database.shown
        self._sessions = Sessions(database, "eventray read models")
        self._engine = database.engine(self._connect, SESSIONS_MAX, overflow=0)
        self.dialect = self._engine.dialect

    async def read(self, work: Work[T], for_long: bool = False) -> T:
        return await self._transaction(work, READ_ONLY, _unbounded if for_long else bounded)

    async def write(self, work: Work[T]) -> T:
        return await self._transaction(work, {})

    async def write_alone(self, work: Work[T]) -> T:
        def alone(connection: Connection) -> T:
            connection.execute(select(func.pg_advisory_xact_lock(CREATING)))
            return work(connection)

        return await self.write(alone)

    def refusal(self, error: DBAPIError) -> str | None:
        stale_plan = isinstance(driver_error(error), asyncpg.InvalidCachedStatementError)
        wrong = sqlstate(error).startswith(WRONG_QUERY) and not stale_plan
        return str(store_error(error).args[0]) if wrong else None

    async def close(self) -> None:
        await self._sessions.close()
        await self._engine.dispose()

    async def _connect(self) -> asyncpg.Connection:
        try:
            return await self._sessions.connect(**SETTINGS)
        except StoreUnavailable as error:
            raise read_model_error(error) from error

    async def _transaction(self, work: Work[T], options: dict[str, Any], guard: Guard = bounded) -> T:
        try:
            return await in_transaction(self._engine, partial(_run, work=work), guard, options)
        except StatementError as error:
            if isinstance(error, DBAPIError):
                raise read_model_error(store_error(error)) from error
            raise ReadModelRejected(str(error.orig or error)) from error
        except DRIVER_ERRORS as error:
            raise read_model_error(store_error(error)) from error


async def _run(connection: AsyncConnection, work: Work[T]) -> T:
    return await connection.run_sync(work)


def _unbounded(session: asyncpg.Connection) -> AbstractContextManager[None]:
    return nullcontext()
