"""A command that its hosts don't survive: it is found among the others, given up, and costs them little."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from itertools import pairwise
from typing import ClassVar

import pytest

from actors.errors import CommandTimeout, HostsLost, Overloaded, StaleCall
from actors.wire import Receipt, pack_answers, unpack_call
from cluster.client import CommandClient
from cluster.lanes import Lanes, OutgoingCall, Submission
from cluster.limits import ClientLimits, Suspicion
from cluster.suspects import Suspects
from cluster.transport import HostGone
from store.identity import shard_of
from tests.clusters import FakeCluster, Fate
from tests.virtual_time import run

SHARDS = 8
DIES, HANGS = "dies", "hangs"
NOTICED_S = 3.5
"""How long a host that hangs keeps its shards."""
REPLACED_S = 0.2
LIMITS = ClientLimits()
KEYS = {shard_of(f"key-{index}", SHARDS): f"key-{index}" for index in range(99)}
"""A partition key of each shard: those of even shards are served by one host at first, the others by the other."""


POISONED = shard_of("key-7", SHARDS)


class Mortal(FakeCluster):
    """Its hosts end, or hang, of a command whose data say so, and of the first `lost` calls; others come for them."""

    def __init__(self, lost: int = 0) -> None:
        super().__init__(SHARDS, ["host-0", "host-1"])
        self.dead: set[str] = set()
        self.hung: set[str] = set()
        self.to_lose = lost

    async def call(self, host: str, payload: bytes) -> bytes:
        data = {command.data for command in unpack_call(payload).commands}
        if host in self.dead:
            raise HostGone(host, "it is dead")
        if host not in self.hung and HANGS in data:
            self.hung.add(host)
            asyncio.get_running_loop().call_later(NOTICED_S, self._end, host)
        if host in self.hung:
            self.calls.append((host, unpack_call(payload)))
            await asyncio.get_running_loop().create_future()
        if DIES in data or self.to_lose:
            self.to_lose = max(0, self.to_lose - 1)
            self.calls.append((host, unpack_call(payload)))
            self._end(host)
            raise HostGone(host, "it died")
        answers = await super().call(host, payload)
        if host in self.dead:
            raise HostGone(host, "it died meanwhile")
        return answers

    def _end(self, host: str) -> None:
        if host in self.dead:
            return
        self.dead.add(host)
        following = f"host-{len(self.hosts)}"
        self.hosts.append(following)
        self.under_way[following] = 0
        for shard, route in self.owners.items():
            if route.host == host:
                asyncio.get_running_loop().call_later(REPLACED_S, self.move, shard, following)

    def sizes(self, data: str) -> list[int]:
        """How many commands those calls had that reached a host with the one of these data."""
        calls = [call.commands for _, call in self.calls]
        return [len(commands) for commands in calls if data in {command.data for command in commands}]


def submission(command_id: str) -> Submission:
    future: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
    return Submission(0, "Note", command_id, True, "x", None, None, "", 30.0, 1e9, 10, future)


async def outcomes(futures: Iterable[asyncio.Future[Receipt]]) -> tuple[list[object], float]:
    """Return what became of commands, and after how long the last of them was answered."""
    loop = asyncio.get_running_loop()
    start_s = loop.time()
    ended = await asyncio.gather(*futures, return_exceptions=True)
    return list(ended), loop.time() - start_s


@pytest.mark.parametrize(("what", "ended_s"), [(DIES, 6 * (REPLACED_S + 1)), (HANGS, 6 * (NOTICED_S + 2))])
def test_a_command_that_no_host_survives_is_given_up_and_all_others_are_done(what: str, ended_s: float) -> None:
    cluster = Mortal()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS, ClientLimits(deadline_s=60))
        before = [client.submit(f"key-{number}", "Note", str(number)) for number in range(300)]
        poison = client.submit("key-7", "Note", what)
        behind = [client.submit(f"key-{number}", "Note", str(number)) for number in range(300, 600)]
        behind_it = client.submit("key-7", "Note", "next")
        ended, seconds = await outcomes([*before, *behind, behind_it])
        assert {type(answer) for answer in ended} == {Receipt}
        assert seconds < ended_s
        said = "6 hosts were lost one after another with command .+ in hand"
        with pytest.raises(HostsLost, match=said) as lost:
            await poison
        assert isinstance(lost.value, CommandTimeout), "its outcome is unknown"
        assert lost.value.hosts == len(cluster.dead) == LIMITS.lost_hosts_max
        assert 0 < lost.value.timeout_s <= seconds
        assert (client.in_flight, client.held_bytes) == (0, 0)
        await client.close()

    run(work())
    sizes = cluster.sizes(what)
    assert min(sizes[:2]) > LIMITS.suspects_size_max
    assert 1 < sizes[2] <= LIMITS.suspects_size_max
    assert sizes[3:] == [1, 1, 1]
    decided = [command.data for command in cluster.decided if command.shard == shard_of("key-7", SHARDS)]
    numbers = [data for data in decided if data.isdecimal()]
    assert numbers == sorted(numbers, key=int)
    assert decided.index("next") == len(decided) - 1


def test_sent_again_by_the_same_client_a_command_that_was_given_up_is_so_after_one_more_host() -> None:
    cluster = Mortal()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        for hosts in range(LIMITS.lost_hosts_max, LIMITS.lost_hosts_max + 3):
            others = [client.submit(f"key-{number}", "Note", "x") for number in range(40)]
            with pytest.raises(HostsLost):
                await client.submit("key-7", "Note", DIES, "its-id")
            assert len(cluster.dead) == hosts
            answers, _ = await outcomes(others)
            assert {type(answer) for answer in answers} == {Receipt}
        await client.submit("key-7", "Note", "x", "its-id")  # its code was mended
        assert client.in_flight == 0
        await client.close()

    run(work())
    assert cluster.sizes(DIES)[3:] == [1] * 5


def test_nothing_is_under_way_beside_a_suspect_and_later_calls_go_beside_each_other_again() -> None:
    class Watched(Mortal):
        beside: ClassVar[list[int]] = []

        async def call(self, host: str, payload: bytes) -> bytes:
            alone = [command.data for command in unpack_call(payload).commands] == [HANGS]
            if alone or host in self.hung - self.dead:
                self.beside.append(self.under_way[host] + (0 if alone else 1))
            return await super().call(host, payload)

    cluster = Watched()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS, ClientLimits(large_call=2, deadline_s=60))
        poison = client.submit(KEYS[0], "Note", HANGS)
        others: list[asyncio.Future[Receipt]] = []
        while not poison.done():
            if len(cluster.dead) >= LIMITS.alone_after:
                others += [client.submit(KEYS[shard], "Note", "x") for shard in (2, 4, 6)]
            await asyncio.sleep(0.05 if cluster.hung - cluster.dead else 0.0007)
        await outcomes([poison, *others])
        cluster.under_way_most = 0
        first = [client.submit(KEYS[0], "Note", "x")]
        await asyncio.sleep(0.001)
        await outcomes(first + [client.submit(KEYS[shard], "Note", "x") for shard in (2, 4, 6)])
        assert cluster.under_way_most == 2
        await client.close()

    run(work())
    assert cluster.beside == [0] * LIMITS.lost_hosts_max


@pytest.mark.parametrize("what", [DIES, HANGS])
def test_what_goes_alone_rests_before_also_where_a_new_route_is_there(what: str) -> None:
    random.seed(1126)
    cluster = Mortal()

    async def work() -> float:
        client, loop = (
            CommandClient(cluster, cluster, SHARDS, ClientLimits(alone_pause_max_s=100)),
            asyncio.get_running_loop(),
        )
        poison = client.submit(KEYS[0], "Note", what, timeout_s=1_000)
        while len(cluster.dead) < LIMITS.alone_after:
            await asyncio.sleep(0.01)
        start_s = loop.time()
        await outcomes([poison])
        await client.close()
        return loop.time() - start_s

    assert run(work()) > 3 * (NOTICED_S + 1) + 30


def test_what_goes_alone_also_rests_as_long_as_a_full_host_asks() -> None:
    class Full(Mortal):
        asked_s: ClassVar[list[float]] = []

        async def call(self, host: str, payload: bytes) -> bytes:
            if len(self.dead) < LIMITS.alone_after:
                return await super().call(host, payload)
            self.asked_s.append(asyncio.get_running_loop().time())
            return pack_answers([Overloaded(5_000)])

    cluster = Full(lost=LIMITS.alone_after)

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        await outcomes([client.submit(KEYS[0], "Note", "x")])
        await client.close()

    run(work())
    assert len(cluster.asked_s) > 3
    assert all(later - earlier >= 5 for earlier, later in pairwise(cluster.asked_s))


def test_of_hosts_and_commands_the_last_ones_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOSTS_KNOWN_MAX", "COMMANDS_KNOWN_MAX"):
        monkeypatch.setattr(f"cluster.suspects.{name}", 3)

    async def work() -> None:
        lanes = Lanes(SHARDS, LIMITS)
        suspects = Suspects(lanes, LIMITS)
        for number in range(9):
            suspects.lost(OutgoingCall(f"host-{number}", 0.0, Suspicion.NONE), [submission(f"id-{number}")], 10.0)
        again = [submission(f"id-{number}") for number in range(9)]
        for each in again:
            suspects.recall(each)
        assert [each.lost_hosts for each in again] == [0] * 6 + [1] * 3
        later = [submission("later") for _ in range(9)]
        for number, each in reversed(list(enumerate(later))):
            suspects.lost(OutgoingCall(f"host-{number}", 11.0, Suspicion.NONE), [each], 12.0)
        assert [each.lost_hosts for each in later] == [1] * 6 + [0] * 3

    run(work())


def test_suspects_are_counted_while_they_are_held() -> None:
    async def work() -> None:
        lanes, held = Lanes(SHARDS, LIMITS), [submission(f"id-{number}") for number in range(3)]
        for each in held:
            lanes.add(each)
        for each in held[:2]:
            for _ in range(LIMITS.alone_after):
                lanes.lost(each)
        assert lanes.suspects == 2
        lanes.departed(held[1:])
        assert lanes.suspects == 1
        lanes.departed(held[:1])
        assert (lanes.held, lanes.suspects) == (0, 0)

    run(work())


@pytest.mark.parametrize("what", [DIES, HANGS])
def test_the_commands_of_another_client_are_done(what: str) -> None:
    random.seed(1126)  # seldom one of them is blamed too: see decision 19
    cluster = Mortal()

    async def work() -> None:
        guilty, other = (CommandClient(cluster, cluster, SHARDS, ClientLimits(deadline_s=60)) for _ in range(2))
        poison = guilty.submit("key-7", "Note", what)
        ended: list[asyncio.Future[Receipt]] = []
        while not poison.done():
            ended += [other.submit(f"key-{number}", "Note", "x") for number in range(20)]
            await asyncio.sleep(0.05)
        assert isinstance(poison.exception(), HostsLost)
        answers, _ = await outcomes(ended)
        assert {type(answer) for answer in answers} == {Receipt}
        await asyncio.gather(guilty.close(), other.close())

    run(work())


def test_who_comes_later_is_neither_lost_with_a_suspect_nor_keeps_it_waiting() -> None:
    cluster = Mortal()

    async def work() -> None:
        client, loop = (
            CommandClient(cluster, cluster, SHARDS, ClientLimits(in_flight_max=100_000)),
            asyncio.get_running_loop(),
        )
        poison, start_s = client.submit("key-7", "Note", DIES), loop.time()
        newcomers: list[asyncio.Future[Receipt]] = []
        while not poison.done():
            for key in range(40):
                newcomers.append(client.submit(f"key-{key}", "Note", "x"))
                await asyncio.sleep(0.0001)
        assert loop.time() - start_s < 3
        assert isinstance(poison.exception(), HostsLost)
        answers, _ = await outcomes(newcomers)
        assert {type(answer) for answer in answers} == {Receipt}
        await client.close()

    run(work())
    lost = [call.commands for _, call in cluster.calls if DIES in {command.data for command in call.commands}]
    first_come = {command.command_id for command in lost[0]} & {command.command_id for command in lost[1]}
    for commands in lost[2:]:
        assert {command.command_id for command in commands} <= first_come


@pytest.mark.parametrize("told", ["gone", "unreadable"])
def test_a_host_that_lives_is_not_lost_again_and_again_whatever_it_does_with_a_command(told: str) -> None:
    class Alive(FakeCluster):
        async def call(self, host: str, payload: bytes) -> bytes:
            if DIES not in {command.data for command in unpack_call(payload).commands}:
                return await super().call(host, payload)
            if told == "gone":
                raise HostGone(host, "it can't be reached just now")
            if self.owners[POISONED].epoch < 2 * LIMITS.lost_hosts_max:
                self.move(POISONED)
            return b"\xc1"

    cluster = Alive(SHARDS, [f"host-{number}" for number in range(2)])

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        odd = client.submit("key-7", "Note", DIES, timeout_s=3)
        answers: list[asyncio.Future[Receipt]] = []
        while not odd.done():
            await asyncio.sleep(0.01)
            answers.append(client.submit(f"key-{len(answers) % 40}", "Note", "x"))
        assert type(odd.exception()) is CommandTimeout
        outcome, _ = await outcomes(answers)
        assert {type(answer) for answer in outcome} == {Receipt}
        await client.close()

    run(work())


@pytest.mark.parametrize("timeout_s", [5, 10])
def test_a_deadline_that_ends_before_all_hosts_are_lost_does_not_make_it_begin_anew(timeout_s: float) -> None:
    cluster = Mortal()

    async def work() -> None:
        client, others = (
            CommandClient(cluster, cluster, SHARDS, ClientLimits(deadline_s=60)),
            list[asyncio.Future[Receipt]](),
        )

        async def submit_again_and_again() -> type[BaseException]:
            for _ in range(20):
                try:
                    await client.submit("key-7", "Note", HANGS, "its-id", timeout_s=timeout_s)
                except HostsLost:
                    return HostsLost
                except CommandTimeout:
                    await asyncio.sleep(0.01)
            return CommandTimeout

        poison = asyncio.create_task(submit_again_and_again())
        while not poison.done():
            others += [client.submit(f"key-{number}", "Note", "x") for number in range(40)]
            await asyncio.sleep(0.1)
        assert await poison is HostsLost
        await client.submit("key-7", "Note", "x", "its-id")  # mended
        cluster.to_lose = 1
        assert isinstance(await client.submit("key-7", "Note", "x", "its-id"), Receipt), "it was answered since"
        answers, _ = await outcomes(others)
        assert {type(answer) for answer in answers} == {Receipt}
        await client.close()

    run(work())
    assert set(cluster.sizes(HANGS)[4:]) == {1}


def test_who_gives_up_while_the_last_host_is_lost_leaves_the_shard_to_others() -> None:
    cluster = Mortal()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        poison = client.submit("key-7", "Note", HANGS)
        while not (len(cluster.dead) == LIMITS.lost_hosts_max - 1 and cluster.hung - cluster.dead):
            await asyncio.sleep(0.01)
        poison.cancel()
        assert isinstance(await client.submit("key-7", "Note", "x"), Receipt)
        assert client.in_flight == 0
        await client.close()

    run(work())


def test_a_suspect_of_one_host_holds_up_no_other() -> None:
    cluster = Mortal()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        poison = client.submit(KEYS[0], "Note", HANGS)
        while len(cluster.dead) < LIMITS.alone_after:
            await asyncio.sleep(0.01)
        cluster.script([Fate.ANSWERED_LATE])
        held_up = client.submit(KEYS[1], "Note", "x")
        await asyncio.sleep(0.01)
        _, seconds = await outcomes([client.submit(KEYS[shard], "Note", "x") for shard in (3, 5, 7)])
        assert seconds < 0.1, "a call goes beside one that is held up"
        await outcomes([poison, held_up])
        await client.close()

    run(work())


def test_a_host_that_refuses_an_old_call_is_not_lost() -> None:
    class Refusing(FakeCluster):
        refused = 0

        async def call(self, host: str, payload: bytes) -> bytes:
            call = unpack_call(payload)
            if self.refused < 2 * LIMITS.lost_hosts_max:
                self.refused += 1
                for shard in call.epochs:
                    self.move(shard)
                raise StaleCall(call.number)
            return await super().call(host, payload)

    cluster = Refusing(SHARDS, [f"host-{number}" for number in range(20)])

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        assert isinstance(await client.submit("key-1", "Note", "x"), Receipt)
        await client.close()

    run(work())


def test_a_host_that_could_not_be_reached_once_and_answered_since_counts_when_it_is_lost() -> None:
    cluster = Mortal()
    cluster.script([Fate.GONE_BEFORE])

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        await client.submit(KEYS[0], "Note", "x")
        with pytest.raises(HostsLost):
            await client.submit(KEYS[0], "Note", DIES)
        await client.close()

    run(work())
    assert len(cluster.dead) == LIMITS.lost_hosts_max


def test_a_new_host_serves_others_before_it_gets_a_suspect() -> None:
    cluster = Mortal()

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        poison = client.submit(KEYS[0], "Note", DIES)
        others: list[asyncio.Future[Receipt]] = []
        while not poison.done():
            if len(cluster.dead) >= LIMITS.suspect_after:
                others += [client.submit(KEYS[shard], "Note", "x") for shard in (2, 4, 6)]
            await asyncio.sleep(0.001)
        assert isinstance(poison.exception(), HostsLost)
        await outcomes(others)
        await client.close()

    run(work())
    ended = [host for host, call in cluster.calls if DIES in {command.data for command in call.commands}]
    for host in ended[LIMITS.suspect_after :]:
        first, *_, last = [call.commands for where, call in cluster.calls if where == host]
        assert DIES not in {command.data for command in first}
        assert [command.data for command in last] == [DIES]


def test_commands_that_were_lost_with_fewer_hosts_are_done_by_the_next() -> None:
    cluster = Mortal(lost=LIMITS.lost_hosts_max - 1)

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        (answer,), _ = await outcomes([client.submit("key-1", "Note", "x")])
        assert isinstance(answer, Receipt)
        await client.close()

    run(work())
    assert len(cluster.dead) == LIMITS.lost_hosts_max - 1


def test_a_host_that_can_not_be_reached_for_long_counts_once() -> None:
    cluster = FakeCluster(SHARDS, ["a"], [Fate.GONE_BEFORE] * 20)

    async def work() -> None:
        client = CommandClient(cluster, cluster, SHARDS)
        answers, _ = await outcomes([client.submit(f"key-{number}", "Note", "x") for number in range(50)])
        assert {type(answer) for answer in answers} == {Receipt}
        await client.close()

    run(work())
    assert {len(call.commands) for _, call in cluster.calls} == {50}
