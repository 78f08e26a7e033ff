"""A sink that hands all calls on to the one behind it, for those that add something to a few of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from projections.sink import Sink, Taken
from store.records import Checkpoint, EventRecord


class ForwardingSink:
    """See `Sink`."""

    def __init__(self, inner: Sink) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def subscriber(self) -> str:
        return self.inner.subscriber

    @property
    def restored_remedy(self) -> str:
        return self.inner.restored_remedy

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        return await self.inner.prepare(begin)

    def let_go(self, shards: Collection[int]) -> None:
        self.inner.let_go(shards)

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        return await self.inner.take(batch)

    async def tend(self) -> dict[int, int]:
        return await self.inner.tend()
