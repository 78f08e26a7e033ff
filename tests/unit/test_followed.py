"""Shards of projection hosts: spread, let go of before they are given, and given to others where one is lost."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cluster import followed
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from store import InvalidValue, open_store
from tests.pretending import FAST, NODE, Cluster, until

SECOND, THIRD = (NODE._replace(node_id=f"n-{number}", address=f"10.0.0.{number}") for number in (2, 3))
ALL = [*range(8)]


@pytest.fixture
async def spread() -> AsyncIterator[Cluster]:
    """Two hosts, and two projection hosts that share 8 shards."""
    store = await open_store("memory://followed", shards=8)
    cluster = Cluster(store, settings=FAST.model_copy(update={"projection_hosts": 2}))
    await cluster.coordination.start("test", 2)
    yield cluster
    await cluster.coordination.stop()
    await store.close()


async def evenly(cluster: Cluster) -> bool:
    """Whether each shard is followed by one that runs, as hosts and readers were told."""
    following = {name: sorted(shards) for name, shards in cluster.projections.following.items() if shards}
    told = [cluster.hosts.pushed_to.get(host) for host in cluster.hosts.running]
    return (
        sorted(shard for shards in following.values() for shard in shards) == ALL
        and {len(shards) for shards in following.values()} == {8 // len(following)}
        and following == cluster.coordination.projection_hosts
        and all(each == following for each in told)
    )


async def until_evenly(cluster: Cluster, projection_hosts: int = 2) -> None:
    async with asyncio.timeout(5):
        while len(cluster.projections.running) != projection_hosts or not await evenly(cluster):
            await asyncio.sleep(0.005)
        await cluster.coordination.settled()


async def test_each_shard_is_followed_by_one_and_pushed_there(spread: Cluster) -> None:
    await until_evenly(spread)
    status = spread.coordination.status()
    assert [len(each.shards) for each in status.projection_hosts] == [4, 4]


async def test_all_shards_are_followed_before_any_is_served() -> None:
    store = await open_store("memory://begun", shards=8)
    cluster = Cluster(store)
    cluster.projections.stuck.add("projections-1-1-1")
    starting = asyncio.create_task(cluster.coordination.start("test", 1))
    await until(lambda: bool(cluster.projections.following))
    await asyncio.sleep(3 * FAST.poll_interval_s)
    assert not any(each.startswith("claim") for each in cluster.hosts.did), "what begins now would miss events"
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await cluster.coordination.abandon()
    await store.close()


async def test_the_shards_of_one_that_is_lost_are_followed_by_the_other_then_by_its_successor(spread: Cluster) -> None:
    lost, other = sorted(spread.projections.running)
    spread.projections.refusals.append(RuntimeError("not yet"))  # its successor is late
    spread.projections.die(lost)
    await until(lambda: spread.projections.following.get(other) == {*ALL})
    await until_evenly(spread)
    assert lost not in spread.projections.running


async def test_a_shard_that_moves_is_let_go_of_first(spread: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "LET_GO_S", 0.4)
    projections = spread.projections
    first, second = sorted(projections.running)
    projections.refusals.append(RuntimeError("not yet"))  # its successor is late
    projections.die(first)
    await until(lambda: projections.following.get(second) == {*ALL})
    projections.stuck.add(second)  # it takes its time to let go
    await until(lambda: len(projections.following.get(second, ())) == 4)
    await asyncio.sleep(4 * FAST.poll_interval_s)
    (third,) = projections.running.keys() - {first, second}
    assert not projections.following.get(third)
    await until_evenly(spread)


async def test_one_that_is_slow_to_let_go_holds_up_nobody(spread: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followed, "LET_GO_S", 0.05)
    first, second = sorted(spread.projections.running)
    spread.projections.stuck.add(second)
    spread.projections.die(first)
    await until_evenly(spread)


async def test_a_word_that_was_lost_is_said_again(spread: Cluster) -> None:
    await until_evenly(spread)
    first, second = sorted(spread.projections.running)
    spread.projections.following[first] = {*ALL}  # an older word came later
    spread.projections.following[second] = set()
    spread.hosts.pushed_to.clear()
    await until_evenly(spread)


async def test_one_that_leaves_its_node_is_emptied_first(spread: Cluster) -> None:
    spread.nodes.there[:] = [NODE._replace(draining=True), SECOND]
    former = {*spread.projections.running}
    await until(lambda: not former & spread.projections.running.keys())
    await until_evenly(spread)
    assert {spread.projections.nodes[name] for name in spread.projections.running} == {SECOND.node_id}
    for name in former:
        emptied = spread.projections.did.index(f"follow {name} []")
        assert emptied < spread.projections.did.index(f"stop {name}")


async def test_a_coordinator_that_comes_back_leaves_them_at_work(spread: Cluster) -> None:
    await until_evenly(spread)
    await spread.coordination.leave()
    following = spread.projections.following
    first, second = sorted(following)
    following[first], following[second] = following[second], following[first]  # not as one would give them anew
    did = list(spread.projections.did)
    restarted = Cluster(spread.store, spread)
    await restarted.coordination.start("test", 5)
    await until_evenly(restarted)
    assert restarted.projections.did == did
    await restarted.coordination.stop()


async def test_by_default_there_is_one_on_each_node_with_hosts(cluster: Cluster) -> None:
    """Two hosts are wanted."""
    await until_evenly(cluster, 1)
    cluster.nodes.there[:] = [NODE, SECOND, THIRD]
    await until_evenly(cluster, 2)
    assert len({cluster.projections.nodes[name] for name in cluster.projections.running}) == 2
    cluster.nodes.there[:] = [NODE]
    await until_evenly(cluster, 1)


@pytest.mark.parametrize(
    ("said", "asked", "scheme", "expected"),
    [(None, None, "sqlite", 1), (None, None, "postgresql", None), (2, None, "sqlite", 2), (2, 3, "postgresql", 3)],
)
def test_how_many_there_are(said: int | None, asked: int | None, scheme: str, expected: int | None) -> None:
    settings = Settings(projection_hosts=said).with_projection_hosts(asked, scheme, 64)
    assert settings.projection_hosts == expected


async def test_more_than_shards_is_refused() -> None:
    with pytest.raises(InvalidValue, match=r"projection_hosts.*give 1 to 4"):
        async with InProcessRuntime.open(shards=4, projection_hosts=5):
            pass


@pytest.mark.parametrize("count", [0, -1, "2", 1.5, True])
@pytest.mark.parametrize("field", ["hosts", "projection_hosts", "shards"])
async def test_what_is_no_number_of_them_is_refused_before_a_store_is_made(
    field: str, count: Any, tmp_path: Path
) -> None:
    with pytest.raises(InvalidValue, match=rf"^{field} = {re.escape(repr(count))}: give .*1 to \d+"):
        async with InProcessRuntime.open(f"sqlite:///{tmp_path}/s.db", **{field: count}):
            pass
    assert list(tmp_path.iterdir()) == []


async def test_a_process_that_ends_while_it_is_told_is_forgotten() -> None:
    telling, told = followed.Telling[int](lambda _name, _word: asyncio.sleep(0.01), 1.0), []
    for name in ("one", "two"):
        word = asyncio.ensure_future(telling.tell(name, 1))
        telling.over(name)
        await word
        told.append(telling.due(name, 1))
    assert told == [True, True]
    assert (telling._told, telling._under_way) == ({}, set())
