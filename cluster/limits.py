"""What a client holds, sends and waits for at most. Not here: those of hosts (`actors/limits.py`)."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import IntEnum


class Suspicion(IntEnum):
    """How far a command is suspected of being what hosts are lost of. No two kinds go in one call."""

    NONE, SOME, STRONG = range(3)


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
    suspect_after: int = 2
    """Hosts that were lost with a command, one after another, until it goes only with others like it, not many, and
    with no call beside."""
    suspects_size_max: int = 16
    """Commands in a call of such."""
    alone_after: int = 3
    """Lost hosts until it goes alone."""
    lost_hosts_max: int = 6
    """Lost hosts until it is given up."""
    alone_pause_max_s: float = 1.0
    """The longest pause before what goes alone is tried again: long, so that two clients' seldom meet on one host."""
    pause_min_s: float = 0.025
    """The least pause before something is tried again."""
    pause_max_s: float = 0.25
    """The longest pause."""

    def suspicion(self, lost_hosts: int) -> Suspicion:
        """How far a command that was lost with so many hosts is suspected of being the reason."""
        if lost_hosts < self.suspect_after:
            return Suspicion.NONE
        return Suspicion.SOME if lost_hosts < self.alone_after else Suspicion.STRONG

    def size_max(self, suspicion: Suspicion) -> int:
        """How many commands may be in one call, all of them suspected as far."""
        match suspicion:
            case Suspicion.NONE:
                return self.batch_size_max
            case Suspicion.SOME:
                return self.suspects_size_max
            case Suspicion.STRONG:
                return 1

    def alone_pause_s(self) -> float:
        """How long what goes alone waits before it is tried again, random as the others."""
        return random.uniform(self.pause_min_s, self.alone_pause_max_s)  # noqa: S311

    def pause_s(self, failures: int) -> float:
        """How long to wait after that many failures in a row: random, so that clients don't come back all at once."""
        ceiling_s = min(self.pause_max_s, self.pause_min_s * 2 ** min(failures, 30))
        return random.uniform(self.pause_min_s, ceiling_s)  # noqa: S311 - spreads load, guards no secret
