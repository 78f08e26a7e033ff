"""Giving and moving shards, step by step: what a step that fails or comes too late leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest

from cluster.ownership import Ownership
from cluster.supervision import ProcessLost
from store import StoreUnavailable, open_store
from store.ports import EventStore
from tests.pretending import FAST, WELL, Pretended


class Scene:
    """Two hosts; the first serves all four shards."""

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.hosts = Pretended(store)
        self.ownership: Ownership

    async def begin(self) -> None:
        self.ownership = Ownership(self.store, self.hosts, FAST, await self.store.take("test"))
        for host in ("a", "b"):
            await self.hosts.start(host, None)
            self.ownership.hosts.add(host)
        await self.ownership.give(range(4), "a")

    def says(self, host: str, *shards: int) -> None:
        """Let a host say what it serves."""
        self.ownership.found(host, WELL._replace(shards=dict.fromkeys(shards, 1)))

    def failing(self, monkeypatch: pytest.MonkeyPatch, passing: bool) -> list[int]:
        """Let the store refuse the next three assignments; return what counts the attempts."""
        assign, attempts = self.store.assign, list[int]()

        async def failing(generation: int, assignments: Mapping[int, str | None]) -> None:
            attempts.append(1)
            if len(attempts) <= 3:
                raise StoreUnavailable("away", passing)
            await assign(generation, assignments)

        monkeypatch.setattr(self.store, "assign", failing)
        return attempts


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    store = await open_store("memory://ownership", shards=4)
    scene = Scene(store)
    await scene.begin()
    yield scene
    await store.close()


async def test_a_host_that_is_lost_while_it_claims_serves_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = scene.hosts.claim

    async def lost_meanwhile(name: str, shards: list[int]) -> dict[int, int]:
        epochs = await claim(name, shards)
        scene.ownership.over(name)
        return epochs

    monkeypatch.setattr(scene.hosts, "claim", lost_meanwhile)
    with pytest.raises(ProcessLost, match="while it claimed"):
        await scene.ownership.move([0], "a", "b")
    assert scene.ownership.free() == [0]


async def test_a_shard_is_free_once_its_host_says_for_the_second_time_that_it_lacks_it(scene: Scene) -> None:
    """Once may be an answer from before the claim."""
    scene.says("a", 0, 1, 2)
    assert scene.ownership.free() == []
    scene.says("a", 0, 1, 2, 3)
    scene.says("a", 0, 1, 2)
    assert scene.ownership.free() == []
    scene.says("a", 0, 1, 2)
    assert scene.ownership.free() == [3]


async def test_what_a_host_has_released_on_the_way_is_not_lacking(scene: Scene) -> None:
    scene.hosts.stuck.add("a")
    moving = asyncio.ensure_future(scene.ownership.move([3], "a", "b"))
    for _ in range(3):
        scene.says("a", 0, 1, 2)
    assert scene.ownership.owners[3] == "a"
    await moving
    assert scene.ownership.owners[3] == "b"


async def test_whoever_gives_or_gets_a_shard_is_concerned_by_it(scene: Scene) -> None:
    scene.hosts.stuck.add("a")
    assert scene.ownership.concerns("a")
    assert not scene.ownership.concerns("b")
    moving = asyncio.ensure_future(scene.ownership.move([0], "a", "b"))
    assert scene.ownership.concerns("b")
    await moving


async def test_nothing_is_remembered_of_a_host_that_is_over(scene: Scene) -> None:
    scene.says("a", 0, 1, 2)
    scene.ownership.over("a")
    assert scene.ownership.free() == [0, 1, 2, 3]
    assert scene.ownership._missing == {}


async def test_a_store_that_is_away_for_a_moment_is_waited_for(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = scene.failing(monkeypatch, passing=True)
    await scene.ownership.move([0], "a", "b")
    assert (len(attempts), scene.ownership.owners[0]) == (4, "b")


async def test_one_that_can_not_be_written_is_told_at_once(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = scene.failing(monkeypatch, passing=False)
    with pytest.raises(StoreUnavailable):
        await scene.ownership.move([0], "a", "b")
    assert (len(attempts), scene.ownership.free(), scene.ownership.transits) == (1, [0], {})
