"""Latencies that can be merged: counts by size, so that quantiles of many drivers are those of all their commands.

(The mean of two medians is no median.) Not here: measuring.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

STEP = math.log(1.01)
"""Latencies within 1 percent of each other count as the same."""
LEAST_S = 1e-6


@dataclass(slots=True)
class Latencies:
    """How many commands took how long."""

    counts: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.counts[round(math.log(max(seconds, LEAST_S)) / STEP)] += 1

    def merge(self, other: Latencies) -> None:
        """Count another's as well."""
        self.counts.update(other.counts)

    def quantile_s(self, share: float) -> float:
        """Return the least latency that this share of all did not exceed, within 1 percent; nan if there are none."""
        wanted, seen = share * self.counts.total(), 0
        for size, count in sorted(self.counts.items()):
            seen += count
            if seen >= wanted:
                return math.exp(size * STEP)
        return math.nan
