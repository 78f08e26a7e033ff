"""What the tests on a real Ray may ask for. Each store has a Ray namespace of its own, so tests don't meet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cluster.settings import Settings
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
