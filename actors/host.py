"""The Ray actor of a host: a thin shell around `HostCore` (`hosting.py`), which does all the work.

It opens nothing when it is made, so that a store that is away can't kill it for good. Committed events are pushed to
the projection host from here: a bounded number of pushes is under way, none is waited for, and what is over the bound
is dropped, since the store is the truth. Not here: who makes hosts and gives them shards (the coordinator).
"""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field
from typing import Any

import msgpack
import ray
import structlog
from ray.exceptions import RayError

from actors.aggregate import Aggregate
from actors.hosting import HostCore, HostHealth, HostLimits
from actors.metering import HostMeter, Unmetered
from actors.registry import AggregateRegistry
from store.logs import configure_logs
from store.opening import open_store
from store.ports import EventStore
from store.records import EventRecord

log = structlog.get_logger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""A host makes much that lives long and hardly a cycle: Python's default thresholds cost it a quarter of its time."""

PUSH_PAUSE_S = 0.002
"""How long committed events wait for others to be pushed with: a push at once would hold up the answers (measured)."""


@dataclass(frozen=True)
class HostPlan:
    """What a host is made of."""

    name: str
    """Of this incarnation; assignments and routes name it."""
    title: str
    """For people."""
    namespace: str
    """The Ray namespace of the runtime."""
    store_url: str = field(repr=False)
    """It may hold a password."""
    aggregates: tuple[type[Aggregate], ...]
    limits: HostLimits
    pushes_in_flight_max: int


class Host:
    """One host. Ray runs its methods on one event loop, `health` on another thread's."""

    _title = "Host"

    def __init__(self, plan: HostPlan, meter: HostMeter | None = None) -> None:
        configure_logs(in_worker=True)
        self._plan = plan
        self._title = plan.title
        self._meter = meter or Unmetered()
        self._store: EventStore | None = None
        self._core: HostCore | None = None
        self._projections: Any = None
        self._unpushed: list[EventRecord] = []
        self._pushes: set[asyncio.Future[Any]] = set()

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def open(self) -> None:
        """Open the store and begin. Raises the store's errors; it may then be called again."""
        if self._core is None:
            store = self._meter.around(await open_store(self._plan.store_url, create=False))
            registry = AggregateRegistry(self._plan.aggregates, self._plan.limits.payload_size_max_bytes)
            core = HostCore(self._plan.name, store, registry, self._plan.limits, self._publish, self._meter.answered)
            core.start()
            self._store, self._core = store, core
            gc.set_threshold(*GC_THRESHOLDS)

    async def claim(self, shards: list[int]) -> dict[int, int]:
        """Claim those of the shards that are assigned to this host; return their epochs."""
        return await self._opened().claim(shards)

    async def release(self, shards: list[int]) -> None:
        """Finish what these shards have in hand, then forget them."""
        await self._opened().release(shards)

    async def execute(self, call: bytes) -> bytes:
        """Execute one packed call; return its packed answers. Raises StaleCall."""
        return await self._opened().execute(call)

    async def push_to(self, projection_host: str) -> None:
        """From now on push committed events to the actor of that name."""
        self._projections = await asyncio.to_thread(ray.get_actor, projection_host, namespace=self._plan.namespace)

    @ray.method(concurrency_group="health")
    async def health(self) -> HostHealth:
        """Say how the host is, also while its event loop is blocked."""
        return self._opened().health()

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that the process is gone."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Finish what is under way, then end the loops and let go of the store."""
        if self._core is not None:
            await self._core.stop()
        if self._store is not None:
            await self._store.close()

    def _opened(self) -> HostCore:
        if self._core is None:
            raise RuntimeError(f"{self._plan.name} is not open")
        return self._core

    def _publish(self, records: list[EventRecord]) -> None:
        if self._projections is None:
            return
        if not self._unpushed:
            asyncio.get_running_loop().call_later(PUSH_PAUSE_S, self._push)
        self._unpushed += records

    def _push(self) -> None:
        records, self._unpushed = self._unpushed, []
        if self._projections is None or len(self._pushes) >= self._plan.pushes_in_flight_max:
            return
        push = asyncio.ensure_future(self._projections.push.remote(msgpack.packb(records)))
        self._pushes.add(push)
        push.add_done_callback(self._pushed)

    def _pushed(self, push: asyncio.Future[Any]) -> None:
        self._pushes.discard(push)
        if not push.cancelled() and (error := push.exception()) is not None:
            if not isinstance(error, RayError):
                log.error("a push failed", exc_info=error)
            self._projections = None
