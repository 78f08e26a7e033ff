"""The Ray actor of the coordinator, and the Ray processes that it makes: a thin edge over `Coordination`.

Ray restarts it at will; it then takes the store again under the same holder and makes new hosts (the old ones ended
with it, since it owns them). It opens nothing when it is made. Not here: what it decides (`coordination.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NoReturn, TypeVar

import ray
import structlog
from ray.exceptions import ActorDiedError, RayError

from actors.host import Host, HostPlan
from actors.hosting import HostHealth
from cluster.application import Application
from cluster.coordination import Coordination
from cluster.placement import place
from cluster.ray_edge import own_error, reason_of
from cluster.settings import Settings
from cluster.supervision import ProcessLost
from projections.host import ProjectionHost, ProjectionPlan
from projections.subscriber import SubscriberLimits
from store.errors import EventrayError, StoreHeld, Superseded
from store.logs import configure_logs
from store.opening import open_store

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

PROCESS_OPTIONS = {"max_restarts": 0, "max_task_retries": 0, "concurrency_groups": {"health": 1}}
"""A process that ended is replaced by one of another name, and nothing is ever sent twice behind our back."""


@dataclass(frozen=True)
class RuntimePlan:
    """What the opener of a runtime asks for."""

    store_url: str = field(repr=False)
    """It may hold a password."""
    namespace: str
    holder: str
    """Drawn by the opener: a coordinator that Ray restarted takes the store back at once by it."""
    hosts: int
    application: Application
    settings: Settings


class RayProcesses:
    """Ray actors of one class, by name; see `Processes`."""

    def __init__(self, make: Callable[[str], Any]) -> None:
        """`make` makes the actor; it may block."""
        self._make = make
        self._handles: dict[str, Any] = {}
        self._openings: dict[str, Any] = {}

    async def start(self, name: str) -> None:
        handle = await asyncio.to_thread(self._make, name)
        self._handles[name], self._openings[name] = handle, handle.open.remote()

    async def open(self, name: str) -> None:
        if (opening := self._openings.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        await _answer(name, opening)

    async def health(self, name: str) -> HostHealth | None:
        health = await _answer(name, self._handle(name).health.remote())
        return health if isinstance(health, HostHealth) else None

    async def ended(self, name: str) -> str:
        handle = self._handle(name)
        while True:
            try:
                await handle.ended.remote()
            except ActorDiedError as error:
                return reason_of(error)
            except RayError as error:
                log.info("a process does not answer", process=name, reason=reason_of(error))
                await asyncio.sleep(0.1)

    async def stop(self, name: str) -> None:
        await _answer(name, self._handle(name).stop.remote())

    async def kill(self, name: str) -> None:
        handle = self._handles.pop(name, None)
        self._openings.pop(name, None)
        if handle is not None:
            await asyncio.to_thread(ray.kill, handle)

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        claimed: dict[int, int] = await _answer(name, self._handle(name).claim.remote(list(shards)))
        return claimed

    async def push_to(self, name: str, projection_host: str) -> None:
        await _answer(name, self._handle(name).push_to.remote(projection_host))

    def _handle(self, name: str) -> Any:
        if (handle := self._handles.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        return handle


async def _answer(name: str, ref: Awaitable[Answer]) -> Answer:
    """Await a call. Raises the EventrayError that the method raised, else ProcessLost."""
    try:
        return await ref
    except RayError as error:
        if (own := own_error(error)) is not None:
            raise own from error
        raise ProcessLost(name, reason_of(error)) from error


class Coordinator:
    """One runtime's coordinator."""

    _title = "Coordinator"

    def __init__(self, plan: RuntimePlan) -> None:
        configure_logs(in_worker=True)
        self._plan = plan
        self._title = f"Coordinator · hosts: {plan.hosts}"
        self._beginning: asyncio.Task[Coordination] | None = None
        ray.get_runtime_context().current_actor.run.remote()

    def __repr__(self) -> str:
        return self._title  # asked for even where the plan can't be read, in order to say so

    async def run(self) -> None:
        """Keep the runtime running, until it is stopped. The actor itself calls this, each time that Ray makes it."""
        restarted = ray.get_runtime_context().was_current_actor_reconstructed
        while True:
            try:
                coordination = await asyncio.shield(self._begun())
                break
            except EventrayError as error:
                if not restarted:
                    return  # whoever opens the runtime hears of it from `ready`, and ends this actor
                log.warning("the coordinator can't begin again", reason=str(error))
                if isinstance(error, Superseded | StoreHeld):
                    _exit()
            await asyncio.sleep(self._plan.settings.poll_interval_s)
            self._beginning = None
        running = asyncio.ensure_future(coordination.run())
        await asyncio.wait({running})
        if (failure := running.exception()) is not None:
            log.error("the runtime ends", exc_info=failure)
            await coordination.abandon()
            if isinstance(failure, Superseded):
                _exit()
            os._exit(1)  # Ray makes the coordinator anew, and that one begins with what the store says

    async def ready(self) -> None:
        """Return once the runtime serves. Raises what keeps it from that."""
        await asyncio.shield(self._begun())

    async def projection_host(self) -> str | None:
        """Return the name of the actor that follows the log for all projections; None while there is none."""
        return (await asyncio.shield(self._begun())).projection_host

    async def stop(self) -> None:
        """Let the hosts finish what they have in hand, end them, and give the store back."""
        beginning = self._begun()
        if not beginning.done():
            beginning.cancel()
        await asyncio.wait({beginning})
        if not beginning.cancelled() and beginning.exception() is None:
            await beginning.result().stop()

    def _begun(self) -> asyncio.Task[Coordination]:
        if self._beginning is None:
            self._beginning = asyncio.ensure_future(self._begin())
        return self._beginning

    async def _begin(self) -> Coordination:
        plan = self._plan
        store = await open_store(plan.store_url, create=False)
        counts = Counter(place(store.shards, [f"{number + 1}" for number in range(plan.hosts)], {}).values())
        coordination = Coordination(
            store,
            RayProcesses(partial(_make_host, plan, counts)),
            RayProcesses(partial(_make_projection_host, plan, store.shards)),
            plan.hosts,
            plan.settings,
        )
        try:
            await coordination.start(plan.holder)
        except BaseException:
            await coordination.abandon()
            await store.close()
            raise
        return coordination


def _exit() -> NoReturn:
    """End this actor for good: Ray will not restart it."""
    ray.actor.exit_actor()  # type: ignore[no-untyped-call]
    raise AssertionError("exit_actor returned")


def _make_host(plan: RuntimePlan, shard_counts: Mapping[str, int], name: str) -> Any:
    number = name.split("-")[1]
    host_plan = HostPlan(
        name=name,
        title=f"Host {number} · {shard_counts[number]} shards",
        namespace=plan.namespace,
        store_url=plan.store_url,
        aggregates=plan.application.aggregates,
        limits=plan.settings.host_limits(),
        pushes_in_flight_max=plan.settings.host_pushes_in_flight_max,
    )
    return _make(Host, plan, name, host_plan)


def _make_projection_host(plan: RuntimePlan, shards: int, name: str) -> Any:
    projection_plan = ProjectionPlan(
        store_url=plan.store_url,
        projections=plan.application.projections,
        events=tuple(plan.application.registry.events.types.values()),
        shards=shards,
        limits=SubscriberLimits(),
    )
    return _make(ProjectionHost, plan, name, projection_plan)


def _make(actor_class: type, plan: RuntimePlan, name: str, argument: HostPlan | ProjectionPlan) -> Any:
    options = {"name": name, "namespace": plan.namespace, "num_cpus": plan.settings.host_cpus}
    remote: Any = ray.remote  # its overloads know neither concurrency groups nor a mapping of options
    return remote(**PROCESS_OPTIONS)(actor_class).options(**options).remote(argument)
