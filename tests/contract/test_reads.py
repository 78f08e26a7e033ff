"""Reading the log: by shard from a position, by stream from a version, many streams at once."""

from __future__ import annotations

from store import EventStore
from tests.contract.rows import SHARDS, append, own, row, rows


async def test_an_empty_store_has_heads_and_routes_but_no_records(store: EventStore) -> None:
    assert await store.heads() == dict.fromkeys(range(SHARDS), 0)
    assert [route.shard for route in await store.routes()] == list(range(SHARDS))
    assert await store.read_shard(0, 0, 10) == []
    assert await store.read_stream("note-a", 0, 10) == []
    assert await store.read_streams({"note-a": 0}) == []
    assert await store.read_streams({}) == []


async def test_a_shard_is_read_in_order_from_a_position(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = rows(1, "note-a", 20)
    await append(store, 1, written)
    assert await store.read_shard(1, 5, 3) == written[5:8]
    assert await store.read_shard(1, 18, 10) == written[18:]
    assert await store.read_shard(1, 20, 10) == []
    assert await store.read_shard(2, 0, 10) == []


async def test_a_stream_is_read_in_order_from_a_version(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = [row(1, place + 1, f"note-{place % 2}", place // 2 + 1) for place in range(20)]
    await append(store, 1, written)
    assert await store.read_stream("note-1", 0, 100) == written[1::2]
    assert await store.read_stream("note-1", 3, 2) == written[1::2][3:5]
    assert await store.read_stream("note-1", 10, 2) == []


async def test_many_streams_are_read_at_once_by_stream_and_version(store: EventStore) -> None:
    await own(store, "h-1", [1, 2])
    left, right = rows(1, "note-b", 3), rows(2, "note-a", 12)
    await append(store, 1, left)
    await append(store, 1, right)
    assert await store.read_streams({"note-b": 1, "note-a": 0, "note-none": 0}) == right + left[1:]


async def test_names_may_hold_what_ids_may(store: EventStore) -> None:
    await own(store, "h-1", [1])
    names = ["note-1", "note-01", 'note-"quoted"', "note-Ж'; --", "note-\U0001f600", "note-a\\b"]
    written = [row(1, place, name, 1, name) for place, name in enumerate(names, 1)]
    await append(store, 1, written)
    for record in written:
        assert await store.read_streams({record.stream: 0}) == [record]
        assert await store.find_commands([(1, record.stream, record.stream)]) == {(1, *[record.stream] * 2): record}
