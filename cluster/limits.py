"""What a client holds, sends and waits for at most. Not here: those of hosts (`actors/limits.py`)."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """The bounds of one client; the defaults suit hosts that answer within milliseconds."""

    batch_size_max: int = 1_000
    """Commands in one call."""
    calls_max: int = 2
    """Calls that may be under way to one host, no two of which share a shard: while one is being stored, the other is
    being decided."""
    large_call: int = 200
    """Commands of a call that is worth its price beside another one."""
    patience_s: float = 0.05
    """A smaller one goes beside another that has been out for so long: something holds that up."""
    batch_bytes_max: int = 512 * 1024
    """Bytes of commands in one call; one command that is larger goes alone."""
    in_flight_max: int = 10_000
    """Commands of this client that are queued or on their way."""
    in_flight_bytes_max: int = 64 * 1024 * 1024
    """Bytes of these commands; one more is taken while they are fewer."""
    deadline_s: float = 30.0
    """How long a command may take where its caller says nothing else."""
    deadline_grain_s: float = 0.05
    """How late a deadline may be noticed: all commands in flight are looked over at most this often."""
    watch_after_s: float = 0.5
    """When a call has been out this long, the routes are read again, each time as long after the last reading."""
    pause_min_s: float = 0.025
    """The least pause before something is tried again."""
    pause_max_s: float = 0.25
    """The longest pause."""

    def pause_s(self, failures: int) -> float:
        """How long to wait after that many failures in a row: random, so that clients don't come back all at once."""
        ceiling_s = min(self.pause_max_s, self.pause_min_s * 2 ** min(failures, 30))
        return random.uniform(self.pause_min_s, ceiling_s)  # noqa: S311 - spreads load, guards no secret
