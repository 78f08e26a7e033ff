"""The client's promises one by one; how they hold together is in `test_client_order.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.errors import CommandTimeout, DomainError, InvalidCommand, Overloaded
from actors.wire import Call, Receipt, pack_answers, unpack_call
from cluster.client import PROMISED_MAX, ClientClosed, CommandClient
from cluster.limits import ClientLimits
from cluster.transport import HostGone
from store.errors import ConcurrencyError, EventrayError, StoreUnavailable
from store.identity import shard_of
from store.records import Route
from tests.clusters import FakeCluster, Fate
from tests.virtual_time import run

SHARDS = 4
KEYS = {shard_of(f"key-{index}", SHARDS): f"key-{index}" for index in range(99)}
"""A partition key of each shard."""


def client_of(cluster: FakeCluster, **limits: Any) -> CommandClient:
    """A client with one call at a time to a host, unless a test is about more."""
    return CommandClient(cluster, cluster, SHARDS, ClientLimits(**({"calls_max": 1} | limits)))


def submit(client: CommandClient, count: int, **options: Any) -> list[asyncio.Future[Receipt]]:
    return [client.submit(f"key-{index}", "Note", str(index), **options) for index in range(count)]


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Answering(FakeCluster):
    """Answers every command by a function of its data."""

    def __init__(self, answer: Callable[[str], Receipt | EventrayError]) -> None:
        super().__init__(SHARDS, ["a"])
        self._answer = answer

    async def call(self, host: str, payload: bytes) -> bytes:
        call = unpack_call(payload)
        self.calls.append((host, call))
        return pack_answers([self._answer(command.data) for command in call.commands])


class TestCalls:
    def test_a_thousand_concurrent_commands_make_few_calls_one_a_host_at_a_time(self) -> None:
        cluster = FakeCluster(SHARDS, ["a", "b"])

        async def work() -> None:
            client = client_of(cluster)
            receipts = await asyncio.gather(*submit(client, 1000))
            assert len({receipt.command_id for receipt in receipts}) == 1000

        run(work())
        assert len(cluster.calls) <= 4
        assert cluster.under_way_most == 1

    def test_a_large_call_goes_beside_another_with_other_shards(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.01)

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=20)
            sent = [client.submit(KEYS[0], "Note", "x")]
            await asyncio.sleep(0.002)
            for number in range(30):
                sent += [client.submit(KEYS[shard], "Note", "y") for shard in (0, 1, 2)]
                if number == 8:
                    await asyncio.sleep(0.001)
                    assert len(cluster.calls) == 1, "18 commands in lanes that may be sent from are no large call"
            await asyncio.gather(*sent)

        run(work())
        assert cluster.under_way_most == 2
        assert [{command.shard for command in call.commands} for _, call in cluster.calls[:3]] == [{0}, {1, 2}, {0}]
        assert len(cluster.calls[1][1].commands) >= 20

    def test_a_call_goes_beside_another_with_the_very_command_that_makes_it_large(self) -> None:
        cluster = FakeCluster(SHARDS, ["a", "b"], call_s=0.01)
        cluster.owners = {shard: Route(shard, "b" if shard == 3 else "a", 1) for shard in range(SHARDS)}

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=40)
            sent = [client.submit(KEYS[shard], "Note", "x") for shard in (0, 3)]
            await asyncio.sleep(0.005)
            for shard in (1, 3) * 39:
                sent.append(client.submit(KEYS[shard], "Note", "y"))
                await asyncio.sleep(0)
            assert len(cluster.calls) == 2, "39 wait for each host"
            sent += [client.submit(KEYS[0], "Note", "z") for _ in range(2)]  # behind the call that carries their shard
            await asyncio.sleep(0)
            assert len(cluster.calls) == 2
            sent.append(client.submit(KEYS[2], "Note", "y"))
            await asyncio.sleep(0.001)
            assert [len(call.commands) for _, call in cluster.calls] == [1, 1, 40]
            await asyncio.gather(*sent)

        run(work())
        assert [len(call.commands) for host, call in cluster.calls if host == "a"] == [1, 40, 2]

    def test_what_waited_behind_a_call_is_counted_once_that_is_back(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        at_once, sizes = cluster.call, list[int]()

        async def call(host: str, payload: bytes) -> bytes:
            sizes.append(len(unpack_call(payload).commands))
            await asyncio.sleep(0.04 if len(sizes) == 1 else 0.01)
            return await at_once(host, payload)

        cluster.call = call  # type: ignore[method-assign]

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=20)
            sent = [client.submit(KEYS[0], "Note", "x")]
            await asyncio.sleep(0.002)
            sent += [client.submit(KEYS[1], "Note", "y") for _ in range(20)]
            await asyncio.sleep(0.001)
            sent += [client.submit(KEYS[1], "Note", "z") for _ in range(15)]
            await asyncio.sleep(0.02)
            assert sizes == [1, 20], "what waits is no large call"
            for shard in (1, 2, 3, 1, 2):
                sent.append(client.submit(KEYS[shard], "Note", "z"))
                await asyncio.sleep(0.001)
            assert sizes == [1, 20, 20]
            await asyncio.gather(*sent)

        run(work())

    def test_beside_a_large_call_a_few_commands_wait_for_its_return(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.01)

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=20)
            first = [client.submit(KEYS[0], "Note", "x") for _ in range(50)]
            await asyncio.sleep(0.002)
            few = [client.submit(KEYS[shard], "Note", "y") for shard in (0, 1, 2)]
            await asyncio.gather(*first, *few)

        run(work())
        assert [len(call.commands) for _, call in cluster.calls] == [50, 3]

    def test_who_waits_for_a_large_calls_answers_comes_along_with_the_next_call(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.01)

        async def one_after_another(client: CommandClient, index: int) -> None:
            for _ in range(3):
                await client.submit(f"key-{index}", "Note", "x")

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=20)
            callers = [asyncio.create_task(one_after_another(client, index)) for index in range(30)]
            await asyncio.sleep(0.005)
            late = submit(client, 10)
            await asyncio.gather(*callers, *late)

        run(work())
        assert [len(call.commands) for _, call in cluster.calls] == [30, 40, 30]

    def test_a_call_as_large_as_the_one_that_is_back_leaves_before_anybody_gets_an_answer(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.01)
        calls_seen: list[int] = []

        async def work() -> None:
            client = client_of(cluster, calls_max=1, large_call=20)
            first = submit(client, 30)
            first[0].add_done_callback(lambda _: calls_seen.append(len(cluster.calls)))
            await asyncio.sleep(0.005)
            await asyncio.gather(*first, *submit(client, 30))

        run(work())
        assert calls_seen == [2]

    @pytest.mark.parametrize(
        ("comes_after_s", "calls_after_s"),
        [(0.01, [(0.03, 1), (0.02, 2)]), (0.1, [(0.001, 2)])],
        ids=["while the call is young", "once it is held up"],
    )
    def test_beside_a_small_call_another_goes_only_once_something_holds_that_up(
        self, comes_after_s: float, calls_after_s: list[tuple[float, int]]
    ) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.2)

        async def work() -> None:
            client = client_of(cluster, calls_max=2, patience_s=0.05)
            first = client.submit(KEYS[0], "Note", "x")
            await asyncio.sleep(comes_after_s)
            second = client.submit(KEYS[1], "Note", "y")
            for pause_s, calls in calls_after_s:
                await asyncio.sleep(pause_s)
                assert len(cluster.calls) == calls
            await asyncio.gather(first, second)

        run(work())

    def test_each_call_is_noticed_that_is_held_up_also_after_one_that_came_back_soon(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        at_once, sent = cluster.call, []

        async def call(host: str, payload: bytes) -> bytes:
            sent.append(now_s())
            await asyncio.sleep(1 if len(sent) == 2 else 0.02)
            return await at_once(host, payload)

        cluster.call = call  # type: ignore[method-assign]

        async def work() -> None:
            client = client_of(cluster, calls_max=2, patience_s=0.05)
            await client.submit(KEYS[0], "Note", "1")
            await asyncio.sleep(0.01)
            held_up = client.submit(KEYS[0], "Note", "2")
            await asyncio.sleep(0.04)
            await client.submit(KEYS[1], "Note", "3")
            assert sent[2] - sent[1] == pytest.approx(0.05, abs=0.002)
            await held_up

        run(work())

    def test_the_later_of_two_calls_may_arrive_first(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        at_once, sent = cluster.call, 0

        async def call(host: str, payload: bytes) -> bytes:
            nonlocal sent
            sent += 1
            await asyncio.sleep(0.02 if sent == 2 else 0.001)
            return await at_once(host, payload)

        cluster.call = call  # type: ignore[method-assign]

        async def work() -> None:
            client = client_of(cluster, calls_max=2, large_call=1)
            await client.submit(KEYS[2], "Note", "0")
            notes = [client.submit(KEYS[0], "Note", "1"), client.submit(KEYS[0], "Note", "2")]
            await asyncio.sleep(0.001)
            notes += [client.submit(KEYS[1], "Note", "3"), client.submit(KEYS[0], "Note", "4")]
            receipts = await asyncio.gather(*notes)
            assert not any(receipt.duplicate for receipt in receipts)

        run(work())
        assert [command.data for command in cluster.decided] == ["0", "3", "1", "2", "4"]

    def test_what_is_submitted_while_a_call_is_out_goes_with_the_next_one(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], call_s=0.01)

        async def work() -> None:
            client = client_of(cluster)
            first = submit(client, 1)
            await asyncio.sleep(0.005)
            await asyncio.gather(*first, *submit(client, 50), *submit(client, 50))

        run(work())
        assert [len(call.commands) for _, call in cluster.calls] == [1, 100]

    def test_a_call_is_bounded_in_commands_and_in_bytes(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster, batch_size_max=10, batch_bytes_max=1000)
            small = submit(client, 25)
            large = [client.submit("key", "Note", "x" * size) for size in (400, 400, 400, 5000, 10)]
            await asyncio.gather(*small, *large)

        run(work())
        for _, call in cluster.calls:
            size_bytes = sum(len(command.data) for command in call.commands)
            assert len(call.commands) <= 10
            assert size_bytes <= 1000 or len(call.commands) == 1
        assert len(cluster.decided) == 30

    def test_numbers_rise_over_all_hosts_and_sessions_differ(self) -> None:
        cluster = FakeCluster(SHARDS, ["a", "b"])

        async def work() -> None:
            one, other = client_of(cluster), client_of(cluster)
            for client in (one, other, one):
                await asyncio.gather(*submit(client, 8))

        run(work())
        sessions: dict[str, list[int]] = {}
        for _, call in cluster.calls:
            sessions.setdefault(call.session, []).append(call.number)
        assert sorted(map(len, sessions.values())) == [2, 4]
        assert all(numbers == sorted(set(numbers)) for numbers in sessions.values())

    def test_a_message_says_how_long_its_caller_still_waits_and_whether_it_is_the_first(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.GONE_BEFORE])

        async def work() -> None:
            client = client_of(cluster)
            drawn = client.submit("key", "Note", "{}", timeout_s=10, occurred_at=-5, expected_version=3, metadata="{1}")
            given = client.submit("key", "Note", "{}", "cart-77", timeout_s=20)
            await asyncio.gather(drawn, given)

        run(work())
        (_, first), (_, second) = cluster.calls
        assert [command.first_send for command in first.commands] == [True, False]
        assert [command.first_send for command in second.commands] == [False, False]
        assert [command.patience_ms // 10 for command in first.commands] == [999, 1999]
        assert 9_900 < second.commands[0].patience_ms < first.commands[0].patience_ms
        assert first.commands[0][5:7] == (3, -5)
        assert first.commands[0].metadata == "{1}"
        assert first.commands[1].command_id == "cart-77"


class TestAnswers:
    @pytest.mark.parametrize(
        "error", [DomainError("no"), ConcurrencyError("s-1", 1, 2), StoreUnavailable("disk full", False)]
    )
    def test_final_errors_end_a_command_and_no_other(self, error: EventrayError) -> None:
        receipt = Receipt("c", "s-1", 1, 0, 1, "store", False)
        cluster = Answering(lambda data: error if data == "1" else receipt)

        async def work() -> list[Receipt | BaseException]:
            return await asyncio.gather(*submit(client_of(cluster), 3), return_exceptions=True)

        first, second, third = run(work())
        assert first == third == receipt
        assert type(second) is type(error)
        assert len(cluster.calls) == 1

    def test_the_hosts_own_timeout_names_the_time_that_the_caller_gave(self) -> None:
        cluster = Answering(lambda _: CommandTimeout("c", 0.001))

        async def work() -> None:
            await client_of(cluster).submit("key", "Note", "{}", "c", timeout_s=7)

        with pytest.raises(CommandTimeout, match=r"within 7 s.*outcome is unknown"):
            run(work())

    @pytest.mark.parametrize("fate", [Fate.SHORT, Fate.GARBLED, Fate.BROKEN, Fate.STALE])
    def test_a_call_without_usable_answers_is_sent_again_with_a_new_number(self, fate: Fate) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [fate])

        async def work() -> None:
            await asyncio.gather(*submit(client_of(cluster), 5))

        run(work())
        (_, first), (_, second) = cluster.calls
        assert first.number < second.number
        assert [command.command_id for command in first.commands] == [command.command_id for command in second.commands]

    def test_an_overloaded_host_is_left_alone_for_as_long_as_it_says(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.OVERLOADED] * 3)

        async def work() -> float:
            client, start_s = client_of(cluster, pause_max_s=0.03), now_s()
            await asyncio.gather(*submit(client, 3))
            return now_s() - start_s

        assert 0.3 < run(work()) < 0.5

    def test_a_command_that_meets_only_full_hosts_is_told_so_at_its_deadline(self) -> None:
        async def work(script: list[Fate]) -> list[Any]:
            client = client_of(FakeCluster(SHARDS, ["a"], script), deadline_s=1.0)
            return await asyncio.gather(*submit(client, 2), return_exceptions=True)

        told = run(work([Fate.OVERLOADED] * 100))
        assert [type(error) for error in told] == [Overloaded, Overloaded]
        assert told[0].retry_after_ms == 100
        for lost in (Fate.GONE_BEFORE, Fate.GONE_AFTER):
            told = run(work([Fate.OVERLOADED, lost, *[Fate.OVERLOADED] * 100]))
            assert {type(error) for error in told} == {CommandTimeout}, "one sending may have been decided"

    def test_pauses_between_retries_grow_to_their_bound(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.GONE_BEFORE] * 100)

        async def work() -> None:
            with pytest.raises(CommandTimeout):
                await client_of(cluster, pause_max_s=1.0).submit("key", "Note", "{}")

        run(work())
        assert 30 < len(cluster.calls) < 90

    @pytest.mark.parametrize(("lost", "error"), [(0, StoreUnavailable), (1, CommandTimeout)])
    def test_a_full_disk_after_a_lost_sending_says_nothing_of_that_sending(
        self, lost: int, error: type[EventrayError]
    ) -> None:
        class FullDisk(Answering):
            async def call(self, host: str, payload: bytes) -> bytes:
                answers = await super().call(host, payload)
                if len(self.calls) <= lost:
                    raise HostGone(host, "it died")
                return answers

        cluster = FullDisk(lambda _data: StoreUnavailable("disk full", False))

        async def work() -> None:
            with pytest.raises(error):
                await client_of(cluster).submit("key", "Note", "{}")

        run(work())
        assert len(cluster.calls) == 1 + lost


class TestMovedShards:
    def test_the_call_of_a_stopped_host_is_abandoned_when_its_shards_have_moved(self) -> None:
        cluster = FakeCluster(SHARDS, ["a", "b"], [Fate.STOPPED], call_s=0.001)

        async def work() -> float:
            client, start_s = client_of(cluster), now_s()
            await asyncio.gather(*submit(client, 20))
            return now_s() - start_s

        assert run(work()) < 2.5
        assert len(cluster.decided) == 20

    def test_a_moved_shard_does_not_wait_for_the_rest_of_its_call(self) -> None:
        cluster = FakeCluster(2, ["a", "b"], [Fate.ANSWERED_LATE])
        cluster.owners = {0: Route(0, "a", 1), 1: Route(1, "a", 1)}
        keys = {shard_of(f"key-{index}", 2): f"key-{index}" for index in range(9)}

        async def work() -> None:
            client = CommandClient(cluster, cluster, 2, ClientLimits(calls_max=1))
            moved, staying = client.submit(keys[0], "Note", "1"), client.submit(keys[1], "Note", "2")
            await asyncio.sleep(0.1)
            later = client.submit(keys[1], "Note", "3")
            cluster.move(0)
            assert (await moved).duplicate is False
            assert not staying.done()
            await staying
            await later
            assert client.in_flight == 0

        run(work())
        assert [(host, [c.data for c in call.commands]) for host, call in cluster.calls] == [
            ("a", ["1", "2"]),
            ("b", ["1"]),
            ("a", ["3"]),
        ]

    def test_a_shard_whose_new_route_is_known_still_waits_for_the_call_that_carries_it(self) -> None:
        cluster = FakeCluster(2, ["a", "b"], [Fate.GONE_BEFORE], call_s=0.001)
        keys = {shard_of(f"key-{index}", 2): f"key-{index}" for index in range(9)}
        slow = FakeCluster.call

        async def call(host: str, payload: bytes) -> bytes:
            if host == "a":
                await asyncio.sleep(0.3)
            return await slow(cluster, host, payload)

        cluster.call = call  # type: ignore[method-assign]

        async def work() -> None:
            client = CommandClient(cluster, cluster, 2)
            first = client.submit(keys[0], "Note", "1")
            await asyncio.sleep(0.05)
            cluster.move(0)
            client.submit(keys[1], "Note", "other")
            await asyncio.sleep(0.1)
            assert cluster.readings > 1, "the new route is known"
            await asyncio.gather(first, client.submit(keys[0], "Note", "2"))

        run(work())
        assert [command.data for command in cluster.decided if command.shard == 0] == ["1", "2"]

    @pytest.mark.parametrize("fate", [Fate.ANSWERED, Fate.GONE_BEFORE])
    def test_commands_that_rest_go_by_a_new_route_as_soon_as_it_is_known(self, fate: Fate) -> None:
        class Routes:
            """Tells what was, until it is told."""

            told: Route

            async def routes(self) -> list[Route]:
                return [self.told]

        moving = False

        def script() -> Iterator[Fate]:
            while True:
                yield fate if moving else Fate.ANSWERED

        cluster, routes = FakeCluster(1, ["a", "b"], script(), call_s=0.001), Routes()
        waited_s: list[float] = []

        async def work() -> None:
            nonlocal moving
            routes.told = cluster.owners[0]
            client = CommandClient(cluster, routes, 1)
            for number in range(20):
                cluster.move(0)  # its host refuses from now on, or is gone, and its new one is not told yet
                moving = True
                command = client.submit("key", "Note", f"{number}")
                await asyncio.sleep(0.15)
                moving, routes.told, began_s = False, cluster.owners[0], now_s()
                await command
                waited_s.append(now_s() - began_s)

        run(work())
        assert sum(waited_s) / len(waited_s) < 0.06, "and not its backoff, which would be some 200 ms"
        assert len(cluster.decided) == 20

    def test_once_all_is_answered_no_route_is_read_any_more(self) -> None:
        cluster = FakeCluster(1, ["a"], [Fate.GONE_BEFORE, Fate.GONE_AFTER], call_s=0.001)

        async def work() -> None:
            await CommandClient(cluster, cluster, 1).submit("key", "Note", "1")
            await asyncio.sleep(0.5)
            readings = cluster.readings
            await asyncio.sleep(60)
            assert cluster.readings == readings

        run(work())

    def test_once_a_refused_shards_commands_are_over_no_route_is_read_any_more(self) -> None:
        cluster = FakeCluster(1, ["a"], [Fate.GONE_BEFORE] * 100, call_s=0.001)

        async def work() -> None:
            client = CommandClient(cluster, cluster, 1)
            with pytest.raises(CommandTimeout):
                await client.submit("key", "Note", "1", timeout_s=1)
            await asyncio.sleep(1)
            calls, readings = len(cluster.calls), cluster.readings
            await asyncio.sleep(60)
            assert (len(cluster.calls), cluster.readings) == (calls, readings)

        run(work())

    def test_routes_are_not_read_while_calls_are_answered(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster)
            for _ in range(50):
                await asyncio.gather(*submit(client, 4))
                await asyncio.sleep(0.1)

        run(work())
        assert cluster.readings == 1

    def test_commands_wait_for_routes_that_cannot_be_read_and_for_shards_without_a_host(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        cluster.routes_fail = 5
        cluster.owners = {shard: Route(shard, None, 0) for shard in range(SHARDS)}

        async def work() -> None:
            client = client_of(cluster, pause_max_s=1.0)
            futures = submit(client, 8)
            await asyncio.sleep(5)
            assert not cluster.calls
            assert cluster.readings < 25
            for shard in range(SHARDS):
                cluster.move(shard, "a")
            await asyncio.wait_for(asyncio.gather(*futures), 2)

        run(work())
        assert len(cluster.calls) == 1


class TestDeadlines:
    def test_a_command_without_an_answer_ends_at_its_own_deadline(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.ANSWERED_LATE, Fate.ANSWERED_LATE])

        async def work() -> list[float]:
            client, start_s, waited = client_of(cluster), now_s(), []
            futures = [client.submit("key", "Note", "{}", timeout_s=timeout_s) for timeout_s in (1.5, 0.5, 1.0, 30)]
            for index in (1, 2, 0):
                with pytest.raises(CommandTimeout):
                    await futures[index]
                waited.append(now_s() - start_s)
            await futures[3]
            return waited

        assert run(work()) == pytest.approx([0.5, 1.0, 1.5], abs=0.06)

    def test_a_call_that_nobody_waits_for_any_more_gives_its_host_free(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.ANSWERED_LATE])

        async def work() -> None:
            client = client_of(cluster)
            first = client.submit("key", "Note", "1", timeout_s=0.7)
            with pytest.raises(CommandTimeout):
                await first
            await asyncio.wait_for(client.submit("key", "Note", "2"), 0.1)
            assert client.in_flight == 0

        run(work())
        assert [command.data for command in cluster.decided] == ["2"]

    def test_a_command_for_a_shard_without_a_host_expires_and_leaves_nothing_behind(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        cluster.owners = {}

        async def work() -> None:
            client = client_of(cluster)
            with pytest.raises(CommandTimeout):
                await client.submit("key", "Note", "1", timeout_s=3)
            await asyncio.sleep(2)
            readings = cluster.readings
            await asyncio.sleep(60)
            assert cluster.readings == readings
            assert client.in_flight == 0

        run(work())
        assert not cluster.calls

    def test_a_command_that_waits_in_its_lane_expires_too_and_is_not_sent(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.ANSWERED_LATE])

        async def work() -> None:
            client = client_of(cluster)
            first = client.submit("key", "Note", "1")
            await asyncio.sleep(0.01)
            second, third = client.submit("key", "Note", "2", timeout_s=0.5), client.submit("key", "Note", "3")
            with pytest.raises(CommandTimeout):
                await second
            await asyncio.gather(first, third)

        run(work())
        assert [command.data for command in cluster.decided] == ["1", "3"]


class TestCallers:
    def test_a_cancelled_command_is_not_sent_and_one_that_was_sent_keeps_its_place(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster)
            await client.submit("key", "Note", "0")
            sent, after = client.submit("key", "Note", "1"), client.submit("key", "Note", "2")
            await asyncio.sleep(0.001)
            unsent, last = client.submit("key", "Note", "3"), client.submit("key", "Note", "4")
            sent.cancel()
            unsent.cancel()
            await asyncio.gather(after, last)
            assert client.in_flight == 0

        run(work())
        assert [command.data for command in cluster.decided] == ["0", "1", "2", "4"]

    def test_the_bytes_that_a_client_holds_are_bounded_and_counted_whatever_becomes_of_the_commands(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.GONE_BEFORE, Fate.OVERLOADED, Fate.MOVED])
        most = 0

        async def one(client: CommandClient, number: int) -> None:
            nonlocal most
            await client.room()
            future = client.submit(f"key-{number % 7}", "Note", "x" * 1_000, timeout_s=1.0 if number % 5 else 0.05)
            most = max(most, client.held_bytes)
            if number % 11 == 0:
                future.cancel()
            await asyncio.gather(future, return_exceptions=True)

        async def work() -> None:
            client = client_of(cluster, in_flight_bytes_max=100_000)
            await asyncio.gather(*(one(client, number) for number in range(500)))
            assert (client.in_flight, client.held_bytes) == (0, 0)
            for number in range(200):
                if client.held_bytes >= 100_000:
                    with pytest.raises(Overloaded):
                        client.submit("key", "Note", "x")
                    break
                client.submit(f"key-{number}", "Note", "x" * 1_000)
            assert client.held_bytes >= 100_000
            await client.close()
            assert (client.in_flight, client.held_bytes) == (0, 0)

        run(work())
        assert 90_000 < most < 100_000 + PROMISED_MAX * 1_100

    def test_what_a_client_holds_is_bounded_and_room_is_given_in_order(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])
        most = 0

        async def one(client: CommandClient, index: int) -> None:
            nonlocal most
            await client.room()
            answer = client.submit("key", "Note", str(index))
            most = max(most, client.in_flight)
            await answer

        async def work() -> None:
            client = client_of(cluster, in_flight_max=10)
            waiting = [asyncio.create_task(one(client, index)) for index in range(100)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded):
                client.submit("key", "Note", "one too many")
            waiting[50].cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
            assert client.in_flight == 0
            await client.room()

        run(work())
        assert most == 10
        assert [command.data for command in cluster.decided] == [str(i) for i in range(100) if i != 50]

    def test_an_entrant_that_is_cancelled_after_it_was_let_in_passes_its_place_on(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster, in_flight_max=1)
            held = client.submit("key", "Note", "1")
            entrants = [asyncio.create_task(client.room()) for _ in range(2)]
            held.add_done_callback(lambda _: entrants[0].cancel())
            await held
            await asyncio.wait_for(entrants[1], 1)
            await client.submit("key", "Note", "2")

        run(work())
        assert len(cluster.decided) == 2

    def test_a_place_that_is_not_used_goes_to_the_next_entrant(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster, in_flight_max=1)
            held = client.submit("key", "Note", "1")
            await asyncio.wait_for(asyncio.gather(*(client.room() for _ in range(3))), 1)
            assert held.done()

        run(work())
        assert len(cluster.decided) == 1

    @pytest.mark.parametrize(
        ("field", "options"),
        [
            ("data", {"data": '"\ud800"'}),
            ("metadata", {"metadata": "\udfff"}),
            ("command", {"command_type": "\ud800"}),
            ("command_id", {"command_id": "a\x00b"}),
            ("timeout_s", {"timeout_s": 0}),
            ("timeout_s", {"timeout_s": float("nan")}),
            ("expected_version", {"expected_version": -1}),
            ("expected_version", {"expected_version": "3"}),
            ("occurred_at", {"occurred_at": 2**63}),
        ],
    )
    def test_what_cannot_be_sent_is_refused_at_once_by_name(self, field: str, options: dict[str, Any]) -> None:
        cluster = FakeCluster(SHARDS, ["a"])

        async def work() -> None:
            client = client_of(cluster)
            with pytest.raises(InvalidCommand) as refused:
                client.submit(**{"partition_key": "key", "command_type": "Note", "data": "{}", **options})
            assert refused.value.field == field
            assert client.in_flight == 0
            await client.submit("key", "Note", "{}")

        run(work())
        assert len(cluster.decided) == 1


class TestClosing:
    def test_close_waits_for_what_is_under_way_and_takes_nothing_more(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.GONE_BEFORE])

        async def work() -> None:
            client = client_of(cluster)
            futures = submit(client, 5)
            await client.close()
            assert [future.result().duplicate for future in futures] == [False] * 5
            with pytest.raises(ClientClosed):
                client.submit("key", "Note", "{}")
            await client.close()

        run(work())

    @pytest.mark.parametrize("turns_late", range(3))
    def test_once_it_is_closed_no_route_is_read_also_where_a_call_fails_just_then(self, turns_late: int) -> None:
        cluster, host_dies = FakeCluster(SHARDS, ["a"]), asyncio.Event()

        async def call(host: str, payload: bytes) -> bytes:
            await host_dies.wait()
            for _ in range(turns_late):
                await asyncio.sleep(0)
            raise HostGone(host, "it died")

        cluster.call = call  # type: ignore[method-assign]

        async def work() -> None:
            client = client_of(cluster)
            (future,) = submit(client, 1)
            await asyncio.sleep(0.005)
            host_dies.set()
            await client.close(wait_s=0)
            readings = cluster.readings
            await asyncio.sleep(60)
            assert cluster.readings == readings
            assert isinstance(future.exception(), CommandTimeout)

        run(work())

    def test_close_fails_the_rest_after_its_bound_and_lets_no_one_wait_for_room(self) -> None:
        cluster = FakeCluster(SHARDS, ["a"], [Fate.ANSWERED_LATE])

        async def work() -> None:
            client = client_of(cluster, in_flight_max=2)
            futures = submit(client, 2)
            entrant = asyncio.create_task(client.room())
            await asyncio.sleep(0)
            start_s = now_s()
            await client.close(wait_s=0.25)
            assert now_s() - start_s == pytest.approx(0.25, abs=0.01)
            for future in futures:
                assert isinstance(future.exception(), CommandTimeout)
            await entrant
            assert client.in_flight == 0

        run(work())
        assert isinstance(cluster.calls[0][1], Call)
