"""Taking a store for writing: when one that somebody holds may be taken over.

The rule only, shared by the backends. Not here: where holder and beat are kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from store.errors import StoreHeld

WATCH_S = 3.0
"""How long a beat is watched before it is held to stand still."""
LOOKS = 10


class Holding(NamedTuple):
    """Who holds the store, as read in one snapshot."""

    generation: int
    beat: int
    holder: str | None
    released: bool

    def free_for(self, holder: str) -> bool:
        """Tell whether `holder` may take the store at once."""
        return self.released or self.holder is None or self.holder == holder


async def watch(read: Callable[[], Awaitable[Holding]], holder: str) -> Holding:
    """Return the holding that `holder` may take over: free, or with a beat that stood still for WATCH_S seconds.

    Raises StoreHeld as soon as the beat moves. The caller takes it by an update conditional on what is returned.
    """
    first = await read()
    if first.free_for(holder):
        return first
    for _ in range(LOOKS):
        await asyncio.sleep(WATCH_S / LOOKS)
        now = await read()
        if now.free_for(holder):
            return now
        if now[:3] != first[:3]:
            raise StoreHeld(str(now.holder))
    return first
