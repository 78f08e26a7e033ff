"""What the tests on a real Ray may ask for. Each store has a Ray namespace of its own, so tests don't meet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.settings import Settings
from store import postgres_database, postgres_sessions
from store.postgres import PostgresStore
from tests.contract.rows import own
from tests.integration.postgres_log import LogSql, opened
from tests.postgres import Server
from tests.proxies import Proxy, running_proxy


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a new store may be made: in a file, unless a test asks for `postgres`."""
    if getattr(request, "param", "sqlite") == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def settings() -> Settings:
    """Settings for a busy machine."""
    return Settings(query_timeout_s=20, close_timeout_s=20)


@pytest.fixture
async def proxy(postgres_server: Server) -> AsyncIterator[Proxy]:
    """A way to the server on which things get lost."""
    async with running_proxy(postgres_server.socket) as running:
        yield running


@pytest.fixture
async def postgres_store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store whose shards 1 and 2 are claimed by h-1."""
    store = await opened(postgres_url)
    await own(store, "h-1", [1, 2])
    yield store
    await store.close()


@pytest.fixture
def postgres_log(postgres_server: Server, postgres_url: str) -> LogSql:
    """The log of the store at `postgres_url`."""
    return LogSql(postgres_server, postgres_url)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """No wait for a server is long."""
    monkeypatch.setattr(postgres_database, "REPLY_TIMEOUT_S", 1.5)
    monkeypatch.setattr(postgres_sessions, "END_TIMEOUT_S", 0.5)
    monkeypatch.setattr(postgres_database, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_database, "STATEMENT_TIMEOUT_S", 1.0)
