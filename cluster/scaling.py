"""Changing a runtime that runs, from another process: it is joined, told, and left. Nothing is started here.

Not here: what a coordinator does about it (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray

from cluster import ray_session
from cluster.placement import check_hosts
from cluster.ray_edge import COORDINATOR, ask, namespace_of
from cluster.settings import Settings, read_settings
from cluster.status import RuntimeStatus
from store.errors import EventrayError
from store.opening import open_store
from store.urls import shared_url, shown_url


class NoRuntime(EventrayError):
    """No runtime on {0} was found: {1}. Bring one up (`eventray up`), or give the --address of its Ray."""

    def __init__(self, store: str, reason: str) -> None:
        super().__init__(store, reason)


async def scale(url: str, hosts: int, address: str | None) -> RuntimeStatus:
    """Let a runtime keep so many hosts; return once each serves its share of the shards.

    Raises InvalidValue, NotAStore, NoRuntime, RayUnavailable, NotSettled.
    """
    return await _asked(url, address, "scale", hosts)


async def rebalance(url: str, address: str | None) -> RuntimeStatus:
    """Return once hosts and shards are spread evenly. Raises NotAStore, NoRuntime, RayUnavailable, NotSettled."""
    return await _asked(url, address, "rebalance")


async def _asked(url: str, address: str | None, method: str, *hosts: int) -> RuntimeStatus:
    settings = read_settings()
    store = await open_store(shared_url(url), create=False)
    try:
        for count in hosts:
            check_hosts(count, store.shards)
        namespace = namespace_of(store.store_id)
    finally:
        await store.close()
    return await asyncio.to_thread(_ask_there, url, namespace, address, settings, method, hosts)


def _ask_there(
    url: str, namespace: str, address: str | None, settings: Settings, method: str, arguments: tuple[int, ...]
) -> RuntimeStatus:
    """Ask the coordinator in that namespace. Blocks. Raises NoRuntime."""
    known = ray_session.known_address(address)
    if known is None and not ray.is_initialized():
        raise NoRuntime(shown_url(url), "no Ray runs on this machine")
    connected = ray_session.connect(known, settings)
    try:
        coordinator: Any = ray.get_actor(COORDINATOR, namespace=namespace)
    except ValueError as error:
        raise NoRuntime(shown_url(url), f"none is on the Ray at {ray_session.joined_address()}") from error
    else:
        status: RuntimeStatus = asyncio.run(ask(coordinator, settings.open_timeout_s, method, *arguments))
        return status
    finally:
        if connected:
            ray_session.disconnect()
