"""What a coordinator does: it holds the store, beats, and sees that each shard has a host and the log a follower.

Ray-free: processes are made and asked through ports. The truth is in SQL; this only decides, so a coordinator that
comes back begins with the store. Not here: Ray (`coordinator.py`), watching one process (`supervision.py`), which
host gets which shards (`placement.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Protocol

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from cluster.placement import place
from cluster.settings import Settings
from cluster.supervision import Processes, ProcessLost, Supervisor
from store.errors import StoreUnavailable, Superseded
from store.ports import EventStore

log = structlog.get_logger(__name__)


class HostProcesses(Processes, Protocol):
    """Hosts."""

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        """Let a host claim those of the shards that are assigned to it; return their epochs."""
        ...

    async def push_to(self, name: str, projection_host: str) -> None:
        """Tell a host which process its committed events are pushed to."""
        ...


class Coordination:
    """One coordinator's work, from taking the store to giving it back."""

    def __init__(
        self,
        store: EventStore,
        hosts: HostProcesses,
        projections: Processes | None,
        host_count: int,
        settings: Settings,
    ) -> None:
        """`projections` None: the application has none."""
        self._store = store
        self._hosts = hosts
        self._projections = projections
        self._host_count = host_count
        self._settings = settings
        self._generation = 0
        self._incarnations = itertools.count(1)
        self._host_places: list[Supervisor] = []
        self._projection_place: Supervisor | None = None
        self._beat_task: asyncio.Task[None] | None = None
        self._beat_ending = asyncio.Event()
        self._place_tasks: set[asyncio.Task[None]] = set()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def projection_host(self) -> str | None:
        """The process that follows the log for all projections; None while there is none."""
        return self._projection_place.name if self._projection_place else None

    async def start(self, holder: str) -> None:
        """Take the store and bring up all processes; returns once they serve.

        Raises StoreHeld, Superseded, and whatever keeps the first processes from serving; then `abandon` is due.
        """
        self._generation = await self._store.take(holder)
        self._beat_task = self._spawn(self._beat())
        for former in {route.host for route in await self._store.routes() if route.host is not None}:
            await self._store.end_writer(former)
        numbers = [str(number) for number in range(1, self._host_count + 1)]
        placement = place(self._store.shards, numbers, {})
        for number in numbers:
            shards = [shard for shard, owner in placement.items() if owner == number]
            self._host_places.append(
                self._place(self._hosts, f"host-{number}", partial(self._serve, shards), self._fence)
            )
        places = list(self._host_places)
        if self._projections is not None:
            self._projection_place = self._place(self._projections, "projections", self._push_all_to, _nothing)
            places.append(self._projection_place)
        self._place_tasks = {self._spawn(each.run()) for each in places}
        serving = asyncio.gather(*(each.serving for each in places))
        either: list[asyncio.Future[Any]] = [serving, self._over]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if self._over.done():
            serving.cancel()
            self._over.result()
        else:
            serving.result()

    async def run(self) -> None:
        """Keep it so until `stop`. Raises what ended it otherwise: Superseded, and then `abandon` is due."""
        await asyncio.shield(self._over)

    async def stop(self) -> None:
        """End all processes, each after what it has in hand, and give the store back. Calling it twice is safe."""
        await _cancelled(self._place_tasks)
        await asyncio.gather(*(each.stop() for each in self._host_places))
        if self._projection_place is not None:
            await self._projection_place.stop()
        await self._end_beat()
        await self._give_back()
        if not self._over.done():
            self._over.set_result(None)

    async def abandon(self) -> None:
        """End all processes at once. What they were doing is decided by the store alone."""
        await _cancelled(self._place_tasks)
        await self._end_beat()
        for each in [*self._host_places, *([self._projection_place] if self._projection_place else [])]:
            await each.abandon()
        await self._give_back()

    # --- the work of the processes ---

    async def _serve(self, shards: Sequence[int], host: str) -> None:
        """Give a host that is ready its shards."""
        async for attempt in AsyncRetrying(retry=_may_pass, wait=wait_random_exponential(0.02, 1), reraise=True):
            with attempt:
                await self._store.assign(self._generation, dict.fromkeys(shards, host))
                claimed = await self._hosts.claim(host, shards)
        if missing := set(shards) - claimed.keys():
            raise ProcessLost(host, f"it could not claim the shards {sorted(missing)}")
        if self.projection_host is not None:
            await self._hosts.push_to(host, self.projection_host)

    async def _fence(self, host: str) -> None:
        """What a lost host has not committed by now never will be."""
        await self._store.end_writer(host)

    async def _push_all_to(self, projection_host: str) -> None:
        """Let all hosts push to a new projection host; one that can't be told now is told when it serves again."""
        for host in [each.name for each in self._host_places if each.name is not None]:
            try:
                await self._hosts.push_to(host, projection_host)
            except ProcessLost as error:
                log.info("a host can't be told of the new projection host", host=host, reason=str(error))

    async def _give_back(self) -> None:
        generation, self._generation = self._generation, 0
        if not generation:
            return
        try:
            await self._store.assign(generation, dict.fromkeys(range(self._store.shards)))
            await self._store.release(generation)
        except (Superseded, StoreUnavailable) as error:
            log.warning("the store was not given back", reason=str(error))

    async def _beat(self) -> None:
        while not await self._ending_within(self._settings.beat_interval_s):
            try:
                await self._store.beat(self._generation)
            except StoreUnavailable as error:
                log.warning("no beat: the store can't be written", reason=str(error))

    async def _ending_within(self, seconds: float) -> bool:
        """Wait that long, or until the beat is to end; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                return await self._beat_ending.wait()
        except TimeoutError:
            return False

    async def _end_beat(self) -> None:
        """Let the beat end after the one under way: a transaction is not cancelled."""
        self._beat_ending.set()
        if self._beat_task is not None:
            await asyncio.wait({self._beat_task})

    # --- parts ---

    def _place(
        self,
        processes: Processes,
        title: str,
        take_up: Callable[[str], Awaitable[None]],
        let_go: Callable[[str], Awaitable[None]],
    ) -> Supervisor:
        def new_name() -> str:
            return f"{title}-{self._generation}-{next(self._incarnations)}"

        return Supervisor(processes, self._settings, new_name, take_up, let_go)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._over.done():
            self._over.set_exception(error)


async def _nothing(_name: str) -> None:
    """A projection host needs no fence: its checkpoints are conditional."""


async def _cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and return once they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _may_pass(state: RetryCallState) -> bool:
    error: BaseException | None = state.outcome.exception() if state.outcome else None
    return isinstance(error, StoreUnavailable) and error.passing
