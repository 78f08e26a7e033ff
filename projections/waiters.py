"""Readers that wait until a subscriber has come as far as they need. Not here: coming there (`subscriber.py`)."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from store.errors import EventrayError


class Waiter(NamedTuple):
    """One that waits."""

    position: int
    reached: asyncio.Future[None]


class Waiters:
    """Those of one subscriber, by shard. Belongs to one event loop."""

    def __init__(self) -> None:
        self._by_shard: dict[int, list[Waiter]] = {}

    def __bool__(self) -> bool:
        return any(self._by_shard.values())

    async def wait(self, shard: int, position: int, timeout_s: float) -> None:
        """Return once the shard has come to a position. Raises TimeoutError, and what `give_up` gives."""
        waiter = Waiter(position, asyncio.get_running_loop().create_future())
        self._by_shard.setdefault(shard, []).append(waiter)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter.reached
        finally:
            if shard in self._by_shard:
                self._by_shard[shard].remove(waiter)

    def reach(self, shard: int, position: int) -> None:
        """Let those go on that waited for a position of the shard up to there."""
        for waiter in self._by_shard.get(shard, ()):
            if waiter.position <= position and not waiter.reached.done():
                waiter.reached.set_result(None)

    def give_up(self, shard: int, error: EventrayError) -> None:
        """Tell all that wait for a shard why they wait in vain."""
        for waiter in self._by_shard.pop(shard, ()):
            if not waiter.reached.done():
                waiter.reached.set_exception(error)
