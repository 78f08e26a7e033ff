"""Counting outcomes: the closing summary of `submit`, the demo and benchmarks.

Not here: submitting (`driving.py`).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.errors import CommandTimeout, DecideFailed, Overloaded
from actors.wire import Receipt
from projections.errors import ConsistencyTimeout
from store.errors import EventrayError, StoreUnavailable

NO_OUTCOME = (CommandTimeout, DecideFailed, Overloaded, StoreUnavailable)
"""Errors that neither the domain nor the input is to blame for: the same command may be accepted later."""


@dataclass(slots=True)
class Tally:
    """How many commands ended how. Each command counts once."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    """Refused by the domain, or invalid."""
    failed: int = 0
    """Without an outcome."""
    started_s: float = 0.0
    stopped_s: float = 0.0

    def start(self) -> None:
        """Start the clock."""
        self.started_s = self.stopped_s = time.perf_counter()

    def stop(self) -> None:
        """Stop the clock."""
        self.stopped_s = time.perf_counter()

    def count(self, outcome: Receipt | EventrayError) -> None:
        """Count one command."""
        if isinstance(outcome, Receipt) and outcome.duplicate:
            self.duplicates += 1
        elif isinstance(outcome, Receipt | ConsistencyTimeout):  # the latter says that the command did succeed
            self.accepted += 1
        elif isinstance(outcome, NO_OUTCOME):
            self.failed += 1
        else:
            self.rejected += 1

    @property
    def submitted(self) -> int:
        return self.accepted + self.duplicates + self.rejected + self.failed

    @property
    def seconds(self) -> float:
        return self.stopped_s - self.started_s

    @property
    def commands_per_s(self) -> float:
        return self.submitted / self.seconds if self.seconds else 0.0

    def summary(self) -> dict[str, int | float]:
        """Return the closing summary. `submitted` is the sum of the four."""
        return {
            "submitted": self.submitted,
            "accepted": self.accepted,
            "duplicates": self.duplicates,
            "rejected": self.rejected,
            "failed": self.failed,
            "seconds": round(self.seconds, 3),
            "commands_per_s": round(self.commands_per_s, 1),
        }
