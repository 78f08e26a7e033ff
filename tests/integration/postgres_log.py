"""Test tools: a PostgreSQL store's log, looked at past the store, and waiting until a store has lost its sessions."""

from __future__ import annotations

import asyncio
import time

import asyncpg

from store import open_store
from store.postgres import COPY_ROWS_MIN, PostgresStore
from tests.postgres import Sql

FEW, MANY = 3, COPY_ROWS_MIN * 2
"""Rows that go in one statement, and by COPY."""
LOG = "SELECT stream, version, position FROM events ORDER BY position"


async def opened(url: str) -> PostgresStore:
    store = await open_store(url, shards=8)
    assert isinstance(store, PostgresStore)
    return store


class LogSql(Sql):
    """What is in the log, past the store."""

    def log(self) -> list[tuple[str, int, int]]:
        """All events of shard 1: stream, version, position."""
        lines = self(LOG).splitlines()
        return [(stream, int(version), int(position)) for stream, version, position in (x.split("|") for x in lines)]

    def head(self) -> int:
        return int(self("SELECT head FROM shards WHERE shard = 1"))


def note(count: int) -> list[tuple[str, int, int]]:
    """What shard 1 holds after `count` events of one stream, each once."""
    return [("note-a", number, number) for number in range(1, count + 1)]


async def until_noticed(store: PostgresStore) -> None:
    """Wait until the store has noticed that all its sessions are gone."""
    for session in list(store._sessions._all):
        await until_gone(session)


async def until_gone(session: asyncpg.Connection) -> None:
    deadline = time.monotonic() + 10
    while not session.is_closed():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
