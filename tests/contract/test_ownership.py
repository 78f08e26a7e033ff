"""Ownership: who holds the store, who is meant to serve a shard, who may write it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from store import EventStore, StoreHeld, Superseded, taking
from store.records import Route
from tests.contract.conftest import Opener
from tests.contract.rows import SHARDS, own


async def test_a_new_store_is_taken_at_once_and_generations_rise(store: EventStore) -> None:
    assert await store.take("a") == 1
    await store.release(1)
    assert await store.take("b") == 2


async def test_the_holder_itself_takes_it_again_at_once_and_its_past_is_superseded(store: EventStore) -> None:
    first = await store.take("a")
    second = await store.take("a")
    assert second == first + 1
    await store.beat(second)
    with pytest.raises(Superseded):
        await store.beat(first)
    with pytest.raises(Superseded):
        await store.assign(first, {0: "h-1"})
    assert (await store.routes())[0].host is None


async def test_a_store_whose_holder_beats_is_held(store: EventStore, open_another: Opener) -> None:
    generation = await store.take("a")

    async def keep_beating() -> None:
        while True:
            await store.beat(generation)
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(keep_beating())
    with pytest.raises(StoreHeld, match="a"):
        await (await open_another()).take("b")
    beating.cancel()
    with suppress(asyncio.CancelledError):
        await beating
    await store.beat(generation)


async def test_a_store_whose_beat_stands_is_taken_over(store: EventStore, open_another: Opener) -> None:
    first = await store.take("a")
    second = await (await open_another()).take("b")
    assert second == first + 1
    with pytest.raises(Superseded):
        await store.beat(first)


async def test_of_two_that_take_over_at_once_one_gets_it(store: EventStore, open_another: Opener) -> None:
    await store.take("a")
    takers = [await open_another(), await open_another()]
    outcomes = await asyncio.gather(takers[0].take("b"), takers[1].take("c"), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["StoreHeld", "int"]


async def test_releasing_with_an_old_generation_changes_nothing(store: EventStore) -> None:
    first = await store.take("a")
    second = await store.take("a")
    await store.release(first)
    await store.beat(second)
    await store.release(second)
    with pytest.raises(Superseded):
        await store.beat(second)


async def test_a_claim_gets_only_what_is_assigned_to_it(store: EventStore) -> None:
    generation = await store.take("a")
    await store.assign(generation, {0: "h-1", 1: "h-2", 2: "h-1"})
    assert await store.claim("h-1", [0, 1, 3]) == {0: (1, 0)}
    assert await store.claim("h-3", range(SHARDS)) == {}
    assert set(await store.writers()) == {"h-1"}
    assert (await store.routes())[:4] == [
        Route(0, "h-1", 1),
        Route(1, "h-2", 0),
        Route(2, "h-1", 0),
        Route(3, None, 0),
    ]


async def test_a_shard_can_be_assigned_to_nobody(store: EventStore) -> None:
    generation = await store.take("a")
    await store.assign(generation, {0: "h-1"})
    await store.assign(generation, {0: None})
    assert await store.claim("h-1", [0]) == {}
    assert (await store.routes())[0].host is None


async def test_how_many_hosts_are_wanted_outlives_the_runtime_that_said_it(
    store: EventStore, open_another: Opener
) -> None:
    other = await open_another()
    assert await other.hosts_wanted() is None
    generation = await store.take("a")
    await store.want_hosts(generation, 3)
    await store.want_hosts(generation, 2)
    await store.release(generation)
    with pytest.raises(Superseded):
        await store.want_hosts(generation, 5)
    assert await other.hosts_wanted() == 2


async def test_who_holds_the_store_is_told(store: EventStore) -> None:
    assert (await store.holding()).released
    generation = await store.take("a")
    await store.beat(generation)
    assert await store.holding() == (generation, 2, "a", False)


async def test_writers_are_forgotten_when_the_store_is_given_back(store: EventStore) -> None:
    await own(store, "h-1", [0])
    assert set(await store.writers()) == {"h-1"}
    await store.release(1)
    assert await store.writers() == {}


async def test_ending_an_unknown_writer_or_oneself_ends_nothing(store: EventStore) -> None:
    await own(store, "h-1", [0])
    assert await store.end_writer("h-9") is False
    assert await store.end_writer("h-1") is False
    assert await store.claim("h-1", [0]) == {0: (2, 0)}


async def test_openers_see_one_store(store: EventStore, open_another: Opener) -> None:
    other = await open_another()
    assert (other.store_id, other.shards) == (store.store_id, SHARDS)
    await own(store, "h-1", [5])
    assert (await other.routes())[5] == Route(5, "h-1", 1)


async def test_closing_twice_is_safe(store: EventStore) -> None:
    await store.close()
    await store.close()
    assert store.shards == SHARDS


async def test_a_holder_that_beats_at_the_last_moment_keeps_the_store(
    store: EventStore, open_another: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    generation = await store.take("a")
    original = taking.watch

    async def watch_then_beat(read: Callable[[], Awaitable[taking.Holding]], holder: str) -> taking.Holding:
        seen = await original(read, holder)
        await store.beat(generation)
        return seen

    monkeypatch.setattr(taking, "watch", watch_then_beat)
    with pytest.raises(StoreHeld):
        await (await open_another()).take("b")
    await store.beat(generation)
