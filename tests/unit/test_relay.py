"""The relay of a process manager, in virtual time: how long a key rests, what is bounded, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from itertools import pairwise
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, MetaData, Table, Text

from actors.customers import CustomerCreated
from actors.errors import CommandTimeout
from projections.changes import Changes
from projections.errors import ReadModelUnavailable
from projections.issuing import Issued
from projections.outbox import Outbox
from projections.outbox_sql import Ending, Outcome, Waiting
from projections.process_manager import ProcessManager
from projections.relay import Relay, RelayLimits
from tests.virtual_time import run

rows = Table("rows", MetaData(), Column("id", Text, primary_key=True))


class Manager(ProcessManager):
    tables: ClassVar = [rows]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None: ...


def waiting(number: int, key: str, shard: int = 0) -> Waiting:
    return Waiting(Issued(shard, number, 0, f"id-{number}", key, "Open", "{}", 0, ""), 0)


class OutboxInMemory(Outbox):
    """What is asked of an outbox, without SQL."""

    def __init__(self, *keys: str) -> None:
        self.process_manager = Manager
        self.rows = [waiting(number, key) for number, key in enumerate(keys, 1)]
        self.left: list[Outcome] = []
        self.looks = 0
        self.broken = False

    async def waiting(self, shards: Collection[int], but: Collection[str], limit: int) -> list[Waiting]:
        if self.broken:
            raise ReadModelUnavailable("it is away")
        self.looks += 1
        found = [each for each in self.rows if each.command.shard in shards and each.command.partition_key not in but]
        return sorted(found)[:limit]

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        if self.broken:
            raise ReadModelUnavailable("it is away")
        for outcome in outcomes:
            place = self.rows.index(outcome.waiting)
            if outcome.ending is Ending.AGAIN:
                self.rows[place] = outcome.waiting._replace(attempts=outcome.waiting.attempts + 1)
            else:
                self.left.append(outcome)
                del self.rows[place]

    async def holds(self, shard: int, position: int) -> bool:
        if self.broken:
            raise ReadModelUnavailable("it is away")
        return any(each.command.position <= position for each in self.rows)


class Hosts:
    """Fails each command of some keys; takes `answer_s` for the others."""

    def __init__(self, *failing: str, answer_s: float = 0.0) -> None:
        self.failing, self.answer_s = set(failing), answer_s
        self.prompt: set[str] = set()
        """Keys whose commands are answered at once."""
        self.times: dict[str, list[float]] = {}
        self.under_way = self.under_way_most = 0

    async def submit(self, command: Issued) -> None:
        self.times.setdefault(command.command_id, []).append(asyncio.get_running_loop().time())
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        await asyncio.sleep(0.0 if command.partition_key in self.prompt else self.answer_s)
        self.under_way -= 1
        if command.partition_key in self.failing:
            raise CommandTimeout(command.command_id, 0)


def relay_of(outbox: Outbox, hosts: Hosts, **limits: Any) -> Relay:
    loop = asyncio.get_running_loop()
    return Relay(outbox, hosts, lambda: [0], RelayLimits(**limits), clock=loop.time)


async def for_a_while(relay: Relay, seconds: float) -> None:
    running = asyncio.create_task(relay.run())
    await asyncio.sleep(seconds)
    relay.stop()
    await running


def test_a_failing_command_is_tried_for_ever_ever_more_slowly() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory("a", "a", "b"), Hosts("a")
        await for_a_while(relay_of(outbox, hosts), 3_600)
        times = hosts.times["id-1"]
        pauses = [later - earlier for earlier, later in pairwise(times)]
        for pause, least in zip(pauses, (0.5, 1, 2, 4, 8, 16, 32, *[60] * len(pauses)), strict=False):
            assert least <= pause < least + 0.7
        assert len(pauses) > 50
        assert "id-2" not in hosts.times
        assert [outcome.waiting.command.command_id for outcome in outbox.left] == ["id-3"]
        assert outbox.rows[0].attempts == len(times)

    run(work())


def test_what_is_under_way_is_bounded() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory(*(f"key-{number}" for number in range(50))), Hosts(answer_s=1.0)
        await for_a_while(relay_of(outbox, hosts, under_way_max=7), 20)
        assert (outbox.rows, hosts.under_way_most) == ([], 7)

    run(work())


@pytest.mark.parametrize(("resting_max", "waits"), [(2, True), (3, False)])
def test_keys_that_rest_are_bounded_and_others_come_on_all_the_same(resting_max: int, waits: bool) -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory("a", "b", "c"), Hosts("a", "b")
        began_s = asyncio.get_running_loop().time()
        await for_a_while(relay_of(outbox, hosts, under_way_max=2, resting_max=resting_max), 60)
        ((sent_s,), tried) = hosts.times["id-3"], [*hosts.times["id-1"], *hosts.times["id-2"]]
        assert (sent_s - began_s >= 0.5) is waits, "as long as two keys rest, no third is looked for"
        assert len(tried) > 8

    run(work())


def test_however_many_keys_always_fail_others_are_sent_at_once() -> None:
    """Each attempt takes as long as a host that has stopped, or is full, lets its client wait."""

    async def work() -> None:
        failing = [f"failing-{number:02}" for number in range(60)]
        outbox, hosts = OutboxInMemory(*failing), Hosts(*failing, answer_s=30.0)
        relay, loop = relay_of(outbox, hosts, under_way_max=10), asyncio.get_running_loop()
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(600)
        looks = outbox.looks
        for number in range(1_000, 1_010):
            hosts.prompt.add(key := f"well-{number}")
            outbox.rows.append(waiting(number, key))
            asked_s = loop.time()
            relay.wake()
            while not hosts.times.get(f"id-{number}"):
                await asyncio.sleep(0.01)
            assert loop.time() - asked_s < 0.1
            await asyncio.sleep(60)
        assert outbox.looks - looks < 1_000, "it does not look for what there is no room for"
        assert all(len(hosts.times[f"id-{number}"]) >= 2 for number in range(1, 61)), "they have their turns, too"
        assert hosts.under_way_most <= 10
        relay.stop()
        await running

    run(work())


def test_a_shard_with_a_long_backlog_leaves_room_to_others() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory(), Hosts(answer_s=1.0)
        outbox.rows = [waiting(number, f"key-{number}") for number in range(1, 501)]
        outbox.rows += [waiting(1_001, "other", shard=1), waiting(1_002, "third", shard=2)]
        began_s = asyncio.get_running_loop().time()
        relay = Relay(outbox, hosts, lambda: [0, 1, 2], RelayLimits(under_way_max=5), asyncio.get_running_loop().time)
        await for_a_while(relay, 200)
        assert all(hosts.times[f"id-{number}"][0] - began_s < 5 for number in (1_001, 1_002))
        assert outbox.rows == []

    run(work())


def test_an_idle_one_looks_once_a_second_and_at_once_when_it_is_woken() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory(), Hosts()
        relay = relay_of(outbox, hosts)
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(10.5)
        assert outbox.looks == 11
        outbox.rows = OutboxInMemory("a").rows
        began = asyncio.get_running_loop().time()
        relay.wake()
        await relay.until_sent(0, 1)
        assert asyncio.get_running_loop().time() - began < 0.1
        relay.stop()
        await running

    run(work())


def test_while_the_outbox_is_away_nothing_is_sent_twice_and_then_it_goes_on() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory("a", "b"), Hosts(answer_s=1.0)
        relay = relay_of(outbox, hosts)
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0.5)
        outbox.broken = True
        await asyncio.sleep(60)
        assert "it is away" in relay.state().failure
        assert 55 < relay.state().failing_s < 61
        outbox.broken = False
        await relay.until_sent(0, 2)
        assert {command_id: len(times) for command_id, times in hosts.times.items()} == {"id-1": 1, "id-2": 1}
        assert (relay.state().failure, relay.state().failing_s, relay.state().acknowledged) == ("", 0.0, 2)
        relay.stop()
        await running

    run(work())


def test_who_waits_while_the_outbox_is_away_waits_on() -> None:
    """The command did succeed: no other error than that it takes too long is of use to its caller."""

    async def work() -> None:
        outbox = OutboxInMemory("a")
        relay = relay_of(outbox, Hosts())
        outbox.broken = True
        waiting = asyncio.create_task(relay.until_sent(0, 1))
        await asyncio.sleep(5)
        assert not waiting.done()
        outbox.broken = False
        await for_a_while(relay, 5)
        await waiting

    run(work())


def test_of_a_shard_that_was_let_go_nothing_more_is_sent_than_what_is_under_way() -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory("a", "a", "a"), Hosts(answer_s=1.0)
        shards = [0]
        relay = Relay(outbox, hosts, lambda: shards, clock=asyncio.get_running_loop().time)
        running = asyncio.create_task(relay.run())
        await asyncio.sleep(0.5)
        shards.clear()
        await asyncio.sleep(10)
        assert list(hosts.times) == ["id-1"]
        assert [each.command.command_id for each in outbox.rows] == ["id-2", "id-3"]
        shards.append(0)
        await relay.until_sent(0, 3)
        assert {command_id: len(times) for command_id, times in hosts.times.items()} == {
            "id-1": 1,
            "id-2": 1,
            "id-3": 1,
        }
        relay.stop()
        await running

    run(work())


@pytest.mark.parametrize(("answer_s", "left"), [(0.5, []), (100.0, ["id-1"])])
def test_it_ends_soon_and_what_is_not_acknowledged_stays(answer_s: float, left: list[str]) -> None:
    async def work() -> None:
        outbox, hosts = OutboxInMemory("a"), Hosts(answer_s=answer_s)
        began = asyncio.get_running_loop().time()
        await for_a_while(relay_of(outbox, hosts), 0.1)
        assert asyncio.get_running_loop().time() - began < 1.5
        assert [each.command.command_id for each in outbox.rows] == left

    run(work())
