"""What a client knows of who serves which shard, and reading it again: one reading at a time.

Not here: who decides on routes (the coordinator, in SQL), and when a client should doubt them (`sending.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from cluster.limits import ClientLimits
from store.errors import EventrayError
from store.records import Route

log = structlog.get_logger(__name__)


class Routes(Protocol):
    """Where routes are read: the store, or the coordinator."""

    async def routes(self) -> list[Route]:
        """Return who serves each shard. Raises an EventrayError where that can't be told now."""
        ...


class RouteTable:
    """The routes as last read, for one event loop."""

    def __init__(self, source: Routes, limits: ClientLimits, on_read: Callable[[], None]) -> None:
        """`on_read` is called after each reading, also one that failed and left the routes as they were."""
        self._source = source
        self._limits = limits
        self._on_read = on_read
        self._loop = asyncio.get_running_loop()
        self._routes: dict[int, Route] = {}
        self._reading: asyncio.Task[list[Route]] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._in_vain = 0
        self._closed = False
        self.read_s = float("-inf")
        """When the last reading began or ended, on the event loop's clock."""

    def get(self, shard: int) -> Route | None:
        """Return the route of a shard that has a host, None for one that has none or is not known yet."""
        return self._routes.get(shard)

    def read(self) -> None:
        """Read the routes anew, unless a reading is under way or the table is closed."""
        if self._reading is None and not self._closed:
            self.read_s = self._loop.time()
            self._reading = self._loop.create_task(self._source.routes())
            self._reading.add_done_callback(self._finish)

    def read_again(self) -> None:
        """Read the routes anew after a pause that grows each time until `satisfied`; at once the first time."""
        if self._again is None and self._reading is None:
            pause_s = self._limits.pause_s(self._in_vain) if self._in_vain else 0.0
            self._in_vain += 1
            self._again = self._loop.call_later(pause_s, self._read_now)

    def satisfied(self) -> None:
        """The routes tell all that was asked of them."""
        self._in_vain = 0

    def close(self) -> None:
        """Stop reading, for good."""
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        if self._reading is not None:
            self._reading.cancel()

    def _read_now(self) -> None:
        self._again = None
        self.read()

    def _finish(self, reading: asyncio.Task[list[Route]]) -> None:
        self._reading = None
        if reading.cancelled():
            return
        self.read_s = self._loop.time()
        error = reading.exception()
        if error is None:
            self._routes = {route.shard: route for route in reading.result() if route.host is not None}
        else:
            unexpected = None if isinstance(error, EventrayError) else error
            log.warning("the routes can't be read", reason=str(error), exc_info=unexpected)
        self._on_read()
