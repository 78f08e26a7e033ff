"""Test tools: a store's checkpoints and parked keys as they are, for stores under test that change other calls only."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from store import EventStore
from store.ports import Wish
from store.records import Advance, Checkpoint, ParkedKey


class Forwarding:
    """Hands on to the store behind it."""

    inner: EventStore

    async def keep_checkpoints(self, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        return await self.inner.keep_checkpoints(subscriber, begin)

    async def move_checkpoints(self, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
        return await self.inner.move_checkpoints(subscriber, advances)

    async def checkpoints(self, subscriber: str) -> dict[int, Checkpoint]:
        return await self.inner.checkpoints(subscriber)

    async def parked(self, handler: str | None = None, wished: bool = False) -> list[ParkedKey]:
        return await self.inner.parked(handler, wished)

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
