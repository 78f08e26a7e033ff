"""What several unit tests ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from store import open_store
from tests.pretending import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """A coordinator with two hosts that serve 8 shards, and a projection host."""
    store = await open_store("memory://coordination", shards=8)
    cluster = Cluster(store)
    await cluster.coordination.start("test", 2)
    yield cluster
    await cluster.coordination.stop()
    await store.close()
