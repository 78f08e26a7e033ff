"""Parked keys of handlers: they and the checkpoints move together, whoever else moves them."""

from __future__ import annotations

import asyncio

import pytest

from store import EventStore
from store.records import Advance, Checkpoint, ParkedCount, ParkedKey
from tests.contract.conftest import Opener


def parked(key: str, shard: int = 0, position: int = 5, handler: str = "mail", parked_at: int = 1) -> ParkedKey:
    return ParkedKey(handler, key, shard, position, b"id", 3, "it failed: ü", "line 1\nline 2", parked_at, parked_at)


@pytest.fixture
async def begun(store: EventStore) -> EventStore:
    """A store in which the handler `mail` is at position 4 of each shard."""
    await store.keep_checkpoints("mail", {shard: Checkpoint(4, b"four") for shard in range(3)})
    return store


async def test_keys_are_parked_with_the_move_past_them(begun: EventStore) -> None:
    keys = [parked("b", 1, 7), parked("a", 0, 5)]
    assert await begun.advance("mail", [Advance(0, 4, 6, b"six"), Advance(1, 4, 9, b"nine")], keys, {}) == {0: 6, 1: 9}
    assert await begun.parked("mail") == [keys[1], keys[0]]
    assert await begun.parked("other") == []
    assert await begun.parked() == [keys[1], keys[0]]
    assert await begun.checkpoints("mail") == {
        0: Checkpoint(6, b"six"),
        1: Checkpoint(9, b"nine"),
        2: Checkpoint(4, b"four"),
    }


async def test_a_shard_that_somebody_else_moved_stays_with_its_keys(begun: EventStore) -> None:
    await begun.advance("mail", [Advance(0, 4, 5, b"five")], [], {})
    late = [parked("a", 0), parked("b", 1)]
    assert await begun.advance("mail", [Advance(0, 4, 6, b"six"), Advance(1, 4, 6, b"six")], late, {}) == {0: 5, 1: 6}
    assert await begun.parked("mail") == [late[1]]


async def test_a_shard_is_not_moved_past_events_of_a_key_that_is_parked_no_more(begun: EventStore) -> None:
    row = parked("a")
    await begun.advance("mail", [Advance(0, 4, 5, b"five")], [row], {})
    assert await begun.advance("mail", [Advance(0, 5, 6, b"six")], [], {0: {"a"}}) == {0: 6}
    assert await begun.unpark(row, 6)
    moves = [Advance(0, 6, 7, b"seven"), Advance(1, 4, 5, b"five")]
    assert await begun.advance("mail", moves, [], {0: {"a"}, 1: set()}) == {0: 6, 1: 5}


async def test_a_key_is_parked_once(begun: EventStore) -> None:
    await begun.advance("mail", [Advance(0, 4, 5, b"five")], [parked("a")], {})
    assert await begun.advance("mail", [Advance(0, 5, 9, b"nine")], [parked("a", 0, 9)], {}) == {0: 5}
    assert [row.position for row in await begun.parked("mail")] == [5]


async def test_a_key_is_unparked_only_where_nothing_has_moved(begun: EventStore) -> None:
    row = parked("a")
    await begun.advance("mail", [Advance(0, 4, 6, b"six")], [row], {})
    assert not await begun.unpark(row, 5)
    later = row._replace(position=6, attempts=1)
    assert await begun.keep_parked(row, later)
    assert not await begun.keep_parked(row, later)
    assert not await begun.unpark(row, 6)
    assert await begun.unpark(later, 6)
    assert await begun.parked("mail") == []
    assert not await begun.unpark(later, 6)


async def test_of_unparking_and_moving_past_at_once_one_is_done(begun: EventStore, open_another: Opener) -> None:
    other = await open_another()
    row = parked("a")
    await begun.advance("mail", [Advance(0, 4, 5, b"five")], [row], {})
    unparked, moved = await asyncio.gather(
        begun.unpark(row, 5), other.advance("mail", [Advance(0, 5, 6, b"six")], [], {0: {"a"}})
    )
    assert (unparked, moved) in ((True, {0: 5}), (False, {0: 6}))


async def test_what_is_wished_is_kept_and_makes_the_row_another(begun: EventStore) -> None:
    rows = [parked("a"), parked("b", 1), parked("a", handler="hook")]
    await begun.keep_checkpoints("hook", {0: Checkpoint(4, b"four")})
    await begun.advance("mail", [Advance(0, 4, 5, b"five"), Advance(1, 4, 5, b"five")], rows[:2], {})
    await begun.advance("hook", [Advance(0, 4, 5, b"five")], rows[2:], {})
    assert await begun.wish("mail", ["a", "c"], "retry") == 1
    assert [row.wish for row in await begun.parked("mail")] == ["retry", ""]
    assert [row.partition_key for row in await begun.parked("mail", wished=True)] == ["a"]
    assert await begun.wish("mail", None, "discard") == 2
    assert {row.wish for row in await begun.parked("mail")} == {"discard"}
    assert not await begun.keep_parked(rows[0]._replace(wish="retry"), rows[0])
    assert await begun.parked("hook") == rows[2:]


async def test_how_much_is_parked_is_told_without_the_rows(begun: EventStore) -> None:
    assert await begun.parked_counts() == {}
    rows = [parked("a", parked_at=9), parked("b", 1, parked_at=7), parked("a", handler="hook", parked_at=3)]
    await begun.keep_checkpoints("hook", {0: Checkpoint(4, b"four")})
    await begun.advance("mail", [Advance(0, 4, 5, b"five"), Advance(1, 4, 5, b"five")], rows[:2], {})
    await begun.advance("hook", [Advance(0, 4, 5, b"five")], rows[2:], {})
    assert await begun.parked_counts() == {"mail": ParkedCount(2, 7), "hook": ParkedCount(1, 3)}


async def test_a_reset_moves_checkpoints_and_unparks_what_comes_again(begun: EventStore) -> None:
    rows = [parked("a", 0, 5), parked("b", 0, 9), parked("c", 1, 9)]
    await begun.advance("mail", [Advance(0, 4, 20, b"x"), Advance(1, 4, 20, b"x")], rows, {})
    other = parked("b", 0, 9, handler="hook")
    await begun.keep_checkpoints("hook", {0: Checkpoint(4, b"four")})
    await begun.advance("hook", [Advance(0, 4, 20, b"x")], [other], {})
    await begun.reset("mail", {0: Checkpoint(5, b"five"), 3: Checkpoint(0, None)})
    assert [row.partition_key for row in await begun.parked("mail")] == ["a", "c"]
    found = await begun.checkpoints("mail")
    assert (found[0], found[1].position, found[3]) == (Checkpoint(5, b"five"), 20, Checkpoint(0, None))
    assert await begun.parked("hook") == [other], "another handler's keys stay parked"
    assert await begun.checkpoints("hook") == {0: Checkpoint(20, b"x")}
