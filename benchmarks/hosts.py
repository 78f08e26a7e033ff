"""What the hosts of a runtime on this Ray say of themselves."""

from __future__ import annotations

import asyncio

import ray

from actors.health import HostHealth
from cluster.ray_edge import namespace_of
from store.opening import open_store


async def healths(url: str, events: int) -> list[HostHealth]:
    """Return the health of each host of a store's runtime, once they have counted so many events since they began."""
    store = await open_store(url, create=False)
    try:
        hosts = {route.host for route in await store.routes() if route.host is not None}
        namespace = namespace_of(store.store_id)
    finally:
        await store.close()
    handles = [await asyncio.to_thread(ray.get_actor, host, namespace=namespace) for host in hosts]
    async with asyncio.timeout(10):
        while True:
            found: list[HostHealth] = await asyncio.gather(*(handle.health.remote() for handle in handles))
            if sum(health.events for health in found) == events:
                return found
            await asyncio.sleep(0.05)
