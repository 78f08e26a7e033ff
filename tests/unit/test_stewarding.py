"""What the coordinator waits for before it does something, and what it never does: in virtual time, without Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from cluster import stewarding
from cluster.coordination import NotSettled
from cluster.settings import Settings
from cluster.spreading import Node
from store import StoreUnavailable, Superseded, open_store
from tests.pretending import NODE, Cluster
from tests.virtual_time import run

SECOND = NODE._replace(node_id="n-2", address="10.0.0.2")
CALM = Settings(beat_interval_s=1.5, shards_moving_max=2, move_pause_s=0.5, close_timeout_s=3)
"""As by default, where nothing else is said: a poll a second, three of them missed at most."""


def in_cluster(
    work: Callable[[Cluster], Awaitable[None]], hosts: int = 2, settings: Settings = CALM, ends: bool = True
) -> None:
    """Run a test on 8 shards and so many hosts. `ends`: whether its coordinator is still the one to be stopped."""

    async def whole() -> None:
        store = await open_store("memory://stewarding", shards=8)
        cluster = Cluster(store, settings=settings)
        await cluster.coordination.start("test", hosts)
        try:
            await work(cluster)
        finally:
            await (cluster.coordination.stop() if ends else cluster.coordination.leave())
            await store.close()

    run(whole())


async def until(condition: Callable[[], bool], within_s: float = 60) -> float:
    """Wait for a condition; return how long that took."""
    began_s = now_s()
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.01)
    return now_s() - began_s


def now_s() -> float:
    return asyncio.get_running_loop().time()


def releases(cluster: Cluster) -> list[str]:
    return [each for each in cluster.hosts.did if each.startswith("release")]


class TestMoves:
    def test_a_few_shards_go_at_once_one_way_at_a_time_with_pauses(self) -> None:
        async def work(cluster: Cluster) -> None:
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            seen: set[int] = set()
            began_s = now_s()
            while not scaling.done():
                moving = cluster.coordination.status().moving
                assert len({(each.source, each.target) for each in moving}) <= 1
                seen.add(len(moving))
                await asyncio.sleep(0.001)
            assert max(seen) <= CALM.shards_moving_max
            assert [each.count(",") + 1 for each in releases(cluster)] == [2, 1, 2]
            assert now_s() - began_s > 2 * CALM.move_pause_s

        in_cluster(work, hosts=1)

    def test_while_one_is_under_way_no_other_begins(self) -> None:
        async def work(cluster: Cluster) -> None:
            release, asked = cluster.hosts.release, list[str]()

            async def slowly(name: str, shards: list[int]) -> None:
                asked.append(name)
                await asyncio.sleep(5)
                await release(name, shards)

            cluster.hosts.release = slowly  # type: ignore[method-assign, assignment]
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            await until(lambda: bool(asked))
            await asyncio.sleep(4.5)
            assert len(asked) == 1
            await scaling

        in_cluster(work, hosts=1)

    def test_they_wait_for_a_host_that_begins_so_that_no_shard_moves_twice(self) -> None:
        async def work(cluster: Cluster) -> None:
            hosts, open_ = cluster.hosts, cluster.hosts.open

            async def third_is_slow(name: str) -> str:
                if name.startswith("host-3"):
                    await asyncio.sleep(5)
                return await open_(name)

            hosts.open = third_is_slow  # type: ignore[method-assign]
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            await asyncio.sleep(4.5)
            assert not releases(cluster)
            assert (await scaling).moved == 5

        in_cluster(work, hosts=1)

    def test_but_not_for_ever(self) -> None:
        async def work(cluster: Cluster) -> None:
            open_ = cluster.hosts.open

            async def open_or_wait(name: str) -> str:
                if name.startswith("host-3"):
                    await asyncio.Event().wait()
                return await open_(name)

            cluster.hosts.open = open_or_wait  # type: ignore[method-assign]
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            took_s = await until(lambda: bool(releases(cluster)))
            assert took_s == pytest.approx(stewarding.BEGINNING_PATIENCE_S, abs=1.5)
            scaling.cancel()

        in_cluster(work, hosts=1)

    def test_those_off_a_host_that_leaves_come_first(self) -> None:
        async def work(cluster: Cluster) -> None:
            cluster.nodes.there.append(SECOND)
            await until(lambda: {cluster.hosts.nodes[host] for host in cluster.hosts.running} == {"n-1", "n-2"})
            await cluster.coordination.settled()
            owners = await cluster.owners()
            leaving = next(host for host in cluster.hosts.running if cluster.hosts.nodes[host] == "n-2")
            other = next(host for host in cluster.hosts.running if host != leaving)
            assert min(n for n in range(8) if owners[n] == other) < min(n for n in range(8) if owners[n] == leaving)
            before = len(releases(cluster))
            cluster.hosts.opening.clear()
            cluster.nodes.there[1] = SECOND._replace(draining=True)
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            await asyncio.sleep(2)
            cluster.hosts.opening.set()
            await scaling
            first, *_ = releases(cluster)[before:]
            assert first.startswith(f"release {leaving} ")

        in_cluster(work)

    def test_nothing_of_a_lost_host_is_given_away_before_it_is_fenced(self) -> None:
        async def work(cluster: Cluster) -> None:
            fenced, (first, _) = asyncio.Event(), sorted(cluster.hosts.running)
            end_writer = cluster.store.end_writer

            async def slowly(host: str) -> bool:
                await fenced.wait()
                return await end_writer(host)

            cluster.store.end_writer = slowly  # type: ignore[method-assign]
            before = await cluster.owners()
            cluster.hosts.hanging.add(first)
            await asyncio.sleep(20)
            assert await cluster.owners() == before
            assert cluster.coordination.status().moving == []
            fenced.set()
            await cluster.coordination.settled()
            assert first not in await cluster.owners()

        in_cluster(work)

    def test_the_shards_of_a_host_that_ends_are_given_at_once(self) -> None:
        async def work(cluster: Cluster) -> None:
            first, second = sorted(cluster.hosts.running)
            cluster.hosts.opening.clear()  # no successor will be there soon
            cluster.hosts.die(first)
            assert await until(lambda: len(cluster.hosts.serving[second]) == 8) < 0.05
            cluster.hosts.opening.set()

        in_cluster(work)


class TestComingBack:
    def test_hosts_that_are_gone_are_fenced_before_anything_is_given(self) -> None:
        async def work(cluster: Cluster) -> None:
            first, second = sorted(cluster.hosts.running)
            did: list[str] = []
            end_writer, assign = cluster.store.end_writer, cluster.store.assign

            async def noted_end(host: str) -> bool:
                did.append(f"end {host}")
                return await end_writer(host)

            async def noted_assign(generation: int, assignments: dict[int, str | None]) -> None:
                did.append("assign")
                await assign(generation, assignments)

            cluster.store.end_writer, cluster.store.assign = noted_end, noted_assign  # type: ignore[method-assign, assignment]
            await cluster.coordination.leave()
            cluster.hosts.die(first)
            restarted = Cluster(cluster.store, cluster, CALM)
            await restarted.coordination.start("test")
            await restarted.coordination.settled()
            assert did[:2] == [f"end {first}", "assign"]
            assert second in await cluster.owners()
            await restarted.coordination.stop()

        in_cluster(work, ends=False)

    def test_a_host_that_says_nothing_keeps_its_shards_until_it_is_fenced_and_holds_nobody_up(self) -> None:
        async def work(cluster: Cluster) -> None:
            first, _ = sorted(cluster.hosts.running)
            before = await cluster.store.routes()
            await cluster.coordination.leave()
            cluster.hosts.hanging.add(first)
            restarted = Cluster(cluster.store, cluster, CALM)
            began_s = now_s()
            await restarted.coordination.start("test")
            assert now_s() - began_s < 2 * CALM.poll_timeout_s
            await asyncio.sleep(1.5)
            assert await cluster.store.routes() == before
            await until(lambda: first not in cluster.hosts.running)
            await restarted.coordination.settled()
            assert first not in await cluster.owners()
            await restarted.coordination.stop()

        in_cluster(work, ends=False)


class TestBeginning:
    def test_a_store_that_was_given_back_is_begun_anew_also_by_the_same_holder(self) -> None:
        async def work(cluster: Cluster) -> None:
            await cluster.coordination.stop()
            again = Cluster(cluster.store, cluster, CALM)
            await again.coordination.start("test", 3)
            assert len({*await cluster.owners()}) == 3, "all of them serve when it returns"
            await again.coordination.stop()

        in_cluster(work, ends=False)

    def test_where_nobody_says_how_many_hosts_there_are_as_many_as_before(self) -> None:
        async def work(cluster: Cluster) -> None:
            await cluster.coordination.stop()
            again = Cluster(cluster.store, cluster, CALM)
            await again.coordination.start("another", None)
            assert len({*await cluster.owners()}) == 3
            await again.coordination.stop()

        in_cluster(work, hosts=3, ends=False)


class TestNodes:
    def test_while_they_can_not_be_read_those_that_there_were_count(self) -> None:
        async def work(cluster: Cluster) -> None:
            cluster.nodes.there[:] = [NODE._replace(draining=True), SECOND]
            await until(lambda: {cluster.hosts.nodes[host] for host in cluster.hosts.running} == {"n-2"})
            await cluster.coordination.settled()
            cluster.nodes.there.clear()
            await asyncio.sleep(3)
            cluster.hosts.die(sorted(cluster.hosts.running)[0])
            await until(lambda: len(cluster.hosts.running) == 2)
            assert {cluster.hosts.nodes[host] for host in cluster.hosts.running} == {"n-2"}

        in_cluster(work)

    def test_one_that_a_host_serves_on_is_no_suspect_any_more(self) -> None:
        async def work(cluster: Cluster) -> None:
            suspects = cluster.coordination._begun()._suspects
            cluster.hosts.hanging.add(sorted(cluster.hosts.running)[0])
            await until(lambda: suspects.at(now_s()) == {"n-1"})
            cluster.hosts.hanging.clear()
            await until(lambda: not suspects.at(now_s()), within_s=15)

        in_cluster(work)

    def test_the_projection_host_stays_on_one_that_drains_until_another_one_serves(self) -> None:
        async def work(cluster: Cluster) -> None:
            former = next(iter(cluster.coordination.projection_hosts))
            cluster.projections.opening.clear()
            cluster.nodes.there[:] = [NODE._replace(draining=True), SECOND]
            await asyncio.sleep(20)
            assert former in cluster.projections.running
            cluster.projections.opening.set()
            await until(lambda: former not in cluster.projections.running)

        in_cluster(work)

    def test_a_host_that_died_is_replaced_on_the_node_that_lacks_it_now(self) -> None:
        async def work(cluster: Cluster) -> None:
            cluster.nodes.there.append(SECOND)
            await until(lambda: {cluster.hosts.nodes[host] for host in cluster.hosts.running} == {"n-1", "n-2"})
            await cluster.coordination.settled()
            before = set(cluster.hosts.running)
            cluster.hosts.die(next(host for host in before if cluster.hosts.nodes[host] == "n-2"))
            await until(lambda: len(cluster.hosts.running) == 2)
            (successor,) = cluster.hosts.running.keys() - before
            assert cluster.hosts.nodes[successor] == "n-2"

        in_cluster(work)

    def test_hosts_that_leave_serve_what_nobody_else_can_yet(self) -> None:
        async def work(cluster: Cluster) -> None:
            (leaving,) = cluster.hosts.running
            cluster.hosts.opening.clear()
            cluster.nodes.there[:] = [NODE._replace(draining=True), SECOND]
            await until(lambda: any(each.state == "leaving" for each in cluster.coordination.status().hosts))
            await cluster.hosts.release(leaving, [0])  # as if it had let go of it by itself
            await until(lambda: 0 in cluster.hosts.serving[leaving], within_s=5)
            cluster.hosts.opening.set()

        in_cluster(work, hosts=1)

    def test_where_all_drain_everything_stays(self) -> None:
        async def work(cluster: Cluster) -> None:
            before, did = await cluster.owners(), list(cluster.hosts.did)
            cluster.nodes.there[:] = [Node("n-1", "10.0.0.1", draining=True)]
            await asyncio.sleep(10)
            assert (await cluster.owners(), cluster.hosts.did) == (before, did)

        in_cluster(work)


class TestEnding:
    def test_a_move_under_way_is_finished_first(self) -> None:
        async def work(cluster: Cluster) -> None:
            release = cluster.hosts.release

            async def slowly(name: str, shards: list[int]) -> None:
                await asyncio.sleep(1)
                await release(name, shards)

            cluster.hosts.release = slowly  # type: ignore[method-assign, assignment]
            scaling = asyncio.ensure_future(cluster.coordination.scale(3))
            await until(lambda: bool(cluster.coordination.status().moving))
            await cluster.coordination.stop()
            (released,) = releases(cluster)
            after = cluster.hosts.did[cluster.hosts.did.index(released) + 1]
            assert after.startswith("claim host-"), "not left between two hosts"
            scaling.cancel()

        in_cluster(work, hosts=1)

    def test_a_step_that_another_coordinator_has_forbidden_ends_this_one(self) -> None:
        async def work(cluster: Cluster) -> None:
            async def forbidden(generation: int, _assignments: object) -> None:
                raise Superseded(generation)

            cluster.store.assign = forbidden  # type: ignore[method-assign, assignment]
            first, _ = sorted(cluster.hosts.running)
            cluster.hosts.die(first)
            with pytest.raises(Superseded):
                async with asyncio.timeout(0.5):  # sooner than the next beat
                    await cluster.coordination.run()

        in_cluster(work, ends=False)

    def test_nothing_is_known_any_more_of_a_host_that_was_given_up(self) -> None:
        async def work(cluster: Cluster) -> None:
            await cluster.coordination.scale(1)
            assert cluster.coordination._begun().ownership.hosts == cluster.hosts.running.keys()

        in_cluster(work)

    def test_a_beat_that_fails_is_no_end(self) -> None:
        async def work(cluster: Cluster) -> None:
            beat, failures = cluster.store.beat, [1, 1]

            async def failing(generation: int) -> None:
                if failures:
                    failures.pop()
                    raise StoreUnavailable("away", True)
                await beat(generation)

            cluster.store.beat = failing  # type: ignore[method-assign]
            before = (await cluster.store.holding()).beat
            await asyncio.sleep(10)
            assert (await cluster.store.holding()).beat > before
            assert (await cluster.coordination.scale(3)).settled

        in_cluster(work)


class TestSettled:
    def test_it_is_waited_for_as_long_as_shards_move(self) -> None:
        async def work(cluster: Cluster) -> None:
            began_s = now_s()
            assert (await cluster.coordination.scale(4)).settled
            assert now_s() - began_s > 3

        patient = CALM.model_copy(update={"open_timeout_s": 1.5, "shards_moving_max": 1, "move_pause_s": 1.0})
        in_cluster(work, hosts=1, settings=patient)

    def test_and_no_longer(self) -> None:
        async def work(cluster: Cluster) -> None:
            cluster.hosts.opening.clear()
            with pytest.raises(NotSettled, match="3 hosts are wanted and 2 serve"):
                await cluster.coordination.scale(3)
            cluster.hosts.opening.set()

        in_cluster(work, settings=CALM.model_copy(update={"open_timeout_s": 2.0}))
