"""What a coordinator does where a request of its own, or of a host, is lost on the way to the store, or the reply.

Whatever the store has done by then: one host serves each shard, by the store's epoch, and the store says what is so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from store import StoreUnavailable, open_store, taking
from tests.lossy import LossyStore, Lost
from tests.pretending import Cluster, until

pytestmark = pytest.mark.parametrize("what", ["request", "reply"])


@pytest.fixture
async def store() -> AsyncIterator[LossyStore]:
    store = LossyStore(await open_store("memory://lost-replies", shards=8))
    yield store
    await store.close()


@pytest.fixture
async def cluster(store: LossyStore) -> AsyncIterator[Cluster]:
    cluster = Cluster(store)
    await cluster.coordination.start("test", 2)
    yield cluster
    await cluster.coordination.stop()


@pytest.fixture(autouse=True)
def short_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "WATCH_S", 0.2)


async def well(cluster: Cluster, hosts: int) -> None:
    await cluster.coordination.settled()
    assert await cluster.consistent()
    assert len({*await cluster.owners()}) == hosts == await cluster.store.hosts_wanted()
    assert (await cluster.store.holding()).holder == "test"


@pytest.mark.parametrize("method", ["take", "want_hosts", "assign", "claim", "beat"])
async def test_a_runtime_begins(store: LossyStore, method: str, what: Lost) -> None:
    store.losing[method] = what
    cluster = Cluster(store)
    await cluster.coordination.start("test", 2)
    await until(lambda: store.lost == [method])
    await well(cluster, 2)
    await cluster.coordination.stop()


@pytest.mark.parametrize("method", ["beat", "assign", "claim"])
async def test_a_lost_host_is_replaced(cluster: Cluster, store: LossyStore, method: str, what: Lost) -> None:
    store.losing[method] = what
    cluster.hosts.die(str((await cluster.owners())[0]))
    await until(lambda: store.lost == [method])
    await well(cluster, 2)


@pytest.mark.parametrize("method", ["want_hosts", "assign", "claim", "beat"])
async def test_the_number_of_hosts_changes(cluster: Cluster, store: LossyStore, method: str, what: Lost) -> None:
    store.losing[method] = what
    assert (await cluster.coordination.scale(3)).hosts_wanted == 3
    await until(lambda: store.lost == [method])
    await well(cluster, 3)


@pytest.mark.parametrize("method", ["assign", "release"])
async def test_a_runtime_that_ends_gives_the_store_back(
    cluster: Cluster, store: LossyStore, method: str, what: Lost
) -> None:
    store.losing[method] = what
    await cluster.coordination.stop()
    assert store.lost == [method]
    assert (await store.holding()).released
    assert {route.host for route in await store.routes()} == {None}


@pytest.mark.parametrize("method", ["take", "beat", "assign", "claim"])
async def test_a_coordinator_that_comes_back_goes_on(
    cluster: Cluster, store: LossyStore, method: str, what: Lost
) -> None:
    """A host dies meanwhile, so that it has something to do."""
    await cluster.coordination.leave()
    cluster.hosts.die(str((await cluster.owners())[0]))
    store.losing[method] = what
    again = Cluster(store, cluster)
    await again.coordination.start("test", 5)
    await until(lambda: store.lost == [method])
    await well(again, 2)
    await again.coordination.stop()


async def test_a_taker_that_died_before_it_heard_holds_up_the_next_for_as_long_as_a_beat_is_watched(
    store: LossyStore, what: Lost
) -> None:
    store.losing["take"] = what
    with pytest.raises(StoreUnavailable, match="no event was written"):
        await store.take("it died")
    taken = what == "reply"
    assert (await store.holding()).holder == ("it died" if taken else None)
    assert await store.take("the next") == 1 + taken
