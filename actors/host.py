"""The Ray actor of a host: a thin shell around `HostCore` (`hosting.py`), which does all the work.

It opens nothing when it is made, so that a store that is away can't kill it for good. Not here: who makes hosts and
gives them shards (the coordinator), when committed events are pushed (`pushing.py`).
"""

from __future__ import annotations

import asyncio
import gc
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import ray
import structlog
from ray.exceptions import RayError, RayTaskError

from actors.aggregate import Aggregate
from actors.health import HostHealth
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.metering import HostMeter, Unmetered
from actors.pushing import Pusher
from actors.registry import AggregateRegistry
from actors.wire import pieces_of
from store.logs import configure_logs
from store.opening import open_store
from store.ports import EventStore

log = structlog.get_logger(__name__)

GC_THRESHOLDS = (50_000, 20, 50)
"""A host makes much that lives long and hardly a cycle: Python's default thresholds cost it a quarter of its time."""


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
    """To each projection host."""


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
        self._projection_hosts: dict[str, Any] = {}
        self._pusher = Pusher(self._push, plan.pushes_in_flight_max)

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def open(self) -> None:
        """Open the store and begin. Raises the store's errors; it may then be called again."""
        if self._core is None:
            store = self._meter.around(await open_store(self._plan.store_url, create=False))
            registry = AggregateRegistry(self._plan.aggregates, self._plan.limits.payload_size_max_bytes)
            core = HostCore(
                self._plan.name, store, registry, self._plan.limits, self._pusher.publish, self._meter.answered
            )
            core.start()
            self._store, self._core = store, core
            gc.set_threshold(*GC_THRESHOLDS)

    async def claim(self, shards: list[int]) -> dict[int, int]:
        """Claim those of the shards that are assigned to this host; return their epochs."""
        return await self._opened().claim(shards)

    async def release(self, shards: list[int]) -> None:
        """Finish what these shards have in hand, then forget them."""
        await self._opened().release(shards)

    async def execute(self, *pieces: bytes) -> bytes:
        """Execute one packed call, given in its pieces; return its packed answers. Raises StaleCall."""
        return await self._opened().execute(b"".join(pieces))

    async def push_to(self, projection_hosts: dict[str, list[int]]) -> None:
        """From now on push the committed events of these shards to the actors of these names.

        Of those that are not there, the events are left to be read from the store.
        """
        new = [name for name in projection_hosts if name not in self._projection_hosts]
        found = dict(zip(new, await asyncio.gather(*map(self._actor, new)), strict=True))
        there = {**self._projection_hosts, **{name: actor for name, actor in found.items() if actor is not None}}
        self._projection_hosts = {name: there[name] for name in projection_hosts if name in there}
        self._pusher.push_to(
            {shard: name for name in self._projection_hosts for shard in projection_hosts[name]},
        )

    @ray.method(concurrency_group="health")
    async def health(self) -> HostHealth:
        """Say how the host is, also while its event loop is blocked."""
        return self._opened().health()

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that the process is gone."""
        await asyncio.Event().wait()

    async def stop(self) -> None:
        """Finish what is under way, then end the loops and let go of the store."""
        try:
            if self._core is not None:
                await self._core.stop()
        finally:
            if self._store is not None:
                await self._store.close()

    def _opened(self) -> HostCore:
        if self._core is None:
            raise RuntimeError(f"{self._plan.name} is not open")
        return self._core

    async def _actor(self, name: str) -> Any:
        with suppress(ValueError):
            return await asyncio.to_thread(ray.get_actor, name, namespace=self._plan.namespace)
        return None

    async def _push(self, projection_host: str, blob: bytes) -> bool:
        try:
            await self._projection_hosts[projection_host].push.remote(*pieces_of(blob))
        except RayTaskError as error:
            log.error("a push failed", projections=projection_host, exc_info=error)
        except (RayError, KeyError):
            self._projection_hosts.pop(projection_host, None)
            return False
        return True
