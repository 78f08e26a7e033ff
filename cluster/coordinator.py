"""The Ray actor of the coordinator: a thin edge over `Coordination`.

Ray restarts it at will; it then takes the store again under the same holder and goes on with the hosts that are there.
It opens nothing when it is made. Not here: what it decides (`coordination.py`), how actors are made (`processes.py`).
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field
from functools import partial
from typing import NoReturn

import ray
import structlog

from actors.host import HostPlan
from cluster.application import Application
from cluster.coordination import Coordination
from cluster.keeping import HostProcess, Keeper, ProjectionHostProcess
from cluster.metrics import announcing
from cluster.metrics.counting import Counts, merged, pack_samples
from cluster.metrics.exporter import ExporterPlan
from cluster.metrics.judging import Limits
from cluster.metrics.process import ExporterProcess
from cluster.metrics.runtime import process_samples
from cluster.metrics.store import MeteredStore
from cluster.nodes import RayNodes
from cluster.processes import RayProcesses, RayProcessesHere, StoreElsewhere
from cluster.ray_edge import COORDINATOR, temp_dir
from cluster.relaying import CommandsOverRay
from cluster.settings import Settings
from cluster.signature import signature_of
from cluster.status import RuntimeStatus
from projections.handler import Handler
from projections.host import ProjectionPlan
from store.errors import EventrayError, StoreHeld
from store.logs import configure_logs
from store.opening import open_store
from store.process import machine
from store.urls import short_name

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class RuntimePlan:
    """What the opener of a runtime asks for."""

    store_url: str = field(repr=False)
    """It may hold a password."""
    namespace: str
    holder: str
    """Drawn by the opener: a coordinator that Ray restarted takes the store back at once by it."""
    hosts: int | None
    """How many; None: as many as the store says that were wanted last, or one."""
    application: Application
    settings: Settings
    machine: str | None = None
    """Where the store's file is, as `store.process.machine` names it; None: any machine reaches the store."""
    detached: bool = False
    """Whether it runs until it is told to end; else it ends with the process that opened it."""
    handlers: tuple[Handler, ...] = field(default=(), repr=False)
    """As the opener's environment made them; they may hold passwords."""


class Coordinator:
    """One runtime's coordinator."""

    _title = "Coordinator"

    def __init__(self, plan: RuntimePlan) -> None:
        configure_logs(plan.settings.log_format, in_worker=True, actor=COORDINATOR)
        self._plan = plan
        self._title = f"{self._title} · {short_name(plan.store_url)}"
        self._beginning: asyncio.Task[Coordination] | None = None
        self._counts = Counts()
        ray.get_runtime_context().current_actor.run.remote()

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def run(self) -> None:
        """Keep the runtime running, until it is stopped. The actor itself calls this, each time that Ray makes it."""
        while True:
            try:
                coordination = await asyncio.shield(self._begun())
                break
            except EventrayError as error:
                if not _restarted():
                    return  # whoever opens the runtime hears of it from `ready`, and ends this actor
                log.warning("the coordinator can't begin again", reason=str(error))
                if isinstance(error, StoreHeld | StoreElsewhere):
                    _exit()
            await asyncio.sleep(self._plan.settings.poll_interval_s)
            self._beginning = None
        running = asyncio.ensure_future(coordination.run())
        await asyncio.wait({running})
        if (failure := running.exception()) is not None:
            log.error("the coordinator ends", exc_info=failure)
            os._exit(1)  # Ray makes it anew, and that one goes on with what the store says, or ends for good

    async def ready(self) -> None:
        """Return once the runtime serves. Raises what keeps it from that."""
        await asyncio.shield(self._begun())

    async def application(self) -> dict[str, str]:
        """Return the signature of the application that this process, as the hosts, has."""
        return signature_of(self._plan.application)

    async def ended(self) -> None:
        """Never return: whoever waits for it learns at once that this process is gone."""
        await asyncio.Event().wait()

    async def projection_hosts(self) -> dict[str, list[int]]:
        """Return the names of the actors that follow the log for projections and handlers, and the shards of each."""
        return (await asyncio.shield(self._begun())).projection_hosts

    async def status(self) -> RuntimeStatus:
        """Say how the runtime is."""
        return (await asyncio.shield(self._begun())).status()

    async def metrics(self) -> bytes:
        """Return what it has counted, packed by `pack_samples`."""
        return pack_samples(merged([self._counts.samples(), process_samples()]))

    async def scale(self, hosts: int) -> RuntimeStatus:
        """Keep so many hosts from now on; return once it is so. Raises InvalidValue, NotSettled."""
        return await (await asyncio.shield(self._begun())).scale(hosts)

    async def rebalance(self) -> RuntimeStatus:
        """Return once hosts and shards are spread evenly, as they always are in the end. Raises NotSettled."""
        return await (await asyncio.shield(self._begun())).settled()

    async def stop(self) -> None:
        """Let the hosts finish what they have in hand, end them, and give the store back."""
        beginning = self._begun()
        if not beginning.done() and not _restarted():
            beginning.cancel()
        await asyncio.wait({beginning})
        if not beginning.cancelled() and beginning.exception() is None:
            await beginning.result().stop()
        await asyncio.to_thread(announcing.sweep, temp_dir())

    def _begun(self) -> asyncio.Task[Coordination]:
        if self._beginning is None:
            self._beginning = asyncio.ensure_future(self._begin())
        return self._beginning

    async def _begin(self) -> Coordination:
        plan = self._plan
        if plan.machine not in (None, machine()):
            raise StoreElsewhere(COORDINATOR)
        store = MeteredStore(await open_store(plan.store_url, create=False), self._counts)
        here = ray.get_runtime_context().current_actor
        keeper = Keeper(here, plan.holder, plan.namespace, plan.settings.log_format, plan.settings.tracing)
        common = (keeper, plan.settings.host_cpus, plan.machine)
        hosts = RayProcesses(HostProcess, "host", *common, partial(_host_plan, plan))
        projections = RayProcesses(ProjectionHostProcess, "projections", *common, partial(_projection_plan, plan))
        nodes = RayNodes(plan.settings.host_cpus, here_only=plan.machine is not None)
        exporters = None
        if plan.settings.metrics_exporter:
            exporters = RayProcessesHere(ExporterProcess, "exporter", *common, partial(_exporter_plan, plan))
        coordination = Coordination(store, hosts, projections, nodes, plan.settings, plan.detached, exporters)
        try:
            await coordination.start(plan.holder, plan.hosts)
        except BaseException:  # cancelled too: what has begun is ended
            await (coordination.leave() if _restarted() else coordination.abandon())
            await store.close()
            raise
        return coordination


def _restarted() -> bool:
    """Whether an earlier process of this actor has died: its hosts may be at work."""
    return bool(ray.get_runtime_context().was_current_actor_reconstructed)


def _exit() -> NoReturn:
    """End this actor for good: Ray will not restart it, and its processes end with it."""
    ray.actor.exit_actor()  # type: ignore[no-untyped-call]
    raise AssertionError("exit_actor returned")


def _host_plan(plan: RuntimePlan, name: str) -> HostPlan:
    return HostPlan(
        name=name,
        title=f"Host {_place_of(name)} · {short_name(plan.store_url)}",
        namespace=plan.namespace,
        store_url=plan.store_url,
        aggregates=plan.application.aggregates,
        limits=plan.settings.host_limits(),
        pushes_in_flight_max=plan.settings.host_pushes_in_flight_max,
    )


def _place_of(name: str) -> int:
    """Return the number of the place of a process: 3 of `host-3-7-1`."""
    return int(name.split("-")[1])


def _projection_plan(plan: RuntimePlan, name: str) -> ProjectionPlan:
    return ProjectionPlan(
        store_url=plan.store_url,
        projections=plan.application.projections,
        events=tuple(plan.application.registry.events.types.values()),
        limits=plan.settings.subscriber_limits(),
        handlers=plan.handlers,
        audit=plan.settings.sample_limits(),
        process_managers=plan.application.process_managers,
        aggregates=plan.application.aggregates,
        payload_size_max_bytes=plan.settings.payload_size_max_bytes,
        connect=CommandsOverRay(plan.namespace, plan.settings.client_limits()),
        relay=plan.settings.relay_limits(),
        number=_place_of(name),
    )


def _exporter_plan(plan: RuntimePlan, _name: str) -> ExporterPlan:
    return ExporterPlan(
        namespace=plan.namespace,
        store_url=plan.store_url,
        read_models=plan.application.read_models,
        handlers={handler.name: handler.off for handler in plan.handlers},
        address=plan.settings.metrics_address,
        port=plan.settings.metrics_port,
        limits=Limits(plan.settings.metrics_lagging_after_s, plan.settings.metrics_stuck_after_s),
    )
