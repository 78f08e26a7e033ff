"""The places for one kind of process (`host-1`, `host-2`, ...): filling them, emptying them, giving them up.

Ray-free. Not here: how many there should be and where (`spreading.py`), watching the process in a place
(`supervision.py`), what the processes work on (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import structlog

from cluster.settings import Settings
from cluster.spreading import HostPlace, Node, changes
from cluster.supervision import Duty, Processes, Supervisor

log = structlog.get_logger(__name__)

Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]


class Places:
    """All places of one kind, in the order of their numbers."""

    def __init__(
        self,
        kind: str,
        processes: Processes,
        settings: Settings,
        generation: int,
        duty: Duty,
        choose_node: Callable[[Iterable[str | None]], str | None],
        spawn: Spawn,
    ) -> None:
        """`choose_node` gets the node of each other place's process. `spawn` runs a coroutine beside the others."""
        self.all: list[Supervisor] = []
        self._kind = kind
        self._processes = processes
        self._settings = settings
        self._generation = generation
        self._duty = duty
        self._choose_node = choose_node
        self._spawn = spawn
        self._incarnations = itertools.count(1)
        self._filling: dict[Supervisor, asyncio.Task[None]] = {}
        self._ending: set[asyncio.Task[None]] = set()

    @property
    def serving(self) -> list[str]:
        """The processes that work may go to: those that stay, or, while none of them serves, those that leave."""
        serving = [(each.name, each.leaving) for each in self.all if each.name is not None]
        return [name for name, leaving in serving if not leaving] or [name for name, _ in serving]

    @property
    def ending(self) -> bool:
        """Whether a place is being given up."""
        return bool(self._ending)

    def add(self, adopted: tuple[str, str] | None = None) -> None:
        """Make one more place. `adopted`: for this process, of that name and on that node, which is at work already."""
        titles = {each.title for each in self.all}
        title = _title(adopted[0]) if adopted else ""
        if not title or title in titles:
            numbered = (f"{self._kind}-{number}" for number in itertools.count(1))
            title = next(title for title in numbered if title not in titles)
        new_name = partial(self._new_name, title)
        each = Supervisor(title, self._processes, self._settings, self._duty, new_name, self._node_for_one, adopted)
        self.all = sorted([*self.all, each], key=lambda each: (len(each.title), each.title))
        self._filling[each] = self._spawn(each.run())

    def adjust(
        self, wanted: int, nodes: Collection[Node], suspects: Collection[str], shards: Mapping[str, int]
    ) -> None:
        """Add places, or let some leave, so that there will be as many as wanted; `shards` counts each process's."""
        seen = [
            HostPlace(each.title, each.node, each.name is not None, each.leaving, shards.get(each.name or "", 0))
            for each in self.all
        ]
        change = changes(seen, nodes, wanted, suspects)
        for each in self.all:
            if each.title in change.leave:
                log.info("a process is to leave", process=each.name, node=each.node)
                each.leaving = True
        for _ in range(change.add):
            self.add()

    def give_up(self, each: Supervisor) -> None:
        """End what is in a place, after what it has in hand, and forget the place."""
        self.all.remove(each)
        task = self._spawn(self._end(each, self._filling.pop(each)))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def end_strays(self) -> None:
        """End what an earlier coordinator, which did not know yet that it was followed, made after this one had begun.

        Raises ProcessLost where it can't be told what is there.
        """
        for name in await self._processes.strays():
            if _generation(name) < self._generation:
                log.warning("a process that an earlier coordinator made too late is ended", process=name)
                await self._processes.kill(name)

    async def stop(self) -> None:
        """End all processes, each after what it has in hand."""
        await cancelled(self._filling.values())
        await asyncio.gather(*(each.stop() for each in self.all), *self._ending)

    async def abandon(self) -> None:
        """End all processes at once."""
        await self.leave()
        for each in self.all:
            await each.abandon()

    async def leave(self) -> None:
        """Watch the processes no longer, and leave them at work."""
        await cancelled([*self._filling.values(), *self._ending])

    async def _end(self, each: Supervisor, filling: asyncio.Task[None]) -> None:
        await cancelled([filling])
        name = each.process
        await each.stop()
        if name is not None:
            self._duty.over(name)

    def _new_name(self, title: str) -> str:
        return f"{title}-{self._generation}-{next(self._incarnations)}"

    def _node_for_one(self) -> str | None:
        """Choose for one more process: a place whose process is lost has no node meanwhile."""
        return self._choose_node(each.node for each in self.all)


def _title(name: str) -> str:
    """The place of a process: `host-3` of `host-3-7-1`."""
    return name.rsplit("-", 2)[0]


def _generation(name: str) -> int:
    """The generation of the coordinator that made a process: 7 of `host-3-7-1`."""
    return int(name.rsplit("-", 2)[1])


async def cancelled(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancel tasks, and return once they have ended."""
    waiting: Sequence[asyncio.Task[None]] = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
