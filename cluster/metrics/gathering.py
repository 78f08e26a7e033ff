"""Asking all processes of a runtime for their counts, each for so long and no longer: who hangs is shown as down.

Ray-free: they are asked through a port. At most one call of a kind waits at each process, however often it is scraped.
Not here: what is made of it (`exposition.py`, `judging.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any, NamedTuple

from cluster.metrics.counting import Samples, unpack_samples
from cluster.status import ProcessStatus, RuntimeStatus
from cluster.transport import HostGone
from projections.host import ProjectionHealth
from store.errors import EventrayError

Ask = Callable[[str, str], Awaitable[Any]]
"""Calls a method of a process of that name. Raises HostGone, and the EventrayErrors that the method raises."""

COORDINATOR_WITHIN_S = 1.0
PROCESS_WITHIN_S = 2.0
STARTING = "the runtime is starting: its coordinator has not answered yet"


class Gathered(NamedTuple):
    """What was to be had."""

    status: RuntimeStatus | None
    """The coordinator's; None: it does not answer now."""
    known: RuntimeStatus | None
    """The last one that it gave."""
    why_none: str
    """Why it does not answer."""
    samples: dict[str, Samples]
    """By the title of the process."""
    down: dict[str, str]
    """Processes that did not answer, and why, by title."""
    health: dict[str, ProjectionHealth]
    """Of projection hosts."""
    seconds: float


class Gatherer:
    """Asks, and remembers who there was while the coordinator says nothing."""

    def __init__(self, ask: Ask, coordinator: str) -> None:
        self._ask = ask
        self._coordinator = coordinator
        self._known: RuntimeStatus | None = None
        self._calls: dict[tuple[str, str], asyncio.Future[Any]] = {}
        self._gathering: asyncio.Future[Gathered] | None = None

    async def gather(self) -> Gathered:
        """Ask all. Takes 3 s at most; who comes meanwhile gets the same answer."""
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.ensure_future(self._gather())
        return await asyncio.shield(self._gathering)

    def close(self) -> None:
        """Wait for nobody any more."""
        for call in [*self._calls.values(), *([self._gathering] if self._gathering else [])]:
            call.cancel()

    async def _gather(self) -> Gathered:
        began_s = time.monotonic()
        status, why_none = await self._within(self._coordinator, "status", COORDINATOR_WITHIN_S)
        self._known = status or self._known
        known = self._known
        hosts: list[ProcessStatus] = list(known.hosts) if known else []
        followers = list(known.projection_hosts) if known else []
        self._forget_but({self._coordinator, *(each.name or "" for each in (*hosts, *followers))})
        samples: dict[str, Samples] = {}
        down: dict[str, str] = {}
        health: dict[str, ProjectionHealth] = {}

        async def ask_for_counts(title: str, name: str | None, otherwise: str) -> None:
            packed, reason = await self._within(name, "metrics", PROCESS_WITHIN_S) if name else (None, otherwise)
            if packed is None:
                down[title] = reason
            else:
                samples[title] = unpack_samples(packed)

        async def ask_for_health(title: str, name: str | None) -> None:
            told, reason = await self._within(name, "health", PROCESS_WITHIN_S) if name else (None, "")
            if isinstance(told, ProjectionHealth):
                health[title] = told
            elif reason:
                down[title] = reason

        about = [(each.title, each.name, each.failure or "it is starting") for each in (*hosts, *followers)]
        await asyncio.gather(
            *(ask_for_counts(*each) for each in [(self._coordinator, self._coordinator, ""), *about]),
            *(ask_for_health(each.title, each.name) for each in followers),
        )
        return Gathered(status, known, why_none, samples, down, health, time.monotonic() - began_s)

    async def _within(self, name: str, method: str, patience_s: float) -> tuple[Any, str]:
        """Call a method; return its answer, or None and why there is none."""
        call = self._calls.get((name, method))
        if call is None or call.done():
            call = self._calls[name, method] = asyncio.ensure_future(self._ask(name, method))
        await asyncio.wait({call}, timeout=patience_s)
        if not call.done():
            return None, STARTING if self._known is None else f"no answer within {patience_s:g} s"
        if call.cancelled():
            return None, "it has been replaced"
        error = call.exception()
        if error is None:
            return call.result(), ""
        if not isinstance(error, EventrayError):
            raise error
        return None, str(error.args[-1] if isinstance(error, HostGone) else error)

    def _forget_but(self, names: Collection[str]) -> None:
        """Wait no longer for processes that are no more."""
        for name, method in [key for key in self._calls if key[0] not in names]:
            self._calls.pop((name, method)).cancel()
