"""The Ray actor that follows the log for all projections: a thin shell around `Subscriber` (`subscriber.py`).

What it is pushed it also hands on to those who listen: the subscriptions of drivers.

It opens nothing when it is made, so that a store that is away can't kill it for good. Not here: who makes it and who
tells the hosts to push to it (the coordinator).
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from typing import NamedTuple

import msgpack
import ray
import structlog

from projections.errors import NotFollowed
from projections.listening import Listeners
from projections.projection import Projection
from projections.projection_sink import ProjectionSink
from projections.read_models import ReadModels
from projections.subscriber import Lag, Subscriber, SubscriberLimits
from store.codec import EventRegistry
from store.events import Event
from store.logs import configure_logs
from store.opening import open_store
from store.ports import EventStore
from store.records import EventRecord

log = structlog.get_logger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""Decoding makes much and no cycles, for which Python would look all the time by its default thresholds."""


@dataclass(frozen=True)
class ProjectionPlan:
    """What a projection host is made of."""

    store_url: str = field(repr=False)
    """It may hold a password."""
    projections: tuple[type[Projection], ...]
    events: tuple[type[Event], ...]
    """The application's event types."""
    shards: int
    """For its title only; the store knows."""
    limits: SubscriberLimits

    @property
    def title(self) -> str:
        """For people."""
        names = ", ".join(projection.name for projection in self.projections)
        return f"Projections · {names} · {self.shards} shards"


class ProjectionHealth(NamedTuple):
    """How a projection host is."""

    lags: list[Lag]


class ProjectionHost:
    """Follows all shards for some projections. Ray runs its methods on one event loop, `health` on another thread's."""

    _title = "Projections"

    def __init__(self, plan: ProjectionPlan) -> None:
        configure_logs(in_worker=True)
        self._plan = plan
        self._title = plan.title
        self._store: EventStore | None = None
        self._read_models: ReadModels | None = None
        self._subscribers: dict[str, Subscriber] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._listeners: Listeners[bytes] = Listeners()

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def open(self) -> None:
        """Open the store and the read models and begin to follow.

        Raises the store's errors, RestoredBehind, ReadModelVersion, ReadModelUnavailable; may then be called again.
        """
        if self._store is not None:
            return
        store = await open_store(self._plan.store_url, create=False)
        read_models = ReadModels(self._plan.store_url)
        events = EventRegistry(self._plan.events)
        shards, limits = range(store.shards), self._plan.limits
        subscribers = {
            projection.name: Subscriber(store, ProjectionSink(read_models, projection, events), shards, limits=limits)
            for projection in self._plan.projections
        }
        try:
            for subscriber in subscribers.values():
                await subscriber.start()
        except BaseException:
            await read_models.close()
            await store.close()
            raise
        self._store, self._read_models, self._subscribers = store, read_models, subscribers
        gc.set_threshold(*GC_THRESHOLDS)
        self._tasks = {
            name: asyncio.create_task(subscriber.run(), name=name) for name, subscriber in subscribers.items()
        }
        for task in self._tasks.values():
            task.add_done_callback(_log_end)

    async def push(self, blob: bytes) -> None:
        """Take committed records, a msgpack list of them. Nobody needs to wait for it; what is lost is read later."""
        self._listeners.push(blob)
        records = [EventRecord._make(fields) for fields in msgpack.unpackb(blob)]
        for subscriber in self._subscribers.values():
            subscriber.push(records)

    async def listen(self, name: str, timeout_s: float) -> list[bytes]:
        """Return what was pushed here since the last call under this name; see `Listeners.listen`."""
        return await self._listeners.listen(name, timeout_s)

    async def wait_for(self, projection: str, shard: int, position: int, timeout_s: float) -> None:
        """Return once the read model holds the shard's events up to `position`.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a projection or shard that isn't followed here.
        """
        subscriber = self._subscribers.get(projection)
        if subscriber is None:
            raise NotFollowed(projection, shard)
        await subscriber.wait_for(shard, position, timeout_s)

    @ray.method(concurrency_group="health")
    async def health(self) -> ProjectionHealth:
        """Say how it is, also while its event loop is blocked. Raises RuntimeError where a projection has ended."""
        for name, task in dict(self._tasks).items():
            if task.done():
                raise RuntimeError(f"{name}: {self._subscribers[name].lag().failure or 'it has been stopped'}")
        return ProjectionHealth([subscriber.lag() for subscriber in dict(self._subscribers).values()])

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that the process is gone."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Finish the steps under way, then let go of the store and the read models."""
        for subscriber in self._subscribers.values():
            subscriber.finish()
        tasks, self._tasks = self._tasks, {}
        if tasks:
            await asyncio.wait(tasks.values())
        if self._read_models is not None:
            await self._read_models.close()
        if self._store is not None:
            await self._store.close()


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a projection has ended", projection=task.get_name(), exc_info=error)
