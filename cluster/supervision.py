"""Keeping one place filled with a process: it is polled, and replaced when it has ended or misses too many polls.

Ray-free: processes are made and asked through a port. Not here: what the process is for (`stewarding.py`), what counts
as a missed poll (`placement.py`), and which node it goes to (`spreading.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from actors.health import HostHealth
from cluster.placement import Polls, is_well
from cluster.settings import Settings
from store.errors import EventrayError, Superseded, told

log = structlog.get_logger(__name__)

REPLACE_PAUSE_MAX_S = 5.0
SPARE_PATIENCE_S = 0.3
"""How long the work of a lost process waits for a successor that is about to be ready."""


class ProcessLost(EventrayError):
    """The process {0} has ended, or can't be reached: {1}"""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = reason


class NotBegun(Exception):
    """A process could not begin its work."""

    def __init__(self, reason: BaseException) -> None:
        super().__init__(reason)
        self.reason = reason


class Processes(Protocol):
    """How processes of one kind are made, asked and ended. All of it raises ProcessLost where there is none."""

    async def start(self, name: str, node: str | None) -> None:
        """Begin to make a process of that name, which no other ever has, and to open it; doesn't wait for that.

        On that node if it can be; None: anywhere.
        """
        ...

    async def adopt(self) -> dict[str, str]:
        """Take up the processes of this runtime that an earlier coordinator has made; return the node of each.

        Those that do not answer or had not begun their work, and what an earlier runtime has left, are ended instead.
        """
        ...

    async def strays(self) -> list[str]:
        """Return the names of those that are there and were neither started nor taken up here."""
        ...

    async def open(self, name: str) -> str:
        """Wait until it is ready for work; return its node. Raises the EventrayError that keeps it from that."""
        ...

    async def health(self, name: str) -> HostHealth | None:
        """Ask how it is, from a thread of its own; None: it is there and has nothing to say."""
        ...

    async def ended(self, name: str) -> str:
        """Wait until the process is known to have ended; return why."""
        ...

    async def stop(self, name: str) -> None:
        """Let it finish what it has in hand, then end its work; the process stays until it is killed."""
        ...

    async def kill(self, name: str) -> None:
        """End it at once, also a stray; nothing if it has ended already."""
        ...


@dataclass(frozen=True)
class Duty:
    """What the processes of a place are for, as far as their supervisor has to know it."""

    fence: Callable[[str], Awaitable[None]]
    """Sees to it that a lost process never does any work again."""
    serves: Callable[[str], None]
    """That process is ready for work now."""
    asked: Callable[[str, HostHealth], None]
    """That process has said how it is, and is well."""
    failed: Callable[[str | None], None]
    """A process on that node has missed too many polls, or could not begin."""
    over: Callable[[str], None]
    """That process is fenced and ended: its work is free."""


class Supervisor:
    """One place in the cluster and the processes that fill it, one after the other."""

    def __init__(
        self,
        title: str,
        processes: Processes,
        settings: Settings,
        duty: Duty,
        new_name: Callable[[], str],
        choose_node: Callable[[], str | None],
        adopted: tuple[str, str] | None = None,
    ) -> None:
        """`adopted`: the name and node of a process that is at work already."""
        self.title = title
        """For people; does not change with the process."""
        self.name: str | None = None
        """The process that serves now."""
        self.process: str | None = None
        """The process that serves, is to serve, or is lost and not ended yet."""
        self.node: str | None = None
        """Where it is, or is to be."""
        self.health: HostHealth | None = None
        """What it last said of itself."""
        self.leaving = False
        """Whether the place is being emptied, to be given up."""
        self.failure = ""
        """Why the last process was lost, or could not begin."""
        self.failures = 0
        """Processes in a row that were lost before they served."""
        self.serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the first process serves; raises what kept it from that."""
        self.serving.add_done_callback(lambda serving: serving.cancelled() or serving.exception())
        self._processes = processes
        self._settings = settings
        self._duty = duty
        self._new_name = new_name
        self._choose_node = choose_node
        self._adopted = adopted
        """A process to go on with, and its node."""
        self._spare: str | None = None

    async def run(self) -> None:
        """Fill the place for ever."""
        while True:
            reason = await self._live()
            name, self.name, self.node, self.health = str(self.process), None, None, None
            self.failure = reason
            log.warning("a process is lost and will be replaced", process=name, reason=reason)
            await self._end(name)
            await self._promote_spare()
            self._duty.over(name)
            if self.failures:
                await asyncio.sleep(min(REPLACE_PAUSE_MAX_S, 0.1 * 2**self.failures))

    async def stop(self) -> None:
        """End the process that serves gracefully, within the time that settings give; then whatever is there.

        `run` must have been cancelled.
        """
        name, self.name = self.name, None
        if name is not None:
            try:
                async with asyncio.timeout(self._settings.close_timeout_s):
                    await self._processes.stop(name)
            except (TimeoutError, EventrayError) as error:
                reason = str(error) or "it took too long"
                log.warning("a process did not end gracefully", process=name, reason=reason)
        await self.abandon()

    async def abandon(self) -> None:
        """End at once whatever process is there."""
        for name in (self._spare, self.process):
            if name is not None:
                await self._processes.kill(name)

    # --- one process ---

    async def _live(self) -> str:
        """From a process's start to its loss; return the reason of that."""
        adopted, self._adopted = self._adopted, None
        try:
            self.process = adopted[0] if adopted else self._spare or await self._start()
        except ProcessLost as error:
            return self._not_begun(error)
        name, self._spare = self.process, None
        ended = asyncio.ensure_future(self._processes.ended(name))
        try:
            node = adopted[1] if adopted else await self._begun(name, ended)
            self._serves(name, node)
            return await self._watch(name, ended)
        except NotBegun as error:
            return self._not_begun(error.reason)
        finally:
            ended.cancel()

    async def _begun(self, name: str, ended: asyncio.Future[str]) -> str:
        """Wait until a process is ready for its work; return its node. Raises NotBegun."""
        begun = asyncio.ensure_future(self._begin(name))
        try:
            await asyncio.wait({ended, begun}, return_when=asyncio.FIRST_COMPLETED)
            if not begun.done():
                raise NotBegun(ProcessLost(name, ended.result()))
            if (error := begun.exception()) is not None:
                raise NotBegun(error)
            return begun.result()
        finally:
            begun.cancel()

    async def _start(self) -> str:
        name = self.process = self._new_name()
        self.node = self._choose_node()
        await self._processes.start(name, self.node)
        return name

    async def _begin(self, name: str) -> str:
        """Wait until a process is open; return its node."""
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                return await self._processes.open(name)
        except TimeoutError as error:
            reason = f"it was not ready within {self._settings.open_timeout_s} s; has Ray a free CPU for it?"
            raise ProcessLost(name, reason) from error

    def _serves(self, name: str, node: str) -> None:
        self.name, self.node = name, node
        self.failure, self.failures = "", 0
        if not self.serving.done():
            self.serving.set_result(None)
        self._duty.serves(name)

    def _not_begun(self, error: BaseException) -> str:
        self.failures += 1
        self._duty.failed(self.node)
        if not self.serving.done():
            self.serving.set_exception(error)
        return told(error)

    async def _watch(self, name: str, ended: asyncio.Future[str]) -> str:
        """Poll a process until it is lost; return the reason."""
        loop = asyncio.get_running_loop()
        polls = Polls(self._settings, loop.time())
        while not polls.lost:
            await asyncio.wait({ended}, timeout=max(0.0, polls.next_s - loop.time()))
            if ended.done():
                return ended.result()
            polls.asked(loop.time())
            polls.answered(await self._poll(name))
            if polls.doubtful:
                await self._get_spare()
            elif not polls.missed and self._spare is not None:
                spare, self._spare = self._spare, None
                await self._processes.kill(spare)
        self._duty.failed(self.node)
        return f"it missed {polls.missed} polls"

    async def _get_spare(self) -> None:
        """Let a successor get ready; without one, it is made when it is needed."""
        if self._spare is None:
            with suppress(ProcessLost):
                spare = self._new_name()
                await self._processes.start(spare, self._choose_node())
                self._spare = spare

    async def _promote_spare(self) -> None:
        """If the successor is ready, let it serve at once: then nobody else need take over the lost one's work."""
        if self._spare is not None:
            with suppress(TimeoutError, EventrayError):
                async with asyncio.timeout(SPARE_PATIENCE_S):
                    self._adopted = self._spare, await self._processes.open(self._spare)

    async def _poll(self, name: str) -> bool:
        """Ask a process how it is; False if it doesn't answer in time, or says that it hangs."""
        try:
            async with asyncio.timeout(self._settings.poll_timeout_s):
                health = await self._processes.health(name)
        except (TimeoutError, ProcessLost):
            return False
        if health is None:
            return True
        self.health = health
        if well := is_well(health, self._settings):
            self._duty.asked(name, health)
        return well

    async def _end(self, name: str) -> None:
        """See to it that a lost process does nothing any more, however often that has to be tried."""
        while True:
            try:
                await self._duty.fence(name)
                await self._processes.kill(name)
            except Superseded:
                raise
            except EventrayError as error:
                log.warning("a lost process can't be ended yet", process=name, reason=str(error))
                await asyncio.sleep(self._settings.poll_interval_s)
            else:
                return
