"""Keeping one actor process alive: it is polled, and replaced when it has ended or misses too many polls.

Ray-free: processes are made and asked through a port. Not here: what the process is for (`coordination.py`), and what
counts as a missed poll (`placement.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

import structlog

from actors.hosting import HostHealth
from cluster.placement import Polls, is_well
from cluster.settings import Settings
from store.errors import EventrayError

log = structlog.get_logger(__name__)

REPLACE_PAUSE_MAX_S = 5.0


class ProcessLost(EventrayError):
    """The process {0} has ended, or can't be reached: {1}"""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.reason = reason


class Processes(Protocol):
    """How processes of one kind are made, asked and ended. All of it raises ProcessLost where there is none."""

    async def start(self, name: str) -> None:
        """Begin to make a process of that name, which no other ever has, and to open it; doesn't wait for that."""
        ...

    async def open(self, name: str) -> None:
        """Wait until it is ready for work. Raises the EventrayError that keeps it from that."""
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
        """End it at once; nothing if it has ended already."""
        ...


class Supervisor:
    """One place in the cluster and the processes that fill it, one after the other."""

    def __init__(
        self,
        processes: Processes,
        settings: Settings,
        new_name: Callable[[], str],
        take_up: Callable[[str], Awaitable[None]],
        let_go: Callable[[str], Awaitable[None]],
    ) -> None:
        """`take_up` gives an opened process its work; `let_go` sees to it that a lost one never does any again."""
        self._processes = processes
        self._settings = settings
        self._new_name = new_name
        self._take_up = take_up
        self._let_go = let_go
        self.name: str | None = None
        """The process that has the work now."""
        self.serving: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once the first process serves; raises what kept it from that."""
        self._present: str | None = None
        """The process that has the work, or is to get it."""
        self._spare: str | None = None
        self._failures = 0
        """Processes in a row that were lost before they served."""

    async def run(self) -> None:
        """Fill the place for ever; ends with the first process's error if that one can't begin at all."""
        while True:
            name = self._spare or await self._start()
            self._spare, self._present = None, name
            reason = await self._live(name)
            self.name = None
            log.warning("a process is lost and will be replaced", process=name, reason=reason)
            await self._end(name)
            if not self.serving.done():
                return
            if self._failures:
                await asyncio.sleep(min(REPLACE_PAUSE_MAX_S, 0.1 * 2**self._failures))

    async def stop(self) -> None:
        """End the process that has the work gracefully, within the time that settings give; then whatever is there."""
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
        for name in (self._spare, self._present):
            if name is not None:
                await self._processes.kill(name)

    async def _start(self) -> str:
        name = self._new_name()
        await self._processes.start(name)
        return name

    async def _live(self, name: str) -> str:
        """From a process's start to its loss; return the reason of that."""
        ended = asyncio.ensure_future(self._processes.ended(name))
        begun = asyncio.ensure_future(self._begin(name))
        try:
            await asyncio.wait({ended, begun}, return_when=asyncio.FIRST_COMPLETED)
            if ended.done() and not begun.done():
                return self._not_begun(ProcessLost(name, ended.result()))
            if (error := begun.exception()) is not None:
                return self._not_begun(error)
            self._failures = 0
            if not self.serving.done():
                self.serving.set_result(None)
            return await self._watch(name, ended)
        finally:
            ended.cancel()
            begun.cancel()

    async def _begin(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._settings.open_timeout_s):
                await self._processes.open(name)
                self.name = name
                await self._take_up(name)
        except TimeoutError as error:
            reason = f"it was not ready within {self._settings.open_timeout_s} s; has Ray a free CPU for it?"
            raise ProcessLost(name, reason) from error

    def _not_begun(self, error: BaseException) -> str:
        self._failures += 1
        if not self.serving.done():
            self.serving.set_exception(error)
        return f"{type(error).__name__}: {error}"

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
                self._spare = self._spare or await self._start()
            elif not polls.missed and self._spare is not None:
                await self._processes.kill(self._spare)
                self._spare = None
        return f"it missed {polls.missed} polls"

    async def _poll(self, name: str) -> bool:
        """Ask a process how it is; False if it doesn't answer in time, or says that it hangs."""
        try:
            async with asyncio.timeout(self._settings.poll_timeout_s):
                health = await self._processes.health(name)
        except (TimeoutError, ProcessLost):
            return False
        return health is None or is_well(health, self._settings)

    async def _end(self, name: str) -> None:
        """See to it that a lost process does nothing any more, however often that has to be tried."""
        while True:
            try:
                await self._let_go(name)
                await self._processes.kill(name)
            except EventrayError as error:
                log.warning("a lost process can't be ended yet", process=name, reason=str(error))
                await asyncio.sleep(self._settings.poll_interval_s)
            else:
                return
