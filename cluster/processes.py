"""The Ray actors that a coordinator makes: starting, asking and ending them by name.

Not here: what they do, and when they are made (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import ray
import structlog
from ray.exceptions import ActorDiedError, RayError
from ray.util import list_named_actors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.health import HostHealth
from cluster.keeping import Keeper, Whereabouts
from cluster.ray_edge import own_error, reason_of
from cluster.supervision import ProcessLost
from store.errors import EventrayError

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")

PROCESS_OPTIONS = {
    "max_restarts": 0,
    "max_task_retries": 0,
    "lifetime": "detached",
    "concurrency_groups": {"health": 1, "keeping": 1, "metrics": 1, "showing": 2},
}
"""A process that ended is replaced by one of another name, and nothing is sent twice behind our back. A coordinator
that dies leaves its processes at work; `keeping.py` sees to it that they end with the runtime."""

ANSWER_WITHIN_S = 2.0
"""How long a process may take to say where it is, when a coordinator that came back asks."""


class StoreElsewhere(EventrayError):
    """{0} is on another machine than the store: a SQLite file serves one machine, PostgreSQL several."""

    def __init__(self, name: str) -> None:
        super().__init__(name)


class RayProcesses:
    """Ray actors of one class, by name; see `Processes`, `HostProcesses` and `ProjectionProcesses`."""

    def __init__(
        self, actor_class: type, kind: str, keeper: Keeper, cpus: float, machine: str | None, plan: Callable[[str], Any]
    ) -> None:
        """Their names begin with `kind`. `machine`: they belong on it; None: anywhere. `plan` makes their argument."""
        self._class = actor_class
        self._kind = kind
        self._keeper = keeper
        self._cpus = cpus
        self._machine = machine
        self._plan = plan
        self._handles: dict[str, Any] = {}
        self._makings: dict[str, asyncio.Future[Any]] = {}
        self._openings: dict[str, asyncio.Task[str]] = {}

    async def start(self, name: str, node: str | None) -> None:
        self._makings[name] = making = asyncio.ensure_future(asyncio.to_thread(self._make, name, node))
        try:
            self._handles[name] = handle = await asyncio.shield(making)  # Ray makes it, whoever is cancelled here
        except (RayError, ValueError) as error:
            raise ProcessLost(name, reason_of(error)) from error
        self._openings[name] = opening = asyncio.ensure_future(self._open(name, handle))
        opening.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def adopt(self) -> dict[str, str]:
        names = await self._names()
        nodes = await asyncio.gather(*map(self._adopted, names))
        return {name: node for name, node in zip(names, nodes, strict=True) if node is not None}

    async def strays(self) -> list[str]:
        return [name for name in await self._names() if name not in self._handles]

    async def open(self, name: str) -> str:
        if (opening := self._openings.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        return await asyncio.shield(opening)

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
        if (opening := self._openings.pop(name, None)) is not None:
            opening.cancel()
        handle, making = self._handles.pop(name, None), self._makings.pop(name, None)
        try:
            if handle is None and making is not None:
                handle = await asyncio.shield(making)
            await asyncio.to_thread(self._kill, name, handle)
        except ValueError as error:
            log.info("what is to be ended was not made", process=name, reason=str(error))
        except RayError as error:
            raise ProcessLost(name, reason_of(error)) from error

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        claimed: dict[int, int] = await _answer(name, self._handle(name).claim.remote(list(shards)))
        return claimed

    async def release(self, name: str, shards: Iterable[int]) -> None:
        await _answer(name, self._handle(name).release.remote(list(shards)))

    async def push_to(self, name: str, projection_hosts: Mapping[str, Sequence[int]]) -> None:
        await _answer(name, self._handle(name).push_to.remote(projection_hosts))

    async def follow(self, name: str, shards: Iterable[int]) -> None:
        await _answer(name, self._handle(name).follow.remote(sorted(shards)))

    async def followed(self, name: str) -> list[int]:
        shards: list[int] = await _answer(name, self._handle(name).followed.remote())
        return shards

    async def announce(self, name: str) -> str:
        told: str = await _answer(name, self._handle(name).announce.remote())
        return told

    def _handle(self, name: str) -> Any:
        if (handle := self._handles.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        return handle

    async def _names(self) -> list[str]:
        try:
            found = await asyncio.to_thread(list_named_actors, True)
        except RayError as error:
            raise ProcessLost(f"{self._kind}-*", reason_of(error)) from error
        names = [each["name"] for each in found if each["namespace"] == self._keeper.namespace]
        return [name for name in names if name.startswith(f"{self._kind}-")]

    def _kill(self, name: str, handle: Any) -> None:
        if handle is None:
            try:
                handle = ray.get_actor(name, namespace=self._keeper.namespace)
            except ValueError:
                return
        ray.kill(handle)

    def _make(self, name: str, node: str | None) -> Any:
        remote: Any = ray.remote  # its overloads know neither concurrency groups nor a mapping of options
        options = {"name": name, "namespace": self._keeper.namespace, "num_cpus": self._cpus}
        if node is not None:
            options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node, soft=True)
        return remote(**PROCESS_OPTIONS)(self._class).options(**options).remote(self._keeper, self._plan(name))

    async def _open(self, name: str, handle: Any) -> str:
        where = await _where(name, handle)
        if self._machine is not None and where.machine != self._machine:
            raise StoreElsewhere(name)
        await _answer(name, handle.open.remote())
        return where.node

    async def _adopted(self, name: str) -> str | None:
        """Take up a process and return its node; None if it had to be ended, or has ended by itself."""
        try:
            handle = await asyncio.to_thread(ray.get_actor, name, namespace=self._keeper.namespace)
        except ValueError:
            return None
        self._handles[name] = handle
        try:
            where = await asyncio.wait_for(_where(name, handle), ANSWER_WITHIN_S)
            if where.holder == self._keeper.holder and where.is_open:
                return where.node
            reason = "it had not begun its work" if not where.is_open else "it belongs to a runtime that has ended"
        except (TimeoutError, EventrayError) as error:
            reason = str(error) or f"no answer within {ANSWER_WITHIN_S} s"
        log.warning("a process that was there is ended", process=name, reason=reason)
        await self.kill(name)
        return None


class RayProcessesHere(RayProcesses):
    """Ray actors that all are on the node of this process."""

    async def start(self, name: str, node: str | None) -> None:
        await super().start(name, ray.get_runtime_context().get_node_id())


async def _where(name: str, handle: Any) -> Whereabouts:
    where: Whereabouts = await _answer(name, handle.where.remote())
    return where


async def _answer(name: str, ref: Awaitable[Answer]) -> Answer:
    """Await a call. Raises the EventrayError that the method raised, else ProcessLost."""
    try:
        return await ref
    except RayError as error:
        if (own := own_error(error)) is not None:
            raise own from error
        raise ProcessLost(name, reason_of(error)) from error
