"""Appending: fenced by epochs, gapless, all or nothing."""

from __future__ import annotations

import asyncio

import pytest

from store import EventStore, StoreRejected
from store.records import ShardAppend
from tests.contract.conftest import Opener
from tests.contract.rows import append, own, row, rows


async def test_an_append_moves_heads_and_is_read_as_it_was_written(store: EventStore) -> None:
    await own(store, "h-1", [1, 2])
    first, second = rows(1, "note-a", 700), rows(2, "note-b", 3)
    assert await store.append([ShardAppend(1, 1, 0, first), ShardAppend(2, 1, 0, second)]) == set()
    heads = await store.heads()
    assert (heads[1], heads[2], heads[3]) == (700, 3, 0)
    assert await store.read_shard(1, 0, 1000) == first
    assert await store.read_shard(2, 0, 1000) == second


async def test_of_two_claims_on_one_shard_the_first_writer_is_fenced(store: EventStore, open_another: Opener) -> None:
    assert (await own(store, "h-1", [1]))[1].epoch == 1
    assert await append(store, 1, rows(1, "note-a", 2)) == set()
    successor = await open_another()
    claims = await own(successor, "h-2", [1])
    assert claims[1] == (2, 2)
    assert await append(store, 1, rows(1, "note-a", 1, after=2)) == {1}
    assert await append(successor, 2, [row(1, 3, "note-b", 1)]) == set()
    assert [record.stream for record in await store.read_shard(1, 0, 9)] == ["note-a", "note-a", "note-b"]


async def test_a_second_claim_of_the_same_host_fences_its_first(store: EventStore) -> None:
    await own(store, "h-1", [1])
    assert (await store.claim("h-1", [1]))[1].epoch == 2
    assert await append(store, 1, rows(1, "note-a", 1)) == {1}
    assert (await store.heads())[1] == 0


async def test_a_fenced_shard_does_not_sink_the_others(store: EventStore) -> None:
    await own(store, "h-1", [1, 2, 3])
    await store.claim("h-1", [2])
    appends = [ShardAppend(number, 1, 0, rows(number, f"note-{number}", 2)) for number in (1, 2, 3)]
    assert await store.append(appends) == {2}
    heads = await store.heads()
    assert (heads[1], heads[2], heads[3]) == (2, 0, 2)
    assert (await store.read_histories({"note-2": None})).records == []


async def test_an_append_without_records_confirms_the_epoch(store: EventStore) -> None:
    await own(store, "h-1", [1, 2, 3])
    await store.claim("h-1", [2])
    confirmed = [ShardAppend(1, 1, 0), ShardAppend(2, 1, 0), ShardAppend(3, 1, 0, rows(3, "note-3", 1))]
    assert await store.append(confirmed) == {2}
    assert (await store.heads())[3] == 1


async def test_the_same_epoch_with_another_head_is_an_assertion(store: EventStore) -> None:
    await own(store, "h-1", [1, 2])
    await append(store, 1, rows(1, "note-a", 2))
    stale = [ShardAppend(1, 1, 1, [row(1, 2, "note-a", 3)]), ShardAppend(2, 1, 0, rows(2, "note-b", 1))]
    with pytest.raises(AssertionError):
        await store.append(stale)
    heads = await store.heads()
    assert (heads[1], heads[2]) == (2, 0)
    assert await append(store, 1, rows(1, "note-a", 1, after=2)) == set()


@pytest.mark.parametrize(
    "changes",
    [
        {"version": 1},
        {"command_key": "note-a/1"},
        {"data": None},
        {"data": '{"text":"\ud800"}'},
        {"recorded_at": 2**63},
    ],
    ids=["second event of one version", "command twice", "null", "lone surrogate", "over 64 bits"],
)
async def test_a_row_that_is_refused_sinks_the_whole_append(store: EventStore, changes: dict[str, object]) -> None:
    await own(store, "h-1", [1, 2])
    await append(store, 1, rows(1, "note-a", 1))
    guilty = row(1, 2, "note-a", 2)._replace(**changes)  # type: ignore[arg-type]
    with pytest.raises(StoreRejected):
        await store.append([ShardAppend(1, 1, 1, [guilty]), ShardAppend(2, 1, 0, rows(2, "note-b", 1))])
    heads = await store.heads()
    assert (heads[1], heads[2]) == (1, 0)
    assert (await store.read_histories({"note-b": None})).records == []
    assert await append(store, 1, [row(1, 2, "note-a", 2)]) == set()


async def test_one_key_twice_in_one_append_is_refused(store: EventStore) -> None:
    await own(store, "h-1", [1])
    twice = [row(1, 1, "note-a", 1, "key"), row(1, 2, "note-a", 2, "key")]
    with pytest.raises(StoreRejected):
        await append(store, 1, twice)
    assert (await store.heads())[1] == 0


async def test_one_command_may_write_to_several_streams(store: EventStore) -> None:
    await own(store, "h-1", [1])
    assert await append(store, 1, [row(1, 1, "note-a", 1, "key"), row(1, 2, "note-b", 1, "key")]) == set()
    assert (await store.heads())[1] == 2


async def test_settling_tells_heads_of_shards_that_are_still_owned(store: EventStore) -> None:
    await own(store, "h-1", [1, 2])
    await append(store, 1, rows(1, "note-a", 2))
    await store.claim("h-1", [2])
    assert await store.settle({1: 1, 2: 1}) == {1: 2}


async def test_cancelling_the_caller_leaves_a_whole_append_or_none(store: EventStore) -> None:
    await own(store, "h-1", [1])
    task = asyncio.create_task(append(store, 1, rows(1, "note-a", 400)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    head = (await store.settle({1: 1}))[1]
    assert head in (0, 400)
    assert len(await store.read_shard(1, 0, 1000)) == head
