"""What a run is said in: counts, times, and whether it was worth anything. From evidence alone.

A shard is not served while a command for it waits and none of it is answered. Not here: what is wrong (`checks.py`).
"""

from __future__ import annotations

import zlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.torture.evidence import UNKNOWN, Evidence
from tests.torture.schedule import Fault, least

ALONE_S = 6.0
"""For how long a fault must have been the only one to be measured by."""


class Gap(NamedTuple):
    """A time in which a shard was not served."""

    shard: int
    from_s: float
    to_s: float

    @property
    def seconds(self) -> float:
        return self.to_s - self.from_s


class Figures(NamedTuple):
    """The figures of a run."""

    commands: int
    """Sendings."""
    acknowledged: int
    duplicates: int
    unknown_answers: int
    """Callers who were told that nobody knows."""
    lost_calls: int
    """Calls whose answer never came, as the drivers noticed."""
    p99_s: float
    longest: Gap


def figures(evidence: Evidence) -> Figures:
    """Work out a run's figures."""
    answered = [sending for sending in evidence.sendings if sending.answered_s is not None]
    taken_s = sorted((sending.answered_s or 0) - sending.sent_s for sending in answered)
    receipts = [sending.receipt for sending in answered if sending.receipt is not None]
    return Figures(
        commands=len(evidence.sendings),
        acknowledged=len(receipts),
        duplicates=sum(receipt.duplicate for receipt in receipts),
        unknown_answers=sum(sending.failure in UNKNOWN for sending in answered),
        lost_calls=sum(map(len, evidence.losses.values())),
        p99_s=at(taken_s, 0.99),
        longest=max(gaps(evidence), key=lambda gap: gap.seconds, default=Gap(0, 0, 0)),
    )


def gaps(evidence: Evidence) -> list[Gap]:
    """Every time in which a shard had something to do and answered nothing, up to each answer."""
    by_shard: dict[int, list[tuple[float, float]]] = defaultdict(list)
    for sending in evidence.sendings:
        if sending.answered_s is not None and sending.failure not in UNKNOWN:
            shard = zlib.crc32(sending.wish.key.encode()) % len(evidence.heads)
            by_shard[shard].append((sending.answered_s, sending.sent_s))
    found = []
    for shard, pairs in by_shard.items():
        pairs.sort()
        oldest_s = [pairs[-1][1]]
        for _, sent_s in reversed(pairs[:-1]):
            oldest_s.append(min(oldest_s[-1], sent_s))
        last_s = float("-inf")
        for (answered_s, _), waiting_since_s in zip(pairs, reversed(oldest_s), strict=True):
            found.append(Gap(shard, max(last_s, waiting_since_s), answered_s))
            last_s = answered_s
    return found


class Pauses(NamedTuple):
    """How long shards were not served after the faults of one kind that no other fault was near."""

    faults: int
    struck_s: list[float]
    """The longest pause of the struck shards, of each fault; rising."""
    others_s: float
    """The longest pause of any other shard."""


def pauses(evidence: Evidence, kinds: Sequence[str]) -> Pauses:
    """Look at the time from a fault of these kinds to some seconds later, where it was alone in that time."""
    all_gaps = gaps(evidence)
    struck_s, others_s = [], 0.0
    for fault in evidence.faults:
        until_s = fault.from_s + ALONE_S
        near = [other for other in evidence.faults if other.from_s < until_s and other.to_s + ALONE_S > fault.from_s]
        if fault.kind not in kinds or not fault.shards or len(near) > 1:
            continue
        there = [gap for gap in all_gaps if gap.from_s < until_s and gap.to_s > fault.from_s]
        struck_s.append(max((gap.seconds for gap in there if gap.shard in fault.shards), default=0.0))
        others_s = max([others_s, *(gap.seconds for gap in there if gap.shard not in fault.shards)])
    return Pauses(len(struck_s), sorted(struck_s), others_s)


def at(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of them lies; 0 without any."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def vacuous(
    faults: Mapping[Fault, int], asked: Sequence[Fault], seconds: float, seen: Counter[str], required: Sequence[str]
) -> list[str]:
    """Why a run proves nothing: faults of a kind that were too few, and things that never happened."""
    few = [
        f"{faults.get(fault, 0)} of '{fault}', not {least(seconds)}"
        for fault in asked
        if faults.get(fault, 0) < least(seconds)
    ]
    return few + [f"no {name}" for name in required if not seen[name]]
