"""Writing without a runtime, on every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from store import (
    ConcurrencyError,
    Event,
    EventRecord,
    EventRegistry,
    EventStore,
    InvalidValue,
    OutcomeUnknown,
    StoreHeld,
    StoreUnavailable,
    Superseded,
    UnknownEventType,
    taking,
)
from store.identity import shard_of
from store.records import Route, ShardAppend
from store.writing import OfflineWriter
from tests.contract.conftest import Opener
from tests.contract.rows import SHARDS, own


class Noted(Event):
    text: str


class Unregistered(Event):
    text: str


NOTES = EventRegistry([Noted])


def notes(*texts: str) -> list[Event]:
    return [Noted(text=text) for text in texts]


def writer_on(store: EventStore) -> OfflineWriter:
    return OfflineWriter(store, "a test", NOTES)


async def test_what_is_saved_is_read_back_in_order(store: EventStore) -> None:
    saved = notes("a", "b")
    ids = [event.id for event in saved]
    async with writer_on(store) as writer:
        await writer.save_events("note-1", saved, 0, partition_key="k")
        await writer.save_events("note-1", notes("c"), 2)
        events = await writer.get_events("note-1")
        assert [(event.version, event) for event in events] == list(enumerate(notes("a", "b", "c"), 1))
        assert [event.id for event in events[:2]] == ids
        assert await writer.get_events("note-1", from_version=2) == notes("c")
        assert await writer.get_events("note-2") == []
    assert [event.version for event in saved] == [1, 2]
    shard = shard_of("k", SHARDS)
    assert [record.position for record in await store.read_shard(shard, 0, 10)] == [1, 2, 3]
    assert {record.partition_key for record in await store.read_shard(shard, 0, 10)} == {"k"}


@pytest.mark.parametrize(("expected", "actual"), [(0, 3), (2, 3), (4, 3), (9, 3)])
async def test_another_version_is_told_with_both_and_nothing_is_stored(
    store: EventStore, expected: int, actual: int
) -> None:
    async with writer_on(store) as writer:
        await writer.save_events("note-1", notes("a", "b", "c"), 0, partition_key="k")
        with pytest.raises(ConcurrencyError) as caught:
            await writer.save_events("note-1", notes("d"), expected)
        assert (caught.value.expected_version, caught.value.actual_version) == (expected, actual)
        await writer.save_events("note-1", notes("d"), 3)
    assert sum((await store.heads()).values()) == 4


async def test_of_two_that_save_at_once_one_succeeds(store: EventStore) -> None:
    async with writer_on(store) as writer:
        outcomes = await asyncio.gather(
            *(writer.save_events("note-1", notes(text), 0, partition_key="k") for text in "ab"), return_exceptions=True
        )
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ConcurrencyError", "NoneType"]
        assert len(await writer.get_events("note-1")) == 1


async def test_a_stream_keeps_its_partition_key(store: EventStore) -> None:
    async with writer_on(store) as writer:
        with pytest.raises(InvalidValue, match="partition_key"):
            await writer.save_events("note-1", notes("a"), 0)
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
        with pytest.raises(InvalidValue, match="partition_key"):
            await writer.save_events("note-1", notes("b"), 1, partition_key="other")
        assert len(await writer.get_events("note-1")) == 1


@pytest.mark.parametrize(
    ("stream", "event", "key", "version", "error"),
    [
        ("note-1", Unregistered(text="x"), "k", 0, UnknownEventType),
        ("note-1", Noted(text="x"), "k\0", 0, InvalidValue),
        ("note-\0", Noted(text="x"), "k", 0, InvalidValue),
        ("note", Noted(text="x"), "k", 0, InvalidValue),
        ("no\0te-1", Noted(text="x"), "k", 0, InvalidValue),
        ("\ud800-1", Noted(text="x"), "k", 0, InvalidValue),
        ("n" * 201 + "-1", Noted(text="x"), "k", 0, InvalidValue),
        ("note-1", Noted(text="x"), "k", -1, InvalidValue),
        ("note-1", "Noted", "k", 0, InvalidValue),
        ("note-1", Noted(text="x"), "k", 2**63, InvalidValue),
        ("note-1", Noted(text="x" * 2**20), "k", 0, InvalidValue),
    ],
)
async def test_bad_input_is_refused_before_anything_is_written(
    store: EventStore, stream: str, event: Any, key: str, version: int, error: type[Exception]
) -> None:
    async with writer_on(store) as writer:
        with pytest.raises(error):
            await writer.save_events(stream, [Noted(text="first"), event], version, partition_key=key)
    assert sum((await store.heads()).values()) == 0


@pytest.mark.parametrize(
    ("stream", "version", "field"),
    [
        ("note", 0, "stream"),
        ("\ud800-1", 0, "stream"),
        ("note-1", -1, "from_version"),
        ("note-1", 2**63, "from_version"),
    ],
)
async def test_what_can_be_no_stream_or_version_is_not_looked_for(
    store: EventStore, stream: str, version: int, field: str
) -> None:
    with pytest.raises(InvalidValue) as refused:
        await writer_on(store).get_events(stream, version)
    assert refused.value.field == field


async def test_a_held_store_is_left_alone(store: EventStore, open_another: Opener) -> None:
    generation = await store.take("a runtime")

    async def keep_beating() -> None:
        while True:
            await store.beat(generation)
            await asyncio.sleep(0.02)

    beating = asyncio.create_task(keep_beating())
    with pytest.raises(StoreHeld, match="a runtime"):
        async with writer_on(await open_another()):
            pytest.fail("the store was taken")
    beating.cancel()
    await asyncio.gather(beating, return_exceptions=True)
    await store.beat(generation)


async def test_a_writer_holds_the_store_and_gives_it_back(store: EventStore, open_another: Opener) -> None:
    async with writer_on(store) as writer:
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
        other = await open_another()
        for holder in ("a runtime", "a test"):
            with pytest.raises(StoreHeld, match="a test"):
                await other.take(holder)
        with pytest.raises(StoreHeld):
            async with writer_on(other):
                pytest.fail("two writers hold the store")
    assert {route.host for route in await store.routes()} == {None}
    assert await store.writers() == {}
    assert await store.take("b") == 2


async def test_who_lost_the_store_writes_nothing_more(
    store: EventStore, open_another: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OfflineWriter, "_beat", _stand_still)
    other = await open_another()

    async def outlive_oneself() -> None:
        async with writer_on(store) as writer:
            await writer.save_events("note-1", notes("a"), 0, partition_key="k")
            async with writer_on(other) as successor:
                await successor.save_events("note-1", notes("b"), 1)
                with pytest.raises((Superseded, StoreUnavailable)):
                    await writer.save_events("note-1", notes("zombie"), 2)
                assert await successor.get_events("note-1") == notes("a", "b")
            await writer.save_events("note-2", notes("zombie"), 0, partition_key="other")

    with pytest.raises(Superseded):
        await outlive_oneself()
    assert sum((await other.heads()).values()) == 2


async def _stand_still(self: OfflineWriter) -> None:
    await asyncio.Event().wait()


async def test_it_beats_while_it_holds(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "WATCH_S", 0.05)
    beats = 0
    original, twice = store.beat, asyncio.Event()

    async def counted(generation: int) -> None:
        nonlocal beats
        await original(generation)
        beats += 1
        if beats == 2:
            twice.set()

    monkeypatch.setattr(store, "beat", counted)
    async with writer_on(store):
        await asyncio.wait_for(twice.wait(), 5)
    assert beats >= 2


@pytest.mark.parametrize("stored", [True, False])
async def test_a_lost_reply_is_settled(store: EventStore, monkeypatch: pytest.MonkeyPatch, stored: bool) -> None:
    original, calls = store.append, 0

    async def lose_the_first_reply(appends: Sequence[ShardAppend]) -> set[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            if stored:
                await original(appends)
            raise OutcomeUnknown("the line is dead")
        return await original(appends)

    monkeypatch.setattr(store, "append", lose_the_first_reply)
    async with writer_on(store) as writer:
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
        await writer.save_events("note-1", notes("b"), 1)
        assert await writer.get_events("note-1") == notes("a", "b")


async def test_a_shard_of_another_host_is_taken_over(store: EventStore) -> None:
    claims = await own(store, "h-1", range(SHARDS))
    await store.release(1)
    async with writer_on(store) as writer:
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
    shard = shard_of("k", SHARDS)
    assert (await store.routes())[shard] == Route(shard, None, claims[shard].epoch + 1)


async def test_writing_outside_the_block_is_an_error(store: EventStore) -> None:
    writer = writer_on(store)
    with pytest.raises(RuntimeError, match="async with"):
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
    assert await writer.get_events("note-1") == []


async def test_a_stored_event_saved_again_is_another_one(store: EventStore) -> None:
    async with writer_on(store) as writer:
        await writer.save_events("note-1", notes("a"), 0, partition_key="k")
        (copied,) = await writer.get_events("note-1")
        first_id = copied.id
        await writer.save_events("note-2", [copied], 0, partition_key="k")
        (second,) = await writer.get_events("note-2")
    assert second.id != first_id
    assert isinstance(second.envelope, EventRecord)
    assert (second, second.version) == (copied, 1)
