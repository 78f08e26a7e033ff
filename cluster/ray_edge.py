"""Ray's errors as ours, and calls to Ray actors by name: what the coordinator and clients share.

Not here: starting Ray (`ray_session.py`), what the actors do.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from cluster.transport import HostGone
from store.errors import EventrayError

COORDINATOR = "coordinator"


def namespace_of(store_id: str) -> str:
    """Return the Ray namespace of the runtime on this store."""
    return f"eventray-{store_id}"


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


class RayTransport:
    """Carries calls to hosts, which it finds by name."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._handles: dict[str, Any] = {}

    async def call(self, host: str, payload: bytes) -> bytes:
        """Execute a packed call on a host; see `Transport`."""
        answers: bytes = await self.ask(host, "execute", payload)
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
