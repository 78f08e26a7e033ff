"""Checkpoints of subscribers without a read model: kept once, moved only from where they are."""

from __future__ import annotations

import asyncio

from store import EventStore
from store.records import Advance, Checkpoint
from tests.contract.conftest import Opener


async def test_a_checkpoint_is_kept_once_and_goes_before_what_is_given_later(
    store: EventStore, open_another: Opener
) -> None:
    first = {0: Checkpoint(0, None), 2: Checkpoint(7, b"seven")}
    assert await store.keep_checkpoints("audit", first) == first
    other = await open_another()
    later = {0: Checkpoint(3, b"three"), 1: Checkpoint(4, b"four"), 2: Checkpoint(9, b"nine")}
    assert await other.keep_checkpoints("audit", later) == {**later, **first}
    assert await other.keep_checkpoints("Audit", {0: Checkpoint(5, b"five")}) == {0: Checkpoint(5, b"five")}


async def test_a_checkpoint_moves_only_from_where_it_is(store: EventStore) -> None:
    await store.keep_checkpoints("audit", {shard: Checkpoint(0, None) for shard in range(3)})
    moved = await store.move_checkpoints("audit", [Advance(0, 0, 5, b"five"), Advance(2, 0, 2, b"two")])
    assert moved == {0: 5, 2: 2}
    moved = await store.move_checkpoints("audit", [Advance(0, 0, 9, b"nine"), Advance(1, 0, 1, b"one")])
    assert moved == {0: 5, 1: 1}
    kept = await store.keep_checkpoints("audit", {shard: Checkpoint(0, None) for shard in range(3)})
    assert kept == {0: Checkpoint(5, b"five"), 1: Checkpoint(1, b"one"), 2: Checkpoint(2, b"two")}


async def test_of_two_that_move_it_at_once_one_does(store: EventStore, open_another: Opener) -> None:
    await store.keep_checkpoints("audit", {0: Checkpoint(0, None)})
    other = await open_another()
    found = await asyncio.gather(
        store.move_checkpoints("audit", [Advance(0, 0, 1, b"one")]),
        other.move_checkpoints("audit", [Advance(0, 0, 2, b"two")]),
    )
    assert found[0] == found[1] in ({0: 1}, {0: 2})
