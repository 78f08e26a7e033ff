"""The projection hosts of one runtime, as the drivers reach them: whoever follows a shard now, wherever it is.

Not here: who follows what (`followed.py`), what is asked of them (`operations.py`, `subscriptions.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgpack
from ray.exceptions import RayError

from cluster.ray_edge import COORDINATOR, RayTransport, reason_of
from cluster.transport import HostGone
from projections.errors import NotFollowed
from store.records import EventRecord

ROUTES_AGE_MAX_S = 1.0
"""So often a listener looks whether other projection hosts have come."""
LOOK_S = 2.0
"""How long the coordinator may take to say who they are."""


class RayFollowers:
    """The projection hosts of one runtime; see `Followers`."""

    def __init__(self, transport: RayTransport, coordinator: Any) -> None:
        self._transport = transport
        self._coordinator = coordinator
        self._hosts: dict[str, list[int]] = {}
        """The shards of each, as the coordinator last said."""
        self._by_shard: dict[int, str] = {}
        self._asked_s = 0.0
        self._listening: dict[str, asyncio.Task[list[bytes]]] = {}
        """A call to each projection host that is listened to."""
        self._closed = False

    async def wait_for(self, projection: str, shard: int, position: int, timeout_s: float) -> None:
        if self._closed:
            raise HostGone("projections", "this runtime is closed")
        if shard not in self._by_shard:
            await self._look()
        if (host := self._by_shard.get(shard)) is None:
            raise HostGone("projections", f"nobody follows shard {shard} now")
        try:
            await self._transport.ask(host, "wait_for", projection, shard, position, timeout_s)
        except NotFollowed as error:
            self._by_shard.pop(shard, None)
            raise HostGone(host, str(error)) from error
        except HostGone:
            self._forget(host)
            raise

    async def listen(self, listener: str, timeout_s: float) -> list[EventRecord]:
        """Listen to all of them, a call to each; returns with the first that has something."""
        if asyncio.get_running_loop().time() - self._asked_s > ROUTES_AGE_MAX_S:
            with suppress(*([HostGone] if self._hosts else [])):
                await self._look()
        for host in self._hosts.keys() - self._listening.keys():
            asking = self._transport.ask(host, "listen", listener, timeout_s)
            self._listening[host] = asyncio.ensure_future(asking)
        if not self._listening:
            raise HostGone("projections", "there is none now")
        await asyncio.wait(self._listening.values(), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        blobs: list[bytes] = []
        gone: HostGone | None = None
        for host, call in [(host, call) for host, call in self._listening.items() if call.done()]:
            del self._listening[host]
            try:
                blobs += call.result()
            except HostGone as error:
                self._forget(host)
                gone = error
        if gone is not None and not blobs:
            raise gone
        return [EventRecord._make(fields) for blob in blobs for fields in msgpack.unpackb(blob)]

    async def close(self) -> None:
        """Listen no more, and ask nobody: Ray may be gone now."""
        self._closed = True
        calls, self._listening = list(self._listening.values()), {}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _look(self) -> None:
        """Ask the coordinator who follows what. Raises HostGone where it can't be asked now."""
        try:
            async with asyncio.timeout(LOOK_S):
                self._hosts = await self._coordinator.projection_hosts.remote()
        except (RayError, TimeoutError) as error:
            raise HostGone(COORDINATOR, reason_of(error)) from error
        self._by_shard = {shard: host for host, shards in self._hosts.items() for shard in shards}
        self._asked_s = asyncio.get_running_loop().time()

    def _forget(self, host: str) -> None:
        """It is gone, or another will be: the coordinator says who follows its shards."""
        for shard in self._hosts.pop(host, []):
            self._by_shard.pop(shard, None)
        self._asked_s = 0.0
