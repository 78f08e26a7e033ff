"""A store that hands all calls on to the one behind it, for those that add something to a few of them.

Not here: what is added (`cluster/metrics/` measures, tests let calls fail).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence

from store.ports import EventStore, Wish
from store.records import (
    Advance,
    AuditResult,
    Checkpoint,
    Claim,
    EventRecord,
    Histories,
    ParkedCount,
    ParkedKey,
    Route,
    ShardAppend,
    Snapshot,
    SnapshotPlace,
    Writer,
)
from store.taking import Holding

Keys = Collection[tuple[int, str, str]]


class Forwarding:
    """An `EventStore` that does nothing of its own."""

    inner: EventStore

    @property
    def store_id(self) -> str:
        return self.inner.store_id

    @property
    def shards(self) -> int:
        return self.inner.shards

    async def close(self) -> None:
        await self.inner.close()

    # Reading

    async def heads(self) -> dict[int, int]:
        return await self.inner.heads()

    async def routes(self) -> list[Route]:
        return await self.inner.routes()

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        return await self.inner.read_shard(shard, after_position, limit)

    async def read_stream(self, stream: str, after_version: int, limit: int) -> Sequence[EventRecord]:
        return await self.inner.read_stream(stream, after_version, limit)

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        return await self.inner.read_histories(fingerprints, limit)

    async def read_snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        return await self.inner.read_snapshots(streams)

    def snapshot_places(self) -> AsyncIterator[Sequence[SnapshotPlace]]:
        return self.inner.snapshot_places()

    async def find_commands(self, keys: Keys) -> dict[tuple[int, str, str], EventRecord]:
        return await self.inner.find_commands(keys)

    # Writing

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        return await self.inner.append(appends)

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        return await self.inner.settle(epochs)

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        await self.inner.write_snapshots(snapshots)

    # Ownership

    async def take(self, holder: str) -> int:
        return await self.inner.take(holder)

    async def holding(self) -> Holding:
        return await self.inner.holding()

    async def beat(self, generation: int) -> None:
        await self.inner.beat(generation)

    async def release(self, generation: int) -> None:
        await self.inner.release(generation)

    async def assign(self, generation: int, assignments: Mapping[int, str | None]) -> None:
        await self.inner.assign(generation, assignments)

    async def want_hosts(self, generation: int, count: int) -> None:
        await self.inner.want_hosts(generation, count)

    async def hosts_wanted(self) -> int | None:
        return await self.inner.hosts_wanted()

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        return await self.inner.claim(host, shards)

    async def end_writer(self, host: str) -> bool:
        return await self.inner.end_writer(host)

    async def writers(self) -> dict[str, Writer]:
        return await self.inner.writers()

    # Checkpoints and parked keys

    async def keep_checkpoints(self, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        return await self.inner.keep_checkpoints(subscriber, begin)

    async def move_checkpoints(self, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
        return await self.inner.move_checkpoints(subscriber, advances)

    async def checkpoints(self, subscriber: str) -> dict[int, Checkpoint]:
        return await self.inner.checkpoints(subscriber)

    async def parked(self, handler: str | None = None, wished: bool = False) -> list[ParkedKey]:
        return await self.inner.parked(handler, wished)

    async def parked_counts(self) -> dict[str, ParkedCount]:
        return await self.inner.parked_counts()

    async def advance(
        self, handler: str, advances: Sequence[Advance], parks: Sequence[ParkedKey], passed: Mapping[int, set[str]]
    ) -> dict[int, int]:
        return await self.inner.advance(handler, advances, parks, passed)

    async def keep_parked(self, before: ParkedKey, after: ParkedKey) -> bool:
        return await self.inner.keep_parked(before, after)

    async def unpark(self, before: ParkedKey, checkpoint: int) -> bool:
        return await self.inner.unpark(before, checkpoint)

    async def wish(self, handler: str, partition_keys: Collection[str] | None, wish: Wish) -> int:
        return await self.inner.wish(handler, partition_keys, wish)

    async def reset(self, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
        await self.inner.reset(subscriber, to)

    # Audits

    async def keep_audit(self, result: AuditResult) -> None:
        await self.inner.keep_audit(result)

    async def audits(self) -> list[AuditResult]:
        return await self.inner.audits()
