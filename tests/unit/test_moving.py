"""Moving shards and hosts: when their number changes, when nodes come and go, and when something fails on the way."""

from __future__ import annotations

import asyncio
import random
import re
from collections import Counter
from collections.abc import Mapping

import pytest

from store import InvalidValue, StoreUnavailable
from tests.pretending import FAST, NODE, Cluster, until

SECOND, THIRD = (NODE._replace(node_id=f"n-{number}", address=f"10.0.0.{number}") for number in (2, 3))


def moves(did: list[str]) -> list[tuple[str, list[int]]]:
    """The releases that hosts were asked for: which host, which shards."""
    found = [re.fullmatch(r"release (\S+) \[(.*)\]", each) for each in did]
    return [(each[1], [int(shard) for shard in each[2].split(", ")]) for each in found if each]


async def hosts_by_node(cluster: Cluster) -> Mapping[str, int]:
    """How many hosts that own shards are on each node."""
    return Counter(cluster.hosts.nodes[str(host)] for host in {*await cluster.owners()})


async def test_more_hosts_get_shards_a_few_at_a_time_and_only_what_must_moves(cluster: Cluster) -> None:
    before = {route.shard: route for route in await cluster.store.routes()}
    status = await cluster.coordination.scale(4)
    assert await cluster.consistent()
    assert [len(each.shards) for each in status.hosts] == [2, 2, 2, 2]
    released = moves(cluster.hosts.did)
    assert all(len(shards) <= FAST.shards_moving_max for _, shards in released)
    moved = [shard for _, shards in released for shard in shards]
    assert len(moved) == len(set(moved)) == status.moved == 4
    for route in await cluster.store.routes():
        assert route.epoch == before[route.shard].epoch + (route.shard in moved)
        assert (route.host == before[route.shard].host) == (route.shard not in moved)


async def test_a_shard_is_claimed_only_after_its_host_has_released_it(cluster: Cluster) -> None:
    await cluster.coordination.scale(3)
    did = cluster.hosts.did
    for host, shards in moves(did):
        claimed = next(i for i, each in enumerate(did) if each.endswith(f"{shards}") and "host-3" in each)
        assert did.index(f"release {host} {shards}") < claimed


async def test_fewer_hosts_are_emptied_then_ended_gracefully(cluster: Cluster) -> None:
    await cluster.coordination.scale(1)
    assert await cluster.consistent()
    (left,) = cluster.hosts.running
    assert {*await cluster.owners()} == {left}
    did = cluster.hosts.did
    (gone,) = [each.removeprefix("stop ") for each in did if each.startswith("stop")]
    released = [did.index(f"release {gone} {shards}") for host, shards in moves(did) if host == gone]
    assert max(released) < did.index(f"stop {gone}") < did.index(f"kill {gone}")


@pytest.mark.parametrize("hosts", [0, -1, 9])
async def test_a_number_of_hosts_that_can_not_be_is_refused(cluster: Cluster, hosts: int) -> None:
    with pytest.raises(InvalidValue, match=f"hosts = {hosts}: give 1 to 8"):
        await cluster.coordination.scale(hosts)
    assert await cluster.store.hosts_wanted() == 2


async def test_how_many_are_wanted_outlives_the_coordinator(cluster: Cluster) -> None:
    scaling = asyncio.create_task(cluster.coordination.scale(4))
    await until(lambda: len(cluster.hosts.running) > 2)
    restarted = await cluster.dies()
    scaling.cancel()
    status = await restarted.coordination.settled()
    assert (status.hosts_wanted, len(status.hosts)) == (4, 4)
    assert await restarted.consistent()
    await restarted.coordination.stop()


async def test_a_node_that_joins_gets_a_host_and_shards(cluster: Cluster) -> None:
    cluster.nodes.there.append(SECOND)
    await until(lambda: SECOND.node_id in {cluster.hosts.nodes[host] for host in cluster.hosts.running})
    await cluster.coordination.settled()
    assert await hosts_by_node(cluster) == {NODE.node_id: 1, SECOND.node_id: 1}
    assert await cluster.consistent()


async def test_a_node_that_drains_is_emptied_and_its_hosts_are_replaced_elsewhere(cluster: Cluster) -> None:
    cluster.nodes.there[:] = [NODE._replace(draining=True), SECOND]
    await until(lambda: {cluster.hosts.nodes[host] for host in cluster.hosts.running} == {SECOND.node_id})
    await cluster.coordination.settled()
    assert await hosts_by_node(cluster) == {SECOND.node_id: 2}
    assert await cluster.consistent()
    released = [shard for _, shards in moves(cluster.hosts.did) for shard in shards]
    assert sorted(released) == list(range(8)), "each moved once, and none was taken from a host"


async def test_the_projection_host_leaves_a_node_that_drains_once_another_one_serves(cluster: Cluster) -> None:
    (former,) = cluster.coordination.projection_hosts
    cluster.nodes.there[:] = [NODE._replace(draining=True), SECOND]
    await until(lambda: former not in cluster.projections.running)
    (now,) = cluster.coordination.projection_hosts
    assert cluster.projections.nodes[now] == SECOND.node_id
    assert cluster.projections.did.index(f"start {now}") < cluster.projections.did.index(f"stop {former}")
    await cluster.coordination.settled()
    await until(lambda: all(cluster.hosts.pushed_to[host] == {now: [*range(8)]} for host in cluster.hosts.running))


async def test_where_only_one_machine_will_do_a_node_that_joins_gets_nothing(cluster: Cluster) -> None:
    cluster.nodes.there.append(SECOND._replace(fit=False))
    cluster.hosts.die(str((await cluster.owners())[0]))
    await until(lambda: len(cluster.hosts.running) == 2)
    await cluster.coordination.settled()
    assert await hosts_by_node(cluster) == {NODE.node_id: 2}


async def test_while_the_nodes_can_not_be_read_hosts_are_replaced_all_the_same(cluster: Cluster) -> None:
    cluster.nodes.there.clear()
    cluster.hosts.die(str((await cluster.owners())[0]))
    await until(lambda: len(cluster.hosts.running) == 2)
    await cluster.coordination.settled()
    assert await cluster.consistent()


async def test_the_successor_of_one_that_could_not_be_reached_goes_elsewhere(cluster: Cluster) -> None:
    cluster.nodes.there.append(SECOND)
    await until(lambda: SECOND.node_id in {cluster.hosts.nodes[host] for host in cluster.hosts.running})
    await cluster.coordination.settled()
    lost = next(host for host in cluster.hosts.running if cluster.hosts.nodes[host] == SECOND.node_id)
    cluster.hosts.hanging.add(lost)
    await until(lambda: lost not in cluster.hosts.running)
    await cluster.coordination.settled()
    assert await hosts_by_node(cluster) == {NODE.node_id: 2}


class TestAMoveThatFails:
    """Whatever it is, all shards are served in the end, each by the host that the store names."""

    async def settles(self, cluster: Cluster) -> None:
        await cluster.coordination.settled()
        await cluster.learn()
        assert await cluster.consistent()
        counts = Counter(await cluster.owners())
        assert max(counts.values()) - min(counts.values()) <= 1

    async def test_its_source_dies(self, cluster: Cluster) -> None:
        source = str((await cluster.owners())[0])
        cluster.hosts.stuck.add(source)
        scaling = asyncio.create_task(cluster.coordination.scale(4))
        await until(lambda: any(each.source == source for each in cluster.coordination.status().moving))
        cluster.hosts.die(source)
        await scaling
        await self.settles(cluster)

    async def test_its_target_dies(self, cluster: Cluster) -> None:
        cluster.hosts.stuck.update(cluster.hosts.running)
        scaling = asyncio.create_task(cluster.coordination.scale(3))
        await until(lambda: bool(cluster.coordination.status().moving))
        cluster.hosts.die(cluster.coordination.status().moving[0].target)
        cluster.hosts.stuck.clear()
        await scaling
        await self.settles(cluster)

    async def test_its_source_never_finishes_and_the_shards_are_taken_from_it(self, cluster: Cluster) -> None:
        source = str((await cluster.owners())[0])
        cluster.hosts.stuck.add(source)
        await cluster.coordination.scale(4)
        await self.settles(cluster)

    async def test_its_source_hangs(self, cluster: Cluster) -> None:
        source = str((await cluster.owners())[0])
        cluster.hosts.hanging.add(source)
        await cluster.coordination.scale(4)
        assert source not in cluster.hosts.running
        await self.settles(cluster)

    @pytest.mark.parametrize("passing", [True, False])
    async def test_the_store_fails(self, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, passing: bool) -> None:
        assign, failures = cluster.store.assign, [1, 1, 1]

        async def failing(generation: int, assignments: Mapping[int, str | None]) -> None:
            if failures:
                failures.pop()
                raise StoreUnavailable("the disk is full", passing)
            await assign(generation, assignments)

        monkeypatch.setattr(cluster.store, "assign", failing)
        await cluster.coordination.scale(4)
        assert not failures
        await self.settles(cluster)


@pytest.mark.parametrize("seed", range(10))
async def test_whatever_happens_all_shards_are_served_in_the_end(cluster: Cluster, seed: int) -> None:
    chance = random.Random(seed)
    now = cluster
    nodes = [NODE, SECOND, THIRD]
    for _ in range(12):
        hosts = list(now.hosts.running)
        match chance.choice(["die", "hang", "stuck", "scale", "nodes", "coordinator", "wait", "projections"]):
            case "die" if hosts:
                now.hosts.die(chance.choice(hosts))
            case "hang" if hosts:
                now.hosts.hanging.add(chance.choice(hosts))
            case "stuck" if hosts:
                now.hosts.stuck.add(chance.choice(hosts))
            case "scale":
                scaling = asyncio.create_task(now.coordination.scale(chance.randint(1, 5)))
                await asyncio.sleep(0.01)
                scaling.cancel()
            case "nodes":
                there = chance.sample(nodes, chance.randint(1, 3))
                now.nodes.there[:] = [node._replace(draining=chance.random() < 0.3) for node in there]
            case "coordinator":
                now = await now.dies()
            case "projections" if now.projections.running:
                now.projections.die(chance.choice(list(now.projections.running)))
            case _:
                await asyncio.sleep(0.1)
        await asyncio.sleep(chance.uniform(0, 0.1))
    now.nodes.there[:] = nodes
    now.hosts.hanging.clear()
    now.hosts.stuck.clear()
    await now.learn()
    await asyncio.sleep(3 * FAST.poll_interval_s)  # polls tell what hosts had let go of
    status = await now.coordination.settled()
    await until(lambda: len(now.hosts.running) == status.hosts_wanted)  # a spare may have been on its way
    assert len({*await now.owners()}) == status.hosts_wanted
    await now.learn()
    assert await now.consistent()
    assert now.projections.running.keys() == now.coordination.projection_hosts.keys()
    assert {name: [*shards] for name, shards in now.projections.following.items()} == now.coordination.projection_hosts
    await now.coordination.stop()
    assert not now.hosts.running
