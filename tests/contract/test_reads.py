"""Reading the log: by shard from a position, by stream from a version, many streams at once."""

from __future__ import annotations

from store import EventStore
from store.records import Histories, Snapshot
from tests.contract.rows import SHARDS, append, own, row, rows


async def test_an_empty_store_has_heads_and_routes_but_no_records(store: EventStore) -> None:
    assert await store.heads() == dict.fromkeys(range(SHARDS), 0)
    assert [route.shard for route in await store.routes()] == list(range(SHARDS))
    assert await store.read_shard(0, 0, 10) == []
    assert await store.read_stream("note-a", 0, 10) == []
    assert await store.read_histories({"note-a": None, "note-b": "a fingerprint"}) == Histories({}, [])
    assert await store.read_histories({}) == Histories({}, [])


async def test_a_shard_is_read_in_order_from_a_position(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = rows(1, "note-a", 20)
    await append(store, 1, written)
    assert await store.read_shard(1, 5, 3) == written[5:8]
    assert await store.read_shard(1, 18, 10) == written[18:]
    assert await store.read_shard(1, 20, 10) == []
    assert await store.read_shard(1, 0, 0) == []
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
    assert await store.read_histories({"note-b": None, "note-a": None, "note-c": None}) == Histories({}, right + left)
    assert (await store.read_histories({"note-a": None, "note-b": None}, 2)).records == right[:2] + left[:2]


async def test_a_history_begins_behind_the_snapshot_that_the_caller_can_use(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = [row(1, place + 1, f"note-{'abcd'[place % 4]}", place // 4 + 1) for place in range(20)]
    await append(store, 1, written)
    kept = [Snapshot(f"note-{name}", 3, "mine", '{"n": 1}', 7) for name in "abd"]
    await store.write_snapshots(kept)
    histories = await store.read_histories({"note-b": "other", "note-a": "mine", "note-d": None, "note-c": "mine"})
    assert histories.snapshots == {"note-a": kept[0], "note-b": kept[1]}
    a, b, c, d = (written[place::4] for place in range(4))
    assert histories.records == a[3:] + b + c + d
    assert (await store.read_histories({"note-a": "mine", "note-d": None}, 1)).records == [a[3], d[0]]


async def test_a_snapshot_may_be_the_last_that_there_is(store: EventStore) -> None:
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 3))
    kept = Snapshot("note-a", 3, "mine", '{"n": "Ж\\u0000"}', 7)
    await store.write_snapshots([kept])
    assert await store.read_histories({"note-a": "mine"}) == Histories({"note-a": kept}, [])


async def test_names_may_hold_what_ids_may(store: EventStore) -> None:
    await own(store, "h-1", [1])
    names = ["note-1", "note-01", 'note-"quoted"', "note-Ж'; --", "note-\U0001f600", "note-a\\b"]
    written = [row(1, place, name, 1, name) for place, name in enumerate(names, 1)]
    await append(store, 1, written)
    for record in written:
        assert (await store.read_histories({record.stream: None})).records == [record]
        assert await store.find_commands([(1, record.stream, record.stream)]) == {(1, *[record.stream] * 2): record}
