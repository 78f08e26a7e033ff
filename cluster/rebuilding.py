"""A rebuild of a read model over all cores: its shards in parallel, as Ray tasks.

Not here: what is done with a shard (`projections/rebuild.py`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import NamedTuple

import ray

from cluster.application import Application
from cluster.replaying import TASK_CPUS, Watcher, over_shards
from projections.issuing import issuing_of
from projections.read_models import ReadModels
from projections.rebuild import fill, finish
from projections.tables import Build
from store.logs import configure_logs
from store.opening import open_store
from store.paging import collecting_rarely
from store.urls import shared_url


@dataclass
class Rebuilt:
    """What a rebuild came to."""

    projection: str
    version: int
    events: int = 0
    """Those that were not filled in before."""
    seconds: float = 0.0
    """From the beginning of the shard that ended first to the end: the start of Ray is not counted."""

    @property
    def events_per_s(self) -> float:
        """Events taken in a second, by all tasks together."""
        return self.events / self.seconds if self.seconds else 0.0


class Filled(NamedTuple):
    """What was done with one shard."""

    shard: int
    events: int
    seconds: float


async def rebuild(url: str, application: Application, name: str, watcher: Watcher) -> Rebuilt:
    """Fill a projection's read model anew beside the one that is read, then let it take its place.

    A runtime may go on meanwhile. One that was interrupted is gone on with. Connects to Ray, or starts it. Raises
    InvalidValue for an unknown projection, RebuildStopped, ReadModelVersion, NotAStore, StoreUnavailable,
    ReadModelUnavailable, RayUnavailable, ShardsLost.
    """
    url, projection = shared_url(url), application.projection(name)
    total = Rebuilt(name, projection.version)
    store = await open_store(url, create=False)
    read_models = ReadModels(url)
    try:
        build = await read_models.begin_rebuild(projection, range(store.shards))
        async for done in over_shards(_fill, url, application, watcher, f"Rebuilding {name}", name, build):
            total.events += done.shard.events
            total.seconds = done.seconds
        began_s = time.perf_counter()
        issuing = issuing_of(projection, application.registry, store)
        await finish(store, read_models, projection, application.registry.events, build, issuing)
        total.seconds += time.perf_counter() - began_s
    finally:
        await read_models.close()
        await store.close()
    return total


@ray.remote(num_cpus=TASK_CPUS)
def _fill(url: str, application: Application, shards: list[int], name: str, build: Build) -> list[Filled]:
    configure_logs(in_worker=True)
    registry, projection = application.registry, application.projection(name)
    done: list[Filled] = []

    async def work() -> None:
        store = await open_store(url, create=False)
        read_models = ReadModels(url)
        try:
            issuing = issuing_of(projection, registry, store)
            filling = (store, read_models, projection, registry.events, build)
            for shard in shards:
                began_s, counted = time.perf_counter(), list[int]()
                await fill(*filling, [shard], counted.append, issuing)
                done.append(Filled(shard, sum(counted), time.perf_counter() - began_s))
        finally:
            await read_models.close()
            await store.close()

    with collecting_rarely():
        asyncio.run(work())
    return done
