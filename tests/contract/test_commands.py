"""Finding commands by their ids: the memory of exactly-once."""

from __future__ import annotations

from store import EventStore
from tests.contract.rows import append, own, row


async def test_a_command_is_found_by_shard_key_and_stream(store: EventStore) -> None:
    await own(store, "h-1", [1, 2])
    first = row(1, 1, "note-a", 1, "key")
    await append(store, 1, [first, row(1, 2, "note-a", 2), row(1, 3, "note-b", 1, "other")])
    keys = [(1, "key", "note-a"), (1, "key", "note-b"), (2, "key", "note-a"), (1, "none", "note-a")]
    assert await store.find_commands(keys) == {(1, "key", "note-a"): first}
    assert await store.find_commands([]) == {}


async def test_numbers_as_keys_stay_text(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = row(1, 1, "note-7", 1, "007")
    await append(store, 1, [written])
    assert await store.find_commands([(1, "007", "note-7"), (1, "7", "note-7")]) == {(1, "007", "note-7"): written}


async def test_a_thousand_commands_are_found_in_one_call(store: EventStore) -> None:
    await own(store, "h-1", [1])
    written = [row(1, place, f"note-{place}", 1, f"key-{place}") for place in range(1, 1001)]
    await append(store, 1, written)
    found = await store.find_commands([(1, f"key-{place}", f"note-{place}") for place in range(501, 1501)])
    assert sorted(found.values()) == written[500:]
