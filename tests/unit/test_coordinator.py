"""What a coordinator does about processes that die, hang and come back, told by processes that only pretend."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable

import pytest

from actors.hosting import HostHealth
from cluster.coordination import Coordination
from cluster.settings import Settings
from cluster.supervision import ProcessLost
from store import EventStore, StoreHeld, StoreUnavailable, Superseded, open_store

WELL = HostHealth({}, {}, 0, 0, 0.0, 0.0, 0, 0, 0)
FAST = Settings(beat_interval_s=0.02, poll_interval_s=0.05, poll_timeout_s=0.02, open_timeout_s=5, close_timeout_s=0.2)


class Pretended:
    """Processes that do as they are told to."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.running: dict[str, asyncio.Future[str]] = {}
        self.did: list[str] = []
        self.hanging: set[str] = set()
        self.ill: set[str] = set()
        self.refusals: list[Exception] = []
        self.pushed_to: dict[str, str] = {}

    def die(self, name: str) -> None:
        self.running.pop(name).set_result("killed")

    async def start(self, name: str) -> None:
        self.did.append(f"start {name}")
        self.running[name] = asyncio.get_running_loop().create_future()

    async def open(self, name: str) -> None:
        if self.refusals:
            raise self.refusals.pop()

    async def health(self, name: str) -> HostHealth | None:
        if name in self.hanging:
            await asyncio.Event().wait()
        if name not in self.running:
            raise ProcessLost(name, "gone")
        return WELL._replace(loop_age_s=100) if name in self.ill else WELL

    async def ended(self, name: str) -> str:
        return await asyncio.shield(self.running[name])

    async def stop(self, name: str) -> None:
        self.did.append(f"stop {name}")

    async def kill(self, name: str) -> None:
        self.did.append(f"kill {name}")
        self.running.pop(name, None)

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        return {shard: claim.epoch for shard, claim in (await self._store.claim(name, shards)).items()}

    async def push_to(self, name: str, projection_host: str) -> None:
        self.pushed_to[name] = projection_host


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def store() -> AsyncIterator[EventStore]:
    store = await open_store("memory://coordination", shards=8)
    yield store
    await store.close()


class Cluster:
    """A coordination over pretended hosts and a pretended projection host."""

    def __init__(self, store: EventStore, hosts: int = 2) -> None:
        self.store = store
        self.hosts = Pretended(store)
        self.projections = Pretended(store)
        self.coordination = Coordination(store, self.hosts, self.projections, hosts, FAST)

    async def owners(self) -> list[str | None]:
        return [route.host for route in await self.store.routes()]


@pytest.fixture
async def cluster(store: EventStore) -> AsyncIterator[Cluster]:
    cluster = Cluster(store)
    await cluster.coordination.start("test")
    yield cluster
    await cluster.coordination.stop()


async def test_every_shard_is_served_and_every_host_pushes(cluster: Cluster) -> None:
    owners = await cluster.owners()
    assert set(owners) == set(cluster.hosts.running)
    assert {owners.count(host) for host in cluster.hosts.running} == {4}
    assert all(route.epoch == 1 for route in await cluster.store.routes())
    assert set(cluster.hosts.pushed_to) == set(owners)
    assert set(cluster.hosts.pushed_to.values()) == {cluster.coordination.projection_host}


async def test_a_dead_host_is_replaced_at_once_and_by_another_name(cluster: Cluster) -> None:
    before = await cluster.owners()
    lost = str(before[0])
    polled_next_s = FAST.poll_interval_s
    began = asyncio.get_running_loop().time()
    cluster.hosts.die(lost)
    await until(lambda: len(cluster.hosts.running) == 2)
    assert asyncio.get_running_loop().time() - began < polled_next_s
    await until(lambda: all(host in cluster.hosts.pushed_to for host in cluster.hosts.running))
    after = await cluster.owners()
    assert [a for a, b in zip(after, before, strict=True) if b != lost] == [b for b in before if b != lost]
    assert lost not in after
    assert {a for a, b in zip(after, before, strict=True) if b == lost} == set(cluster.hosts.running) - set(before)


async def test_a_host_that_hangs_is_ended_before_its_shards_are_given_away(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = str((await cluster.owners())[0])
    order: list[str] = []
    end_writer, assign = cluster.store.end_writer, cluster.store.assign

    async def noted_end(host: str) -> bool:
        order.append(f"end {host}")
        return await end_writer(host)

    async def noted_assign(generation: int, assignments: dict[int, str | None]) -> None:
        order.append("assign")
        await assign(generation, assignments)

    monkeypatch.setattr(cluster.store, "end_writer", noted_end)
    monkeypatch.setattr(cluster.store, "assign", noted_assign)
    cluster.hosts.hanging.add(lost)
    await until(lambda: "assign" in order)
    assert order == [f"end {lost}", "assign"]
    assert cluster.hosts.did.index(f"kill {lost}") > 0
    successor = next(did for did in cluster.hosts.did[2:] if did.startswith("start"))
    assert cluster.hosts.did.index(successor) < cluster.hosts.did.index(f"kill {lost}"), "it gets ready beforehand"


async def test_a_host_whose_loop_stands_is_replaced_too(cluster: Cluster) -> None:
    lost = str((await cluster.owners())[0])
    cluster.hosts.ill.add(lost)
    await until(lambda: lost not in cluster.hosts.running)
    await until(lambda: len(cluster.hosts.running) == 2)
    assert f"kill {lost}" in cluster.hosts.did


async def test_a_host_that_answers_again_keeps_its_shards_and_its_successor_is_sent_home(cluster: Cluster) -> None:
    before = await cluster.owners()
    slow = str(before[0])
    cluster.hosts.hanging.add(slow)
    await until(lambda: len(cluster.hosts.running) == 3)
    cluster.hosts.hanging.clear()
    await until(lambda: len(cluster.hosts.running) == 2)
    assert slow in cluster.hosts.running
    assert await cluster.owners() == before


async def test_all_hosts_push_to_a_new_projection_host(cluster: Cluster) -> None:
    former = str(cluster.coordination.projection_host)
    cluster.projections.die(former)
    await until(lambda: cluster.coordination.projection_host not in (None, former))
    await until(lambda: set(cluster.hosts.pushed_to.values()) == {cluster.coordination.projection_host})
    assert len(cluster.hosts.pushed_to) == 2


async def test_what_keeps_the_first_host_from_serving_is_told(store: EventStore) -> None:
    cluster = Cluster(store, hosts=1)
    cluster.hosts.refusals.append(StoreUnavailable("the disk is full", False))
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await cluster.coordination.start("test")
    await cluster.coordination.abandon()
    assert not cluster.hosts.running
    async with asyncio.timeout(0.5):
        await store.take("the next one")


async def test_a_later_host_that_can_not_begin_is_tried_again(cluster: Cluster) -> None:
    cluster.hosts.refusals.append(StoreUnavailable("the disk is full", False))
    cluster.hosts.die(str((await cluster.owners())[0]))
    await until(lambda: not cluster.hosts.refusals)
    await until(lambda: len(cluster.hosts.running) == 2)
    await until(lambda: set(cluster.hosts.running) <= set(cluster.hosts.pushed_to))
    assert set(await cluster.owners()) == set(cluster.hosts.running)


async def test_it_beats_so_that_nobody_takes_the_store(cluster: Cluster) -> None:
    with pytest.raises(StoreHeld, match="test"):
        await cluster.store.take("another")


async def test_the_same_holder_takes_over_at_once_and_the_former_hosts_are_fenced(cluster: Cluster) -> None:
    restarted = Cluster(cluster.store)
    async with asyncio.timeout(1):
        await restarted.coordination.start("test")
    assert set(await restarted.owners()) == set(restarted.hosts.running)
    assert not set(restarted.hosts.running) & set(cluster.hosts.running)
    with pytest.raises(Superseded):
        await cluster.coordination.run()
    await cluster.coordination.abandon()
    assert not cluster.hosts.running
    assert set(await restarted.owners()) == set(restarted.hosts.running)
    await restarted.coordination.stop()


async def test_stopping_is_graceful_frees_the_shards_and_gives_the_store_back(cluster: Cluster) -> None:
    hosts = list(cluster.hosts.running)
    await cluster.coordination.stop()
    for host in hosts:
        assert cluster.hosts.did.index(f"stop {host}") < cluster.hosts.did.index(f"kill {host}")
    assert not cluster.hosts.running
    assert not cluster.projections.running
    assert set(await cluster.owners()) == {None}
    await cluster.coordination.run()
    async with asyncio.timeout(0.5):
        await cluster.store.take("the next one")
