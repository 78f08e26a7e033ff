"""All that is told of a runtime's health: it looks into SQL again and again, asks the processes, and judges.

Ray-free. Not here: HTTP (`serving.py`), the actor that runs it (`exporter.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from cluster.metrics.counting import Samples, merged
from cluster.metrics.exposition import exposition
from cluster.metrics.gathering import Gathered, Gatherer
from cluster.metrics.judging import (
    LOOKS_MIN,
    NEEDS_SOMEBODY,
    Followers,
    Limits,
    Verdict,
    judged,
    needs_somebody,
    unready,
)
from cluster.metrics.looking import Looker
from cluster.metrics.runtime import look_samples, process_samples, runtime_samples, up_samples, verdict_samples
from cluster.metrics.watching import Look, Progress, Seen, Watch
from store.errors import EventrayError

log = structlog.get_logger(__name__)

LOOK_EVERY_S = 2.0
FRESH_S = 6.0
"""So long a look says how things are; then that is not known any more."""
LOOK_WITHIN_S = 10.0
EXPORTER = "exporter"


class Answer(NamedTuple):
    """What is served at an address."""

    status: int
    """Of HTTP."""
    content: dict[str, Any]
    """JSON."""


class Monitor:
    """Watches one runtime. Belongs to one event loop."""

    def __init__(
        self,
        looker: Looker,
        gatherer: Gatherer,
        kinds: Mapping[str, str],
        off: Mapping[str, str],
        limits: Limits,
    ) -> None:
        """`kinds`: projection, process manager or handler, by name. `off`: why handlers do nothing."""
        self._looker = looker
        self._gatherer = gatherer
        self._kinds = kinds
        self._off = off
        self._limits = limits
        self.look_every_s = min(LOOK_EVERY_S, limits.stuck_after_s / LOOKS_MIN)
        self._watches = {name: Watch() for name in kinds}
        self._look: Look | None = None
        self._trouble = "nothing has been read from SQL yet"
        self._unwell: set[str] = set()
        """Subscribers of which the log says that they need somebody."""

    async def run(self) -> None:
        """Look again and again, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(self.look_every_s)

    async def look(self) -> None:
        """Look once."""
        try:
            async with asyncio.timeout(LOOK_WITHIN_S):
                look = await self._looker.look()
        except (EventrayError, TimeoutError) as error:
            self._trouble = str(error) or f"no answer within {LOOK_WITHIN_S:g} s"
            log.warning("how far projections are can't be read", reason=self._trouble)
            return
        self._look, self._trouble = look, ""
        for name, seen in look.seen.items():
            if not seen.trouble:
                self._watches[name].look(look.at_s, look.read_s, look.heads, seen.positions)

    # --- what is told ---

    async def metrics(self, accept: str) -> tuple[bytes, str]:
        """Return all samples as Prometheus reads them, and the content type, chosen by an Accept header."""
        gathered = await self._gatherer.gather()
        now_s, wall_s = time.monotonic(), time.time()
        own = [process_samples(), runtime_samples(gathered), verdict_samples(self._verdicts(gathered))]
        if self._look is not None:
            own.append(look_samples(self._look, now_s, wall_s))
        by_process: dict[str, Samples] = up_samples(gathered)
        for title, samples in gathered.samples.items():
            by_process[title] = merged([by_process.get(title, {}), samples])
        by_process[EXPORTER] = merged(own)
        return await asyncio.to_thread(exposition, by_process, accept)

    async def ready(self) -> Answer:
        """Say whether the runtime takes commands and answers queries: 200, or 503 and why it does not."""
        gathered = await self._gatherer.gather()
        reasons = unready(gathered.status, gathered.why_none, gathered.down)
        return Answer(503 if reasons else 200, {"ready": not reasons, "why": reasons})

    async def processing(self) -> Answer:
        """Say how each projection and handler is: 200, or 503 where one does not get on by itself."""
        gathered = await self._gatherer.gather()
        verdicts = [verdict for verdict, _ in self._verdicts(gathered)]
        subscribers = [
            {
                "name": each.name,
                "kind": each.kind,
                "state": each.state.value,
                "why": each.why,
                "lag_events": each.behind,
                "lag_seconds": round(each.lag_s, 3),
                "parked_keys": each.parked,
            }
            for each in verdicts
        ]
        bad = needs_somebody(verdicts)
        worst = [each.name for each in verdicts if each.state in NEEDS_SOMEBODY]
        return Answer(503 if bad else 200, {"healthy": not bad, "need_somebody": worst, "subscribers": subscribers})

    async def addresses(self) -> list[str]:
        """Return the addresses of the cluster's nodes, as far as the coordinator has said."""
        gathered = await self._gatherer.gather()
        return [node.address for node in gathered.known.nodes] if gathered.known else []

    def _verdicts(self, gathered: Gathered) -> list[tuple[Verdict, Progress]]:
        followers = Followers(gathered.health, self._followers_down(gathered))
        seen = self._look.seen if self._look is not None else {}
        now_s, found = time.monotonic(), []
        stale = self._look is None or now_s - self._look.at_s > FRESH_S
        for name, kind in self._kinds.items():
            progress = self._watches[name].progress(now_s, FRESH_S)
            what = seen.get(name, Seen({}))
            if stale:
                what = what._replace(trouble=f"the store can't be read: {self._trouble or 'no answer'}")
            off = self._off.get(name, "")
            found.append((judged(name, kind, what, progress, followers, off, self._limits), progress))
        if self._look is not None:
            self._log([verdict for verdict, _ in found])
        return found

    def _log(self, verdicts: Sequence[Verdict]) -> None:
        """Say who has come to need somebody, and who no longer does."""
        for each in verdicts:
            if each.state in NEEDS_SOMEBODY and each.name not in self._unwell:
                log.warning(
                    "a subscriber needs somebody", subscriber=each.name, state=each.state.value, reason=each.why
                )
                self._unwell.add(each.name)
            elif each.state not in NEEDS_SOMEBODY and each.name in self._unwell:
                log.info("a subscriber gets on again", subscriber=each.name, state=each.state.value)
                self._unwell.discard(each.name)

    def _followers_down(self, gathered: Gathered) -> dict[str, str]:
        titles = {each.title for each in gathered.known.projection_hosts} if gathered.known else set()
        down = {title: reason for title, reason in gathered.down.items() if title in titles}
        return down if gathered.known else {"coordinator": gathered.why_none}
