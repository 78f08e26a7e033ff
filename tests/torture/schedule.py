"""Which faults there will be, and when: drawn from the seed before the run begins. Pure.

Kinds are drawn as from a shuffled deck, so that none is missing from a short run, and moments at random within even
slots. Not here: whom a fault strikes and what it does (`nemesis.py`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

PER_10_MINUTES_MIN = 5
PAUSE_MEAN_S = 4.0
HEAD_START_S = 1.0


class Fault(StrEnum):
    """What can be done to a cluster."""

    HOST_KILLED = "host killed"
    HOST_STOPPED = "host stopped"
    """SIGSTOP for longer than the failover takes, then SIGCONT: a zombie."""
    COORDINATOR_KILLED = "coordinator killed"
    PROJECTION_HOST_KILLED = "projection host killed"
    NODE_KILLED = "node killed"
    NODE_STOPPED = "node stopped"
    """SIGSTOP of its raylet, until Ray holds it to be dead while its hosts live on; then SIGCONT."""
    DRIVER_KILLED = "driver killed"
    REPLY_LOST = "commit's reply lost"
    """The commit is done, and the host does not know."""
    COMMIT_STOPPED = "host stopped before its commit"
    """SIGSTOP between UPDATE and COMMIT. On SQLite its successor kills it, on PostgreSQL it ends its session: there the
    node hangs too, so that nobody can kill the host, and it comes back as a zombie."""
    APPEND_STOPPED = "host stopped before its append"
    """PostgreSQL: SIGSTOP with events decided and not sent yet, and the node hangs; the zombie then sends them."""
    NODE_ADDED = "node added"
    """And one more host wanted with it, for a while."""
    NODE_DRAINED = "drain"
    """A preemption notice, and some seconds later the node's end."""
    REBALANCED = "rebalance"
    """One host fewer, then as many as before, spread evenly again."""
    POSTGRES_RESTARTED = "PostgreSQL restarted"
    POSTGRES_HUNG = "PostgreSQL hung"


EVERYWHERE = (
    Fault.HOST_KILLED,
    Fault.HOST_STOPPED,
    Fault.COORDINATOR_KILLED,
    Fault.PROJECTION_HOST_KILLED,
    Fault.NODE_KILLED,
    Fault.NODE_STOPPED,
    Fault.DRIVER_KILLED,
    Fault.REPLY_LOST,
    Fault.COMMIT_STOPPED,
    Fault.NODE_ADDED,
    Fault.NODE_DRAINED,
    Fault.REBALANCED,
)
ON_SQLITE = EVERYWHERE
BRIEFLY = (
    Fault.COMMIT_STOPPED,
    Fault.HOST_KILLED,
    Fault.COORDINATOR_KILLED,
    Fault.PROJECTION_HOST_KILLED,
    Fault.DRIVER_KILLED,
    Fault.REPLY_LOST,
    Fault.REBALANCED,
)
"""On SQLite, in a run of some seconds: what passes soon."""
ON_POSTGRES = (*EVERYWHERE, Fault.APPEND_STOPPED, Fault.POSTGRES_RESTARTED, Fault.POSTGRES_HUNG)
LASTS_S = {
    Fault.HOST_STOPPED: (5.0, 9.0),
    Fault.NODE_STOPPED: (7.0, 10.0),
    Fault.COMMIT_STOPPED: (7.0, 10.0),
    Fault.APPEND_STOPPED: (7.0, 10.0),
    Fault.NODE_ADDED: (6.0, 12.0),
    Fault.NODE_DRAINED: (4.0, 8.0),
    Fault.REBALANCED: (2.0, 5.0),
    Fault.POSTGRES_HUNG: (0.5, 6.0),
    Fault.POSTGRES_RESTARTED: (0.0, 1.5),
}


class Strike(NamedTuple):
    """One fault that will be."""

    at_s: float
    """After the faults begin."""
    fault: Fault
    lasts_s: float
    """For those that end by themselves."""
    chance: float
    """From 0 to 1: by this the one that is struck is chosen among those who are there."""


def least(seconds: float) -> int:
    """How many faults of each kind a run of that length has at least."""
    return max(1, math.ceil(PER_10_MINUTES_MIN * seconds / 600))


def draw(seed: int, seconds: float, faults: Sequence[Fault]) -> list[Strike]:
    """Draw a run's faults, in the order of time."""
    chances = random.Random(seed)
    count = max(least(seconds) * len(faults), int(seconds / PAUSE_MEAN_S))
    deck: list[Fault] = []
    while len(deck) < count:
        deck += chances.sample(faults, len(faults))
    slot_s = (seconds - HEAD_START_S) / count
    strikes = []
    for number, fault in enumerate(deck[:count]):
        at_s = HEAD_START_S + slot_s * (number + chances.random())
        lasts_s = chances.uniform(*LASTS_S.get(fault, (0.0, 0.0)))
        strikes.append(Strike(at_s, fault, lasts_s, chances.random()))
    return strikes
