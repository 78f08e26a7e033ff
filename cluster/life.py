"""A runtime that outlives the process which begins it: bringing it up on a cluster, and down.

Not here: opening one for as long as a program uses it (`runtime.py`), how it is meanwhile (`overview.py`).
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, NamedTuple

import ray
from ray.util import list_named_actors

from cluster import local_ray, ray_session
from cluster.application import Application, application_of
from cluster.metrics import announcing
from cluster.opening import open_for
from cluster.placement import check_hosts
from cluster.ray_edge import COORDINATOR, is_runtime, namespace_of, temp_dir
from cluster.runtime import Runtime, end_runtime
from cluster.settings import Settings, read_settings
from cluster.status import RuntimeStatus
from cluster.undoing import begun
from store.errors import EventrayError
from store.opening import open_store
from store.records import Writer
from store.urls import shared_url, shown_url

GONE_WITHIN_S = 10.0
SERVED_WITHIN_S = 15.0
PAUSE_S = 0.1


class NotDetached(EventrayError):
    """A program runs a runtime on {0}, which ends with that program: end it first, then bring one up that stays."""

    def __init__(self, store: str) -> None:
        super().__init__(store)


class RunsElsewhere(EventrayError):
    """No runtime on {0} is at this Ray, but the store was not given back by {1}: give the --address of its Ray.

    If that cluster is lost, there is nothing to end: `eventray up` takes the store over.
    """

    def __init__(self, store: str, holder: str) -> None:
        super().__init__(store, holder)


class Up(NamedTuple):
    """What `up` found or made."""

    address: str
    """Of Ray: HOST:PORT."""
    ray_begun: bool
    """Whether this Ray was begun for it, on this machine."""
    joined: bool
    """Whether the runtime ran already."""
    dashboard: str | None
    """The address of Ray's dashboard; None: it has none."""
    status: RuntimeStatus


class Down(NamedTuple):
    """What `down` ended."""

    ran: bool
    """Whether there was a runtime."""
    ray_ended: bool
    """Whether Ray was ended too: `up` had begun it, and no other runtime was on it."""


async def up(
    url: str,
    hosts: int | None,
    app: Application | str | None,
    address: str | None,
    shards: int | None,
    settings: Settings | None = None,
) -> Up:
    """Bring up a runtime that stays, or join the one that runs; return once it serves.

    `hosts` None: as many as were wanted on this store last, or one. Ray: as `Runtime.open` says; where none is to be
    joined, one is begun on this machine that stays too. Raises what `Runtime.open` does, and NotDetached.
    """
    settings, application = settings or read_settings(), application_of(app)
    await _check_store(url, hosts, shards)
    async with AsyncExitStack() as failing:  # or stopped with Ctrl-C: Ray's processes are nobody's then
        found, keeper = await begun(partial(local_ray.find_or_begin, address, settings), _end_ray, failing)
        async with Runtime.open(url, hosts, application, found, shards, settings, detached=True) as runtime:
            status = await _status_with_metrics(runtime)
            if not status.detached:
                raise NotDetached(shown_url(url))
            if keeper is not None:
                await asyncio.to_thread(local_ray.remember, found, keeper)
            dashboard = await asyncio.to_thread(ray_session.dashboard_url)
            joined_address = ray_session.joined_address()
        failing.pop_all()
    return Up(joined_address, keeper is not None, runtime.joined, dashboard, status)


async def down(url: str, address: str | None, force: bool = False, settings: Settings | None = None) -> Down:
    """End the runtime on a store, wherever it was begun; return once its processes are gone.

    Its hosts finish what they have in hand, its projections come to the log's end, and the store is given back; with
    `force` none of that. A Ray that `up` began ends with the last runtime on it. Raises NotAStore, RayUnavailable,
    RunsElsewhere.
    """
    settings = settings or read_settings()
    store = await open_store(shared_url(url), create=False)
    try:
        namespace, holding = namespace_of(store.store_id), await store.holding()
    finally:
        await store.close()
    known = ray_session.known_address(address)
    ran, keeper = False, None
    if known is not None:
        async with AsyncExitStack() as ending:
            await ray_session.connected(known, settings, ending)
            ran = await _end_runtime_in(namespace, settings, force)
            await asyncio.to_thread(announcing.sweep, temp_dir())
            keeper = await asyncio.to_thread(_keeper_of_nobody)
    if keeper is not None:
        await asyncio.to_thread(local_ray.stop, keeper)
    if not ran and holding.holder is not None and not holding.released:
        raise RunsElsewhere(shown_url(url), holding.holder)
    return Down(ran, keeper is not None)


def _end_ray(found: tuple[str, Writer | None]) -> None:
    """End the Ray that was found, if it was begun for it."""
    if (keeper := found[1]) is not None:
        local_ray.stop(keeper)


async def _status_with_metrics(runtime: Runtime) -> RuntimeStatus:
    """Return how the runtime is, once its exporter serves or has failed to; as it is, if that takes long."""
    deadline_s = asyncio.get_running_loop().time() + SERVED_WITHIN_S
    while True:
        status = await runtime.status()
        begins = status.exporter is not None and not (status.metrics or status.exporter.failure)
        if not begins or asyncio.get_running_loop().time() > deadline_s:
            return status
        await asyncio.sleep(PAUSE_S)


async def _check_store(url: str, hosts: int | None, shards: int | None) -> None:
    """See to the store before a Ray is begun for it."""

    def check(shards_there: int) -> None:
        if hosts is not None:
            check_hosts(hosts, shards_there)

    await (await open_for(shared_url(url), shards, check)).close()


async def _end_runtime_in(namespace: str, settings: Settings, force: bool) -> bool:
    """End what runs in a Ray namespace; return whether there was a runtime."""
    try:
        coordinator: Any = await asyncio.to_thread(ray.get_actor, COORDINATOR, namespace=namespace)
    except ValueError:
        return False
    if force:
        await asyncio.to_thread(ray.kill, coordinator)
    else:
        await end_runtime(coordinator, settings)
    await _end_left(namespace)
    return True


async def _end_left(namespace: str) -> None:
    """Wait until the runtime's processes, which watch the coordinator, have ended; end those that have not."""
    loop = asyncio.get_running_loop()
    deadline_s = loop.time() + GONE_WITHIN_S
    while left := await asyncio.to_thread(_actors_in, namespace):
        if loop.time() > deadline_s:
            for name in left:
                await asyncio.to_thread(_kill, name, namespace)
        await asyncio.sleep(PAUSE_S)


def _actors_in(namespace: str) -> list[str]:
    return [each["name"] for each in list_named_actors(all_namespaces=True) if each["namespace"] == namespace]


def _kill(name: str, namespace: str) -> None:
    try:
        ray.kill(ray.get_actor(name, namespace=namespace))
    except ValueError:
        return  # it has ended meanwhile


def _keeper_of_nobody() -> Writer | None:
    """Return who keeps the Ray of this process, if `up` began it and no runtime is on it any more."""
    if any(is_runtime(each["namespace"]) for each in list_named_actors(all_namespaces=True)):
        return None
    return local_ray.keeper_of_this_ray()
