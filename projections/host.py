"""The Ray actor that follows some shards for projections, process managers and handlers: a shell around `following.py`.

What it is pushed it also hands on to those who listen: the subscriptions of drivers.

It opens nothing when it is made, so that a store that is away can't kill it for good. Not here: who makes it, gives it
shards and tells the hosts to push to it (the coordinator).
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgpack
import ray
import structlog

from actors.aggregate import Aggregate
from actors.registry import AggregateRegistry
from projections.errors import NotFollowed
from projections.following import Following
from projections.handler import Handler
from projections.handler_sink import HandlerState
from projections.listening import Listeners
from projections.managing import Managing
from projections.metering import FollowerMeter, Unmetered
from projections.process_manager import ProcessManager
from projections.progress import Lag, SubscriberLimits
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.relay import Commands, RelayLimits, RelayState
from projections.sampling import AuditState, SampleLimits
from store.codec import EventRegistry
from store.columns import records_of
from store.events import Event
from store.logs import configure_logs
from store.opening import open_store
from store.ports import EventStore
from store.urls import short_name
from store.values import PAYLOAD_SIZE_MAX_BYTES

log = structlog.get_logger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""Decoding makes much and no cycles, for which Python would look all the time by its default thresholds."""


class Connection(Commands, Protocol):
    """Carries commands to the hosts, until it is closed."""

    async def close(self) -> None:
        """Let go of it. Calling it twice is safe."""
        ...


Connect = Callable[[EventStore], Connection]
"""Makes a connection to the hosts on a store, on the event loop that is to use it."""


@dataclass(frozen=True)
class ProjectionPlan:
    """What a projection host is made of."""

    store_url: str = field(repr=False)
    """It may hold a password."""
    projections: tuple[type[Projection], ...]
    events: tuple[type[Event], ...]
    """The application's event types."""
    limits: SubscriberLimits
    handlers: tuple[Handler, ...] = field(default=(), repr=False)
    """They may hold passwords."""
    audit: SampleLimits = field(default_factory=SampleLimits)
    process_managers: tuple[type[ProcessManager], ...] = ()
    aggregates: tuple[type[Aggregate], ...] = ()
    """Those that decide the process managers' commands."""
    payload_size_max_bytes: int = PAYLOAD_SIZE_MAX_BYTES
    """Of one command's JSON."""
    connect: Connect | None = None
    """How the process managers' commands are sent; None: there are none."""
    relay: RelayLimits = field(default_factory=RelayLimits)
    number: int = 1
    """Of its place among the projection hosts; for its title only."""

    @property
    def title(self) -> str:
        """For people."""
        names = ", ".join(projection.name for projection in (*self.projections, *self.process_managers))
        return f"Projections {self.number} · {names} · {short_name(self.store_url)}"


class ProjectionHealth(NamedTuple):
    """How a projection host is."""

    lags: list[Lag]
    handlers: list[HandlerState]
    """Also those that are off, and why."""
    audits: list[AuditState]
    """What the standing audit has come to, by projection."""
    process_managers: list[RelayState]


class ProjectionHost:
    """Follows some shards for all projections. Ray runs its methods on one event loop, `health` on another thread's."""

    _title = "Projections"

    def __init__(self, plan: ProjectionPlan, meter: FollowerMeter | None = None) -> None:
        configure_logs(in_worker=True)
        self._plan = plan
        self._title = plan.title
        self._meter = meter or Unmetered()
        self._store: EventStore | None = None
        self._read_models: ReadModels | None = None
        self._following: Following | None = None
        self._connection: Connection | None = None
        self._listeners: Listeners[bytes] = Listeners()

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def open(self) -> None:
        """Open the store; no shard is followed yet. Raises the store's errors; may then be called again."""
        if self._store is not None:
            return
        plan = self._plan
        store = self._meter.around(await open_store(plan.store_url, create=False))
        read_models, events = ReadModels(plan.store_url), EventRegistry(plan.events)
        derived, managing, meter = (plan.projections, plan.handlers, events), self._managing(store), self._meter
        following = Following(
            store, read_models, *derived, plan.limits, meter.around_sink, plan.audit, managing, meter.around_call
        )
        self._store, self._read_models, self._following = store, read_models, following
        gc.set_threshold(*GC_THRESHOLDS)

    def _managing(self, store: EventStore) -> Managing | None:
        plan = self._plan
        if plan.connect is None or not plan.process_managers:
            return None
        self._connection = plan.connect(store)
        registry = AggregateRegistry(plan.aggregates, plan.payload_size_max_bytes)
        return Managing(plan.process_managers, registry, self._connection, plan.relay)

    async def _disconnect(self) -> None:
        if self._connection is not None:
            await self._connection.close()

    async def follow(self, shards: list[int]) -> None:
        """Follow these shards from now on and no others. Raises what `Following.follow` does; may be called again."""
        await self._opened().follow(shards)

    @ray.method(concurrency_group="health")
    async def followed(self) -> list[int]:
        """Return the shards that it was last told to follow."""
        return sorted(self._following.shards) if self._following is not None else []

    async def push(self, *pieces: bytes) -> None:
        """Take committed records, a msgpack list of them in its pieces. Nobody needs to wait for it; what is lost is
        read later.
        """
        blob = b"".join(pieces)
        self._listeners.push(blob)
        if self._following is not None:
            records = records_of(msgpack.unpackb(blob, use_list=False))
            self._following.push(records)
            self._meter.pushed(len(records))

    async def listen(self, name: str, timeout_s: float) -> list[bytes]:
        """Return what was pushed here since the last call under this name; see `Listeners.listen`."""
        return await self._listeners.listen(name, timeout_s)

    async def wait_for(self, projection: str, shard: int, position: int, timeout_s: float) -> None:
        """Return once the read model holds the shard's events up to `position`.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a projection or shard that isn't followed here.
        """
        if self._following is None:
            raise NotFollowed(projection, shard)
        await self._following.wait_for(projection, shard, position, timeout_s)

    @ray.method(concurrency_group="health")
    async def health(self) -> ProjectionHealth:
        """Say how it is, also while its event loop is blocked. Raises RuntimeError where a subscriber has ended."""
        return self._health_unless_ended()

    def _health_unless_ended(self) -> ProjectionHealth:
        if self._following is not None and (ended := self._following.ended()):
            raise RuntimeError(ended)
        return self._health()

    def _health(self) -> ProjectionHealth:
        """What all subscribers say; may be called from any thread."""
        if (following := self._following) is None:
            return ProjectionHealth([], [], [], [])
        return ProjectionHealth(
            following.lags(), following.handlers(), following.audits(), following.process_managers()
        )

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that the process is gone."""
        await asyncio.Event().wait()

    def _opened(self) -> Following:
        if self._following is None:
            raise RuntimeError(f"{self._title} is not open")
        return self._following

    async def stop(self) -> None:
        """Finish the steps under way, then let go of the store and the read models."""
        if self._following is not None:
            await self._following.stop()
        await self._disconnect()
        if self._read_models is not None:
            await self._read_models.close()
        if self._store is not None:
            await self._store.close()
