"""A runtime on Ray: how it is opened and joined, and how it ends.

Not here: what it does for its users (`operations.py`), what its actors do, Ray's own start (`ray_session.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import ray
import structlog
from ray.exceptions import ActorDiedError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster.application import Application
from cluster.client import ClientClosed
from cluster.coordinator import Coordinator, RuntimePlan
from cluster.holder import has_ended, this_holder
from cluster.opening import Opening, open_base
from cluster.operations import Operations, Ports
from cluster.placement import check_hosts
from cluster.ray_edge import COORDINATOR, RayTransport, ask, namespace_of, own_error, reason_of
from cluster.ray_followers import RayFollowers
from cluster.ray_session import connected
from cluster.settings import Settings
from cluster.signature import check_same, signature_of
from cluster.status import RuntimeStatus
from store.errors import EventrayError, StoreHeld
from store.process import machine
from store.urls import parsed_url, shared_url

log = structlog.get_logger(__name__)

JOIN_PAUSE_S = 0.2

COORDINATOR_OPTIONS = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": 0, "max_concurrency": 10_000}
"""It holds one call open for each of its processes."""


class RuntimeNotStarted(EventrayError):
    """The runtime can't start on Ray: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class ApplicationNotThere(EventrayError):
    """Ray's workers can't load the application: {0}. Install its module where they run, or give Ray a working_dir.

    A Ray that the runtime starts itself gets this process's search path; one that runs already knows only what is
    installed, the directory of the script, and the working directory.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class Runtime(Operations):
    """A runtime on Ray, open on this event loop. Many may be open on one store and one Ray: the first runs it."""

    def __init__(self, ports: Ports, coordinator: Any, ending: AsyncExitStack, joined: bool) -> None:
        super().__init__(ports)
        self.joined = joined
        """Whether it ran already when it was opened here."""
        self._coordinator = coordinator
        self._ending = ending
        self._closing = asyncio.get_running_loop().create_future()
        ending.callback(self._closing.set_result, None)

    @classmethod
    def open(
        cls,
        url: str,
        hosts: int | None = 1,
        app: Application | str | None = None,
        address: str | None = None,
        shards: int | None = None,
        settings: Settings | None = None,
        *,
        projection_hosts: int | None = None,
        detached: bool = False,
    ) -> Opening[Runtime]:
        """Open the runtime on a store, which is made if it isn't there, with `shards` shards (default 64).

        Joins the runtime that is on this store and Ray already; else starts one with `hosts` hosts (None: as many as
        were wanted on this store last) and `projection_hosts` that follow the log for projections and handlers (None:
        as the settings say), which ends when this one closes, or stays if it is `detached`. `app` is an
        Application or its name, `module:attribute` (default: the shop that Eventray ships). Ray: the one that this
        process is connected to, or that `address` or RAY_ADDRESS names, or that runs on this machine; else one is
        started, and ends with the runtime.

        Waits for a runtime on this store whose process was killed on this machine, till that has ended too. Raises
        StoreHeld where another runtime elsewhere holds the store, NotAStore, StoreUnavailable, ShardCountMismatch,
        UnfinishedImport, InvalidValue, NoSuchApplication, ApplicationNotThere, OtherApplication, RayUnavailable,
        RuntimeNotStarted.
        """
        return Opening(partial(cls._open, url, hosts, app, address, shards, settings, projection_hosts, detached))

    async def close(self) -> None:
        """Wait for what is under way, then end what this runtime started. Calling it twice is safe."""
        await self._ending.aclose()

    async def status(self) -> RuntimeStatus:
        """Say how the runtime is: its nodes, hosts, and which of them serves which shard."""
        return await self._ask_coordinator("status")

    async def scale(self, hosts: int) -> RuntimeStatus:
        """Keep so many hosts from now on; return once each of them serves its share of the shards.

        Shards are moved a few at a time, and no caller sees an error. Raises InvalidValue, and NotSettled where it
        takes too long; the number is kept in the store, and the runtime goes on with it.
        """
        self._check_open()
        check_hosts(hosts, self._ports.store.shards)
        return await self._ask_coordinator("scale", hosts)

    async def rebalance(self) -> RuntimeStatus:
        """Return once hosts are spread over the nodes, and shards over the hosts, as evenly as can be.

        The coordinator sees to it by itself; this waits for it. Raises NotSettled.
        """
        return await self._ask_coordinator("rebalance")

    async def _ask_coordinator(self, method: str, *arguments: Any) -> RuntimeStatus:
        """Ask it; once the runtime closes, no answer is waited for: none comes where this process has left Ray."""
        if self._closing.done():
            raise ClientClosed
        patience_s = self._ports.settings.open_timeout_s
        asking: asyncio.Future[RuntimeStatus] = asyncio.ensure_future(
            ask(self._coordinator, patience_s, method, *arguments)
        )
        try:
            await asyncio.wait({asking, self._closing}, return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                raise ClientClosed
            return asking.result()
        finally:
            asking.cancel()

    @classmethod
    async def _open(
        cls,
        url: str,
        hosts: int | None,
        app: Application | str | None,
        address: str | None,
        shards: int | None,
        settings: Settings | None,
        projection_hosts: int | None,
        detached: bool,
    ) -> Runtime:
        url = shared_url(url)
        async with AsyncExitStack() as ending:
            base = await open_base(url, hosts, app, shards, settings, projection_hosts, ending)
            await connected(address, base.settings, ending)
            namespace = namespace_of(base.store.store_id)
            on = machine() if parsed_url(url).scheme == "sqlite" else None
            handlers = base.application.make_handlers()
            holder, served = this_holder(detached), (base.application, base.settings)
            plan = RuntimePlan(url, namespace, holder, hosts, *served, on, detached, handlers)
            coordinator, joined = await _join_or_start(plan, ending)
            transport = RayTransport(namespace)
            followers = RayFollowers(transport, coordinator)
            ending.push_async_callback(followers.close)
            ports = base.ports(transport, followers, ending)
            return cls(ports, coordinator, ending.pop_all(), joined)


async def _join_or_start(plan: RuntimePlan, ending: AsyncExitStack) -> tuple[Any, bool]:
    """Return the coordinator of the runtime on this store, ready, and whether it was there.

    One that is started here ends with `ending`, unless it is to stay.
    """
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + plan.settings.open_timeout_s
    while True:
        coordinator, started = await asyncio.to_thread(_find_or_make, plan)
        async with AsyncExitStack() as attempt:
            if started:
                attempt.push_async_callback(end_runtime, coordinator, plan.settings)
            try:
                async with asyncio.timeout(plan.settings.open_timeout_s):
                    await coordinator.ready.remote()
                    check_same(signature_of(plan.application), await coordinator.application.remote())
            except TimeoutError as error:
                raise RuntimeNotStarted(f"it was not ready within {plan.settings.open_timeout_s} s") from error
            except RayError as error:
                if (own := own_error(error)) is not None:
                    if not (isinstance(own, StoreHeld) and has_ended(own.holder)) or loop.time() > deadline_s:
                        raise own from error
                    log.info("the runtime of a killed process is ending; trying again", holder=own.holder)
                    continue
                if started and isinstance(error, ActorDiedError):
                    raise ApplicationNotThere(reason_of(error)) from error
                if started or loop.time() > deadline_s:
                    raise RuntimeNotStarted(reason_of(error)) from error
                log.info("the runtime to join is ending; trying again", reason=reason_of(error))
            else:
                to_end = attempt.pop_all()
                if not plan.detached:
                    await ending.enter_async_context(to_end)
                return coordinator, not started
        await asyncio.sleep(JOIN_PAUSE_S)


def _find_or_make(plan: RuntimePlan) -> tuple[Any, bool]:
    """Return the coordinator's handle, and whether it was made here. Blocks."""
    try:
        return ray.get_actor(COORDINATOR, namespace=plan.namespace), False
    except ValueError:
        log.info("there is no runtime to join: starting one", namespace=plan.namespace)
    options = {"name": COORDINATOR, "namespace": plan.namespace, **COORDINATOR_OPTIONS}
    if plan.detached:
        options["lifetime"] = "detached"
    if plan.machine is not None:
        here = ray.get_runtime_context().get_node_id()
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(here, soft=True)
    try:
        return ray.remote(Coordinator).options(**options).remote(plan), True
    except ValueError:  # somebody else was faster
        return ray.get_actor(COORDINATOR, namespace=plan.namespace), False


async def end_runtime(coordinator: Any, settings: Settings) -> None:
    """Stop a runtime: its hosts finish what they have in hand, the store is given back, the actors end."""
    try:
        async with asyncio.timeout(3 * settings.close_timeout_s):
            await coordinator.stop.remote()
    except ActorDiedError as error:
        log.debug("the coordinator has ended already", reason=reason_of(error))
    except (RayError, TimeoutError) as error:
        log.warning("the runtime did not stop gracefully", reason=reason_of(error))
    await asyncio.to_thread(ray.kill, coordinator)
