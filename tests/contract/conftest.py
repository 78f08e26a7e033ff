"""The stores under contract: each test runs on every backend, and names none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path

import pytest

from store import EventStore, open_store, taking
from tests.contract.rows import SHARDS

Opener = Callable[[], Awaitable[EventStore]]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], str]:
    """Return the URL of a store that isn't there yet, another at each call, all of them of one backend."""
    if request.param == "postgres":
        new_postgres_url: Callable[[], str] = request.getfixturevalue("new_postgres_url")
        return new_postgres_url
    form = {"memory": f"memory://{tmp_path.name}-{{}}", "sqlite": f"sqlite:///{tmp_path}/contract-{{}}.db"}
    return map(form[request.param].format, count()).__next__


@pytest.fixture
def store_url(new_url: Callable[[], str]) -> str:
    """The URL of the store under test, which isn't there yet."""
    return new_url()


@pytest.fixture
async def open_another(store_url: str) -> AsyncIterator[Opener]:
    """Open the store under test once more, as another host would."""
    opened: list[EventStore] = []

    async def open_it() -> EventStore:
        opened.append(await open_store(store_url, shards=SHARDS))
        return opened[-1]

    yield open_it
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_another: Opener) -> EventStore:
    """A new, empty store that nobody holds."""
    return await open_another()


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Watch a beat for 0.3 s instead of 3."""
    monkeypatch.setattr(taking, "WATCH_S", 0.3)
