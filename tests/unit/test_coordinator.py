"""What a coordinator does about processes that die, hang and come back, told by processes that only pretend."""

from __future__ import annotations

import asyncio

import pytest

from store import StoreHeld, StoreUnavailable, Superseded, open_store, taking
from tests.pretending import FAST, Cluster, until


async def test_every_shard_is_served_and_every_host_pushes(cluster: Cluster) -> None:
    owners = await cluster.owners()
    assert set(owners) == set(cluster.hosts.running)
    assert {owners.count(host) for host in cluster.hosts.running} == {4}
    assert all(route.epoch == 1 for route in await cluster.store.routes())
    await until(lambda: cluster.hosts.pushed_to.keys() == set(owners))
    (projections,) = cluster.projections.running
    assert [*cluster.hosts.pushed_to.values()] == 2 * [{projections: [*range(8)]}]
    assert cluster.projections.following == {projections: {*range(8)}}


async def test_a_dead_host_is_replaced_at_once_and_by_another_name(cluster: Cluster) -> None:
    before = await cluster.owners()
    lost = str(before[0])
    polled_next_s = FAST.poll_interval_s
    began = asyncio.get_running_loop().time()
    cluster.hosts.die(lost)
    await until(lambda: len(cluster.hosts.running) == 2)
    assert asyncio.get_running_loop().time() - began < polled_next_s
    await until(lambda: all(host in cluster.hosts.pushed_to for host in cluster.hosts.running))
    await cluster.coordination.settled()
    after = await cluster.owners()
    assert await cluster.consistent()
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
    did = cluster.hosts.did
    successor = next(each for each in did if each.startswith("start") and each > f"start {lost}")
    assert did.index(successor) < did.index(f"kill {lost}"), "it gets ready beforehand"
    await cluster.coordination.settled()
    assert await cluster.consistent()
    assert not any(each.startswith("release") for each in did), "it gets all of its shards at once"


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
    (former,) = cluster.projections.running
    cluster.projections.die(former)
    await until(lambda: bool(cluster.projections.running))
    await cluster.coordination.settled()
    (now,) = cluster.projections.running
    assert now != former
    await until(lambda: [*cluster.hosts.pushed_to.values()] == 2 * [{now: [*range(8)]}])


async def test_a_shard_is_given_once_however_soon_the_next_step_comes(cluster: Cluster) -> None:
    steward = cluster.coordination._steward
    assert steward is not None
    epoch = (await cluster.store.routes())[0].epoch
    del steward.ownership.owners[0]
    steward.step()
    steward.step()
    await cluster.coordination.settled()
    assert (await cluster.store.routes())[0].epoch == epoch + 1
    assert await cluster.consistent()


async def test_a_shard_that_is_to_move_is_not_given_too_when_its_host_ends_before_the_move_begins(
    cluster: Cluster,
) -> None:
    steward = cluster.coordination._steward
    assert steward is not None
    source = str((await cluster.owners())[0])
    (target,) = set(cluster.hosts.running) - {source}
    moving = steward.ownership.move([0], source, target)
    steward.ownership.over(source)
    assert 0 not in steward.ownership.free()
    await moving
    assert (await cluster.owners())[0] == target


async def test_what_an_earlier_coordinator_makes_too_late_is_ended(cluster: Cluster) -> None:
    generation = (await cluster.store.holding()).generation
    late, later = f"projections-1-{generation - 1}-9", f"projections-1-{generation + 1}-1"
    kept = set(cluster.projections.running)
    for name in (late, later):
        await cluster.projections.start(name, None)
        cluster.projections.strange.add(name)
    await until(lambda: late not in cluster.projections.running)
    assert cluster.projections.running.keys() == {*kept, later}, "one of a later coordinator is that one's"
    assert not any(each.startswith("kill host") for each in cluster.hosts.did)


async def test_what_keeps_the_first_host_from_serving_is_told() -> None:
    store = await open_store("memory://refusing", shards=8)
    cluster = Cluster(store)
    cluster.hosts.refusals.append(StoreUnavailable("the disk is full", False))
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        await cluster.coordination.start("test", 1)
    await cluster.coordination.abandon()
    assert not cluster.hosts.running
    async with asyncio.timeout(0.5):
        await store.take("the next one")
    await store.close()


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


async def test_a_coordinator_that_comes_back_leaves_its_hosts_at_work(cluster: Cluster) -> None:
    routes, did, followed = await cluster.store.routes(), list(cluster.hosts.did), list(cluster.projections.did)
    restarted = await cluster.dies()
    status = await restarted.coordination.settled()
    assert cluster.hosts.did == did
    assert await cluster.store.routes() == routes, "no epoch has risen"
    assert (status.hosts_wanted, status.moved, status.free) == (2, 0, [])
    assert cluster.projections.did == followed
    assert restarted.coordination.projection_hosts == {name: [*range(8)] for name in restarted.projections.running}
    await restarted.coordination.stop()
    assert not restarted.hosts.running


async def test_hosts_lost_while_the_coordinator_was_away_are_fenced_and_replaced(cluster: Cluster) -> None:
    before = await cluster.owners()
    lost, silent = str(before[0]), str(before[-1])
    cluster.hosts.die(lost)
    cluster.hosts.silent.add(silent)
    restarted = await cluster.dies()
    await restarted.coordination.settled()
    assert await restarted.consistent()
    assert not {lost, silent} & cluster.hosts.running.keys()
    assert len(cluster.hosts.running) == 2
    await restarted.coordination.stop()


async def test_a_host_that_hangs_when_the_coordinator_comes_back_is_replaced(cluster: Cluster) -> None:
    hanging = str((await cluster.owners())[0])
    cluster.hosts.hanging.add(hanging)
    restarted = await cluster.dies()
    await until(lambda: hanging not in cluster.hosts.running)
    await restarted.coordination.settled()
    assert await restarted.consistent()
    await restarted.coordination.stop()


@pytest.mark.parametrize("assigned", [False, True])
async def test_a_coordinator_that_died_within_a_move_finishes_it(cluster: Cluster, assigned: bool) -> None:
    first, second = sorted(cluster.hosts.running)
    await cluster.hosts.release(first, [0])
    if assigned:
        await cluster.store.assign(1, {0: second})
    restarted = await cluster.dies()
    await restarted.coordination.settled()
    assert await restarted.consistent()
    await restarted.coordination.stop()


async def test_a_shard_that_its_host_has_let_go_of_is_given_anew(cluster: Cluster) -> None:
    first, _ = sorted(cluster.hosts.running)
    await cluster.hosts.release(first, [0])
    async with asyncio.timeout(5):
        while not await cluster.consistent():
            await asyncio.sleep(0.01)


async def test_a_spare_that_an_earlier_coordinator_made_is_sent_home(cluster: Cluster) -> None:
    await cluster.hosts.start("host-1-1-9", None)
    owners = await cluster.owners()
    restarted = await cluster.dies()
    await restarted.coordination.settled()
    assert len(cluster.hosts.running) == 2
    assert await cluster.owners() == owners
    await restarted.coordination.stop()


async def test_another_holder_ends_what_an_earlier_runtime_has_left(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "WATCH_S", 0.1)
    former = set(cluster.hosts.running)
    await cluster.coordination.leave()
    another = Cluster(cluster.store, cluster)
    await another.coordination.start("another", 1)
    assert not former & another.hosts.running.keys()
    assert await another.consistent()
    await another.coordination.stop()


async def test_a_superseded_coordinator_ends_no_process(cluster: Cluster) -> None:
    restarted = Cluster(cluster.store, cluster)
    await restarted.coordination.start("test")
    first, _ = sorted(cluster.hosts.running)
    cluster.hosts.hanging.add(first)
    with pytest.raises(Superseded):
        await cluster.coordination.run()
    await cluster.coordination.leave()
    cluster.hosts.hanging.clear()
    await restarted.coordination.settled()
    assert await restarted.consistent()
    await restarted.coordination.stop()


async def test_only_who_holds_the_store_ends_a_host(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []

    async def end_writer(host: str) -> bool:
        ended.append(host)
        return True

    monkeypatch.setattr(cluster.store, "end_writer", end_writer)
    await cluster.store.take("test")
    first, _ = sorted(cluster.hosts.running)
    cluster.hosts.die(first)
    with pytest.raises(Superseded):
        await cluster.coordination.run()
    assert not ended
    await cluster.coordination.leave()


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
