"""What every process of a runtime is beside its work: it says where it is and what it serves, and it ends with its
coordinator's actor.

Hosts are detached Ray actors, so that they outlive a coordinator that dies and comes back. In return each one watches
that actor: once it has ended for good (it was stopped, or the driver that owns it is gone), the process ends too, so
nothing is left over. Ray keeps an actor's names as they were when it was made; what it serves now is the name of a task
of it that runs, which Ray's dashboard shows on the actor's page. Not here: the work (`actors/host.py`,
`projections/host.py`), what is counted of it (`metrics/`), making processes (`processes.py`).
"""

from __future__ import annotations

import asyncio
import os
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import ray
import structlog
from ray.exceptions import RayError

from actors.health import HostHealth
from actors.host import Host, HostPlan
from actors.metering import HostMeter
from actors.registry import AggregateRegistry
from cluster.metrics.counting import merged, pack_samples
from cluster.metrics.follower import FollowerCounts, follower_samples
from cluster.metrics.host import HostCounts, host_samples
from cluster.metrics.runtime import process_samples
from cluster.ray_edge import COORDINATOR, reason_of
from cluster.tracing import flush, traced_follower, traced_host
from projections.host import ProjectionHealth, ProjectionHost, ProjectionPlan
from projections.metering import FollowerMeter
from store.logs import LogFormat, configure_logs
from store.process import machine

log = structlog.get_logger(__name__)

LOOK_AGAIN_S = 0.2


@dataclass(frozen=True)
class Keeper:
    """The coordinator of a process."""

    handle: Any
    """Of its Ray actor, which stays the same when Ray makes it anew."""
    holder: str
    """Whom it holds the store for: another one means another runtime."""
    namespace: str
    log_format: LogFormat = "console"
    tracing: bool = False


class Whereabouts(NamedTuple):
    """Where a process is, and whose it is."""

    holder: str
    node: str
    """The id of its Ray node."""
    machine: str
    """As `store.process.machine` names it."""
    is_open: bool
    """Whether it is at work: it has been opened."""


class Shown(NamedTuple):
    """What a process shows of its work."""

    title: str
    number: int
    """Rises with each."""


class Kept(ABC):
    """The part of an actor that keeps it with its coordinator. Its methods run on threads of their own."""

    def __init__(self, keeper: Keeper, *arguments: Any) -> None:
        configure_logs(keeper.log_format, in_worker=True, actor=own_name())
        super().__init__(*arguments)
        self._keeper = keeper
        self._shown = Shown("", 0)
        self._shown_over = asyncio.Event()
        ray.get_runtime_context().current_actor.keep.remote()

    @ray.method(concurrency_group="keeping")
    async def keep(self) -> None:
        """End this process once its coordinator's actor has ended for good. The actor itself calls this."""
        while _is_there(self._keeper):
            try:
                await self._keeper.handle.ended.remote()
            except RayError as error:
                log.info("the coordinator does not answer", reason=reason_of(error))
            await asyncio.sleep(LOOK_AGAIN_S)
        log.warning("the coordinator is gone for good, and this process ends with it")
        self._before_the_end()
        await self._sent()
        os._exit(0)

    @ray.method(concurrency_group="health")
    async def where(self) -> Whereabouts:
        """Say where this process is, also while its event loop is blocked."""
        node = ray.get_runtime_context().get_node_id()
        return Whereabouts(self._keeper.holder, node, machine(), self._is_open())

    @ray.method(concurrency_group="showing")
    async def serving(self, number: int) -> None:
        """Last as long as what the name of this task says is true: until a later one begins."""
        if number < self._shown.number:
            return
        self._shown_over.set()
        over = self._shown_over = asyncio.Event()
        await over.wait()

    def _show(self, title: str) -> None:
        """Let Ray's dashboard show this from now on, and no longer what it has shown so far."""
        if title != self._shown.title:
            self._shown = Shown(title, self._shown.number + 1)
            serving = ray.get_runtime_context().current_actor.serving
            serving.options(name=title).remote(self._shown.number)

    async def _sent(self) -> None:
        """Let the spans go that this process has made, before it ends."""
        if self._keeper.tracing:
            await asyncio.to_thread(flush)

    @abstractmethod
    def _is_open(self) -> bool:
        """Whether it is at work."""

    def _before_the_end(self) -> None:  # noqa: B027 - most have nothing of that kind
        """Do what may not be left undone where the process ends without a call of `stop`."""


def _is_there(keeper: Keeper) -> bool:
    """Whether the coordinator's actor runs, or will again. Only Ray's word that it has ended counts as no."""
    try:
        return bool(ray.get_actor(COORDINATOR, namespace=keeper.namespace) == keeper.handle)
    except ValueError:
        return False
    except RayError as error:
        log.info("Ray can't be asked for the coordinator", reason=reason_of(error))
        return True


def own_name() -> str:
    """Return the name of the actor that this process is."""
    return str(ray.get_runtime_context().get_actor_name())


def title_of(process: str, shards: Collection[int], epochs: Collection[int] = ()) -> str:
    """Return what a process serves, for people: `Host 2 · shop.db · 16 shards · epochs 4-5`."""
    parts = [process, "1 shard" if len(shards) == 1 else f"{len(shards)} shards"]
    if epochs:
        first, last = min(epochs), max(epochs)
        parts.append(f"epoch {first}" if first == last else f"epochs {first}-{last}")
    return " · ".join(parts)


class HostProcess(Kept, Host):
    """A host, as a process of a runtime."""

    def __init__(self, keeper: Keeper, plan: HostPlan) -> None:
        self._counted = HostCounts(AggregateRegistry(plan.aggregates).bindings)
        meter: HostMeter = self._counted
        super().__init__(keeper, plan, traced_host(meter, plan.name) if keeper.tracing else meter)

    @ray.method(concurrency_group="metrics")
    async def metrics(self) -> bytes:
        """Return what it has counted, packed by `pack_samples`; also while its event loop is blocked."""
        samples = [self._counted.counts.samples(), process_samples()]
        if self._core is not None:
            samples.append(host_samples(self._core.health()))
        return pack_samples(merged(samples))

    @ray.method(concurrency_group="health")
    async def health(self) -> HostHealth:
        health = self._opened().health()
        self._show(title_of(self._title, health.shards, health.shards.values()))
        return health

    async def stop(self) -> None:
        await super().stop()
        await self._sent()

    def _is_open(self) -> bool:
        return self._core is not None


class ProjectionHostProcess(Kept, ProjectionHost):
    """A projection host, as a process of a runtime."""

    def __init__(self, keeper: Keeper, plan: ProjectionPlan) -> None:
        self._counted = FollowerCounts()
        meter: FollowerMeter = self._counted
        super().__init__(keeper, plan, traced_follower(meter, own_name()) if keeper.tracing else meter)

    @ray.method(concurrency_group="metrics")
    async def metrics(self) -> bytes:
        """Return what it has counted, packed by `pack_samples`; also while its event loop is blocked."""
        samples = [self._counted.counts.samples(), process_samples(), follower_samples(self._health())]
        return pack_samples(merged(samples))

    @ray.method(concurrency_group="health")
    async def health(self) -> ProjectionHealth:
        health = self._health_unless_ended()
        if self._following is not None:
            self._show(title_of(self._title, self._following.shards))
        return health

    async def stop(self) -> None:
        await super().stop()
        await self._sent()

    def _is_open(self) -> bool:
        return self._following is not None
