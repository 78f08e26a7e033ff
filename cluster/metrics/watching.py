"""How far projections and handlers are, as SQL has it: whoever hangs can't tell, and is found by who looks.

A `Watch` compares what was read, look by look. Pure, on a clock that is given. Not here: reading (`looking.py`), which
words follow from it (`judging.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from store.records import AuditResult

MARKS_MAX = 200
"""Looks that are remembered of a subscriber that is behind; past it every second one is forgotten."""


class Look(NamedTuple):
    """What was read at one time."""

    at_s: float
    """On the watch's clock, before anything was read."""
    read_s: float
    """When all was read."""
    heads: Mapping[int, int]
    """Position of each shard's last event."""
    seen: Mapping[str, Seen]
    """Of each subscriber."""
    audits: Sequence[AuditResult] = ()
    """What the last audits came to."""


class Seen(NamedTuple):
    """One subscriber at one time."""

    positions: Mapping[int, int]
    """Its checkpoints by shard; none: it has never begun."""
    oldest_at_s: float | None = None
    """When the oldest event that it has not taken was recorded, in seconds since 1970; None: it has them all."""
    parked: int = 0
    oldest_parked_at_s: float | None = None
    rebuilt: float | None = None
    """How much of the log the build that is filled beside the live one holds, 0 to 1; None: none is."""
    trouble: str = ""
    """Why its checkpoints could not be read."""


class Stood(NamedTuple):
    """How long something has stayed where it is, as looks have found it, whatever has become of it since."""

    seconds: float
    """From the end of the first of these looks to the beginning of the last."""
    looks: int
    """After the first. A machine on which processes wait long for their turn makes few."""


class Standing(NamedTuple):
    """A shard whose checkpoint does not move although the log goes on."""

    shard: int
    position: int
    head: int
    stood: Stood


class Progress(NamedTuple):
    """How one subscriber gets on."""

    behind: int
    """Events that it has not taken."""
    lag_s: float
    """How long ago the log was as far as it is now; 0: at the last look it had all that was there at the one before."""
    position: int
    """Events that it has taken, of all shards."""
    standing: Sequence[Standing]
    """The shards that stand, those first that have stood for longest."""
    still: Stood
    """How long no checkpoint of it has moved at all."""


class _Since(NamedTuple):
    """A look after which something stood."""

    read_s: float
    look: int


class Watch:
    """One subscriber's looks."""

    def __init__(self) -> None:
        self._marks: list[tuple[float, Mapping[int, int]]] = []
        """When the heads were where; those that it has not reached yet, the oldest first."""
        self._reached_s: float | None = None
        """When the log was as far as it was at the last look."""
        self._heads: Mapping[int, int] = {}
        self._positions: Mapping[int, int] = {}
        self._since: dict[int, _Since] = {}
        """Since when each shard that is behind has stood where it is."""
        self._still = _Since(0.0, 0)
        """Since when none has moved."""
        self._looks = 0
        self._last_s = 0.0

    def look(self, at_s: float, read_s: float, heads: Mapping[int, int], positions: Mapping[int, int]) -> None:
        """Take in where the log and the subscriber were, read between two times; the heads were read first."""
        if self._reached_s is None:
            self._reached_s = at_s
        self._marks.append((at_s, heads))
        while self._marks and all(positions.get(shard, 0) >= head for shard, head in self._marks[0][1].items()):
            self._reached_s = self._marks.pop(0)[0]
        if len(self._marks) > MARKS_MAX:
            del self._marks[1::2]
        here = _Since(read_s, self._looks)
        before = self._positions
        self._since = {
            shard: self._since.get(shard, here) if positions.get(shard, 0) == before.get(shard, 0) else here
            for shard, head in heads.items()
            if head > positions.get(shard, 0)
        }
        if positions != before or not self._looks:
            self._still = here
        self._looks += 1
        self._heads, self._positions, self._last_s = heads, positions, at_s

    def progress(self, now_s: float, fresh_s: float) -> Progress:
        """Say how it gets on now. Where the last look is older than `fresh_s`, nothing is known to be well: its lag
        grows. That a shard stands is said by looks alone: one that is late says nothing of those it watches.
        """
        behind = sum(max(0, head - self._positions.get(shard, 0)) for shard, head in self._heads.items())
        reached_s = now_s if self._reached_s is None else self._reached_s
        known = len(self._marks) <= 1 and now_s - self._last_s <= fresh_s
        standing = [
            Standing(shard, self._positions.get(shard, 0), self._heads[shard], self._stood(since))
            for shard, since in sorted(self._since.items(), key=lambda each: (each[1], each[0]))
        ]
        lag_s = 0.0 if known else max(0.0, now_s - reached_s)
        return Progress(behind, lag_s, sum(self._positions.values()), standing, self._stood(self._still))

    def _stood(self, since: _Since) -> Stood:
        return Stood(max(0.0, self._last_s - since.read_s), max(0, self._looks - 1 - since.look))
