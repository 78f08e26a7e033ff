"""Test tools: a store on which the requests that change who may write get lost, or the replies to them."""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Mapping
from typing import Any, Literal, TypeVar

from store import EventStore, StoreUnavailable
from store.forwarding import Forwarding
from store.records import Claim

T = TypeVar("T")
Lost = Literal["request", "reply"]


class LossyStore(Forwarding):
    """What `losing` names gets lost the next time; then it is in `lost`."""

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.losing: dict[str, Lost] = {}
        """By method."""
        self.lost: list[str] = []

    async def take(self, holder: str) -> int:
        return await self._robbed("take", self.inner.take(holder))

    async def beat(self, generation: int) -> None:
        await self._robbed("beat", self.inner.beat(generation))

    async def release(self, generation: int) -> None:
        await self._robbed("release", self.inner.release(generation))

    async def assign(self, generation: int, assignments: Mapping[int, str | None]) -> None:
        await self._robbed("assign", self.inner.assign(generation, assignments))

    async def want_hosts(self, generation: int, count: int) -> None:
        await self._robbed("want_hosts", self.inner.want_hosts(generation, count))

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        return await self._robbed("claim", self.inner.claim(host, shards))

    async def _robbed(self, method: str, work: Coroutine[Any, Any, T]) -> T:
        what = self.losing.pop(method, None)
        if what is None:
            return await work
        self.lost.append(method)
        if what == "reply":
            await work
        else:
            work.close()
        raise StoreUnavailable(f"the {what} was lost", True)
