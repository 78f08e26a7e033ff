"""Rows for the contract suite, and the shortest way to own shards."""

from __future__ import annotations

from collections.abc import Iterable

from store import EventRecord, EventStore
from store.identity import uuid7
from store.records import Claim, ShardAppend

SHARDS = 8


def row(shard: int, position: int, stream: str, version: int, command_key: str | None = None) -> EventRecord:
    """A record with plausible other columns, some of them hard to carry."""
    return EventRecord(
        shard=shard,
        position=position,
        stream=stream,
        version=version,
        partition_key=stream.partition("-")[2],
        event_id=uuid7().bytes,
        type="NoteTaken",
        schema_version=3,
        data='{"text":"Zoë said \\"5 €\\" \\u0000 \U0001f600","amount":12345678901234567890.12}',
        metadata="{}",
        command_key=command_key,
        key_id=None,
        recorded_at=1_764_000_000_123_456,
    )


def rows(shard: int, stream: str, count: int, after: int = 0) -> list[EventRecord]:
    """Records of one stream that is alone in its shard: positions are versions."""
    return [row(shard, number, stream, number, f"{stream}/{number}") for number in range(after + 1, after + count + 1)]


async def own(store: EventStore, host: str, shards: Iterable[int]) -> dict[int, Claim]:
    """Take the store as `runtime`, assign the shards to `host` and claim them for it."""
    numbers = list(shards)
    generation = await store.take("runtime")
    await store.assign(generation, dict.fromkeys(numbers, host))
    return await store.claim(host, numbers)


async def append(store: EventStore, epoch: int, records: list[EventRecord]) -> set[int]:
    """Append records of one shard."""
    return await store.append([ShardAppend(records[0].shard, epoch, records[0].position - 1, records)])
