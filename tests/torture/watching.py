"""What a run's hosts and projection hosts count, gathered while they live and from what they wrote before they died.

A host that was killed, or that Ray holds to be dead, answers no question; so what matters of it is read from the log
files of Ray's workers. Not here: judging (`checker.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from store.errors import EventrayError
from tests.integration.faulty_shop import REFUSED
from tests.torture.ground import PROJECTIONS, Ground

POLL_INTERVAL_S = 0.5
LOG_LINES = {
    "shards lost to a new epoch": "fenced: another host owns the shard",
    "fenced appends": REFUSED,
    "unknown outcomes": "an append's outcome is unknown",
}


class Watch:
    """Asks the coordinator and every projection host how they are, twice a second."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._gap_reads: dict[str, int] = {}
        """By projection host: the last that it said."""
        self._moved: dict[int, int] = {}
        """By generation: how many shards its coordinator has moved, as far as it said."""

    async def run(self) -> None:
        """Ask on until cancelled."""
        while True:
            for ask in (self._ask_coordinator, self._ask_projections):
                with suppress(RayError, EventrayError, ValueError, TimeoutError):
                    async with asyncio.timeout(2):
                        await ask()
            await asyncio.sleep(POLL_INTERVAL_S)

    async def _ask_coordinator(self) -> None:
        status = await self._ground.status()
        self._moved[status.generation] = max(status.moved, self._moved.get(status.generation, 0))

    async def _ask_projections(self) -> None:
        for actor in self._ground.actors():
            if actor.role == PROJECTIONS:
                handle: Any = await asyncio.to_thread(ray.get_actor, actor.name, namespace=self._ground.namespace)
                health = await handle.health.remote()
                self._gap_reads[actor.name] = sum(lag.gap_reads for lag in health.lags)

    def counts(self) -> Counter[str]:
        """All that was counted."""
        seen = {"gap reads": sum(self._gap_reads.values()), "handovers": sum(self._moved.values())}
        return Counter(seen) + logged(self._ground.directory)


def logged(directory: Path) -> Counter[str]:
    """Count the lines that tell of something in the log files of the workers, also of those that are dead."""
    counts: Counter[str] = Counter()
    for path in directory.glob("ray/session_2*/logs/worker-*"):
        text = path.read_text(errors="replace")
        for name, line in LOG_LINES.items():
            counts[name] += text.count(line)
    return counts
