"""Pushes of committed events: each to the projection host that follows its shard, and what becomes of slow ones."""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Callable

import msgpack
import pytest

from actors.pushing import PUSH_INTERVAL_S, PUSH_PAUSE_S, Pusher
from store import EventRecord
from store.memory import MemoryStore
from tests.logs import Log, created
from tests.virtual_time import run


class Projections:
    """Projection hosts that note what they are pushed."""

    def __init__(self) -> None:
        self.pushed: dict[str, list[list[EventRecord]]] = defaultdict(list)
        self.silent: set[str] = set()
        self.gone: set[str] = set()

    async def send(self, name: str, blob: bytes) -> bool:
        self.pushed[name].append([EventRecord._make(fields) for fields in msgpack.unpackb(blob)])
        if name in self.silent:
            await asyncio.Event().wait()
        return name not in self.gone


@pytest.fixture
async def rows() -> list[EventRecord]:
    """Events of several shards."""
    store = MemoryStore("pushing", shards=4)
    records = await (await Log.on(store)).write(*(created(f"c-{number}") for number in range(8)))
    await store.close()
    assert {record.shard for record in records} == {0, 1, 2, 3}
    return records


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_each_event_goes_to_who_follows_its_shard(rows: list[EventRecord]) -> None:
    projections = Projections()
    pusher = Pusher(projections.send, in_flight_max=3)
    pusher.publish(rows)  # nobody follows anything yet
    pusher.push_to({0: "a", 1: "a", 2: "b"})
    pusher.publish(rows[:4])
    pusher.publish(rows[4:])
    await until(lambda: len(projections.pushed) == 2)
    assert projections.pushed == {
        "a": [[row for row in rows if row.shard in (0, 1)]],
        "b": [[row for row in rows if row.shard == 2]],
    }


async def test_one_that_does_not_answer_gets_a_few_and_the_others_get_all(rows: list[EventRecord]) -> None:
    projections = Projections()
    projections.silent.add("a")
    pusher = Pusher(projections.send, in_flight_max=3)
    pusher.push_to({0: "a", 1: "a", 2: "b", 3: "b"})
    for count in range(1, 11):
        pusher.publish(rows)
        while len(projections.pushed["b"]) < count:
            await asyncio.sleep(0.001)
    assert len(projections.pushed["a"]) == 3


async def test_one_that_is_gone_is_pushed_to_again_once_it_is_named_again(rows: list[EventRecord]) -> None:
    projections = Projections()
    projections.gone.add("a")
    pusher = Pusher(projections.send, in_flight_max=3)
    for count in (1, 2):
        pusher.push_to({0: "a", 1: "a", 2: "b", 3: "b"})
        for _ in range(2):
            before = len(projections.pushed["b"])
            pusher.publish(rows)
            await until(lambda before=before: len(projections.pushed["b"]) > before)  # type: ignore[misc]
            await asyncio.sleep(0)
        assert len(projections.pushed["a"]) == count


def test_pushes_of_commits_that_follow_one_another_keep_their_distance(rows: list[EventRecord]) -> None:
    async def pushed_at() -> list[tuple[float, int]]:
        loop, began, pushes = asyncio.get_running_loop(), asyncio.get_running_loop().time(), []

        async def send(name: str, blob: bytes) -> bool:
            pushes.append((loop.time() - began, len(msgpack.unpackb(blob))))
            return True

        pusher = Pusher(send, in_flight_max=100)
        pusher.push_to(dict.fromkeys(range(4), "a"))
        for _ in range(100):
            pusher.publish(rows[:1])
            await asyncio.sleep(0.001)
        await asyncio.sleep(1)
        return pushes

    pushes = run(pushed_at())
    moments = [moment for moment, _ in pushes]
    assert sum(count for _, count in pushes) == 100
    assert moments[0] == pytest.approx(PUSH_PAUSE_S, abs=1e-4)
    apart = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert apart == [pytest.approx(PUSH_INTERVAL_S, abs=1e-4)] * len(apart)
