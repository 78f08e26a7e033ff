"""Ray's errors as ours, and calls to Ray actors by name: what the coordinator and clients share.

Not here: starting Ray (`ray_session.py`), what the actors do.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayActorError, RayError, RayTaskError

from actors.wire import pieces_of
from cluster.transport import HostGone
from store.errors import EventrayError, StoreUnavailable

COORDINATOR = "coordinator"
NAMESPACE_PREFIX = "eventray-"
ASK_PAUSE_S = 0.2


class NoCoordinator(EventrayError):
    """The runtime's coordinator has ended: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


def namespace_of(store_id: str) -> str:
    """Return the Ray namespace of the runtime on this store."""
    return NAMESPACE_PREFIX + store_id


def is_runtime(namespace: str) -> bool:
    """Tell whether a Ray namespace is a runtime's."""
    return namespace.startswith(NAMESPACE_PREFIX)


def temp_dir() -> Path:
    """Return the directory of Ray on this machine. The process must be connected to it."""
    node: Any = ray._private.worker._global_node
    return Path(node.get_temp_dir_path())


def reason_of(error: BaseException) -> str:
    """Return what Ray says of a failure, in one line."""
    if isinstance(error, RayTaskError):
        return f"{type(error.cause).__name__}: {error.cause}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, RayActorError) and len(lines) > 1 and "creation task" in lines[0]:
        return lines[-1]
    return lines[0] if lines else type(error).__name__


def own_error(error: RayError) -> EventrayError | None:
    """Return the error of ours that an actor's method raised; None if it was something else."""
    cause = error.cause if isinstance(error, RayTaskError) else None
    return cause if isinstance(cause, EventrayError) else None


async def ask(coordinator: Any, patience_s: float, method: str, *arguments: Any) -> Any:
    """Call a coordinator's method; where it dies meanwhile, call the one that Ray makes in its place.

    One that was made anew can't begin before the store is there, so StoreUnavailable that may pass is waited for too.
    Raises at once what the method itself raises, and NoCoordinator where it has ended for good, or is not there again
    within `patience_s`.
    """
    loop = asyncio.get_running_loop()
    lost_s: float | None = None
    while True:
        try:
            return await getattr(coordinator, method).remote(*arguments)
        except RayError as error:
            own = own_error(error)
            if own is not None and not (isinstance(own, StoreUnavailable) and own.passing):
                raise own from error
            if own is None and isinstance(error, RayTaskError) and not isinstance(error.cause, RayError):
                raise
            lost_s = loop.time() if lost_s is None else lost_s
            final = isinstance(error, ActorDiedError) and not error.preempted
            if final or loop.time() - lost_s > patience_s:
                raise own or NoCoordinator(reason_of(error)) from error
        await asyncio.sleep(ASK_PAUSE_S)


class RayTransport:
    """Carries calls to hosts, which it finds by name."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._handles: dict[str, Any] = {}

    async def call(self, host: str, payload: bytes) -> bytes:
        """Execute a packed call on a host; see `Transport`."""
        answers: bytes = await self.ask(host, "execute", *pieces_of(payload))
        return answers

    async def ask(self, name: str, method: str, *arguments: Any) -> Any:
        """Call a method of a named actor. Raises HostGone, and the EventrayErrors that the method raises."""
        try:
            handle = self._handles.get(name)
            if handle is None:
                handle = await asyncio.to_thread(ray.get_actor, name, namespace=self._namespace)
                self._handles[name] = handle
            return await getattr(handle, method).remote(*arguments)
        except ValueError as error:
            raise HostGone(name, "Ray knows no actor of that name") from error
        except RayError as error:
            if (own := own_error(error)) is not None:
                raise own from error
            self._handles.pop(name, None)
            raise HostGone(name, reason_of(error)) from error
