"""The exporter's place in a runtime: it is kept filled like the others, and nothing waits for it.

Ray-free. Not here: the exporter (`metrics/exporter.py`), watching a process (`supervision.py`).
"""

from __future__ import annotations

from typing import Protocol

import structlog

from actors.health import HostHealth
from cluster.places import Places, Spawn
from cluster.settings import Settings
from cluster.supervision import Duty, Processes, Supervisor
from store.errors import EventrayError

log = structlog.get_logger(__name__)


class Exporters(Processes, Protocol):
    """How exporters are made, asked and ended."""

    async def announce(self, name: str) -> str:
        """Let one be found, and no other; return where it serves. Raises ProcessLost."""
        ...


class ExporterPlace:
    """One place, on whichever node `Exporters` chooses."""

    def __init__(self, exporters: Exporters, settings: Settings, generation: int, spawn: Spawn) -> None:
        """`spawn` runs a coroutine beside the others."""
        self.url = ""
        """Where it serves; empty while it does not."""
        self._exporters = exporters
        self._spawn = spawn
        duty = Duty(_no_fence, self._serves, _nothing_said, _no_matter_where, self._over)
        self._places = Places("exporter", exporters, settings, generation, duty, lambda _held: None, spawn)

    async def begin(self) -> None:
        """Let there be an exporter from now on: the one that is there, or a new one. Does not wait for it."""
        there = sorted((await self._exporters.adopt()).items())
        self._places.add(there[0] if there else None)
        for name, _node in there[1:]:
            await self._exporters.kill(name)

    @property
    def supervisor(self) -> Supervisor | None:
        """Who keeps the place; None before `begin`."""
        return next(iter(self._places.all), None)

    async def end_strays(self) -> None:
        """See `Places.end_strays`."""
        await self._places.end_strays()

    async def stop(self) -> None:
        """End it, after what it has in hand."""
        self.url = ""
        await self._places.stop()

    async def abandon(self) -> None:
        """End it at once."""
        await self._places.abandon()

    async def leave(self) -> None:
        """Watch it no longer, and leave it at work."""
        await self._places.leave()

    def _serves(self, name: str) -> None:
        self._spawn(self._ask(name))

    async def _ask(self, name: str) -> None:
        try:
            self.url = await self._exporters.announce(name)
        except EventrayError as error:
            log.info("the exporter does not say where it serves", reason=str(error))

    def _over(self, _name: str) -> None:
        self.url = ""


async def _no_fence(_name: str) -> None:
    """An exporter needs none: it only reads."""


def _nothing_said(_name: str, _health: HostHealth) -> None:
    """An exporter says nothing that the coordinator acts on."""


def _no_matter_where(_node: str | None) -> None:
    """It stays on its node."""
