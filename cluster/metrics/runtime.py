"""What the exporter adds to the counts of processes: the runtime as its coordinator and SQL have it, as samples.

Not here: asking them (`gathering.py`, `looking.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from cluster.metrics.counting import Labels, Samples, Value
from cluster.metrics.definitions import (
    AUDIT_AGE_SECONDS,
    AUDIT_FINDINGS,
    FREE_SHARDS,
    HOSTS_SERVING,
    HOSTS_WANTED,
    LAG_EVENTS,
    LAG_SECONDS,
    LOG_EVENTS,
    LOOK_AGE_SECONDS,
    MOVED_SHARDS,
    MOVING_SHARDS,
    OLDEST_PARKED_SECONDS,
    OLDEST_UNPROCESSED_SECONDS,
    PARKED_KEYS,
    POSITION_EVENTS,
    PROCESS_CPU_SECONDS,
    PROCESS_UP,
    REBUILD_RATIO,
    RUNTIME_UP,
    SCRAPE_SECONDS,
    SUBSCRIBER_STATE,
)
from cluster.metrics.gathering import Gathered
from cluster.metrics.judging import State, Verdict
from cluster.metrics.watching import Look, Progress


def process_samples() -> Samples:
    """Return what holds of each process."""
    return {PROCESS_CPU_SECONDS: {(): time.process_time()}}


def runtime_samples(gathered: Gathered) -> Samples:
    """Return the coordinator's view, and what asking came to."""
    samples: Samples = {
        RUNTIME_UP: {(): float(gathered.status is not None)},
        SCRAPE_SECONDS: {(): gathered.seconds},
    }
    if (status := gathered.status) is not None:
        samples |= {
            HOSTS_WANTED: {(): status.hosts_wanted},
            HOSTS_SERVING: {(): sum(each.state == "serving" for each in status.hosts)},
            FREE_SHARDS: {(): len(status.free)},
            MOVING_SHARDS: {(): len(status.moving)},
            MOVED_SHARDS: {(): status.moved},
        }
    return samples


def up_samples(gathered: Gathered) -> dict[str, Samples]:
    """Return who answered and who did not, by the title of the process."""
    answered: dict[str, Samples] = {title: {PROCESS_UP: {(): 1.0}} for title in gathered.samples}
    return answered | {title: {PROCESS_UP: {(): 0.0}} for title in gathered.down}


def look_samples(look: Look, now_s: float, wall_s: float) -> Samples:
    """Return what SQL said, as it is now; `wall_s` in seconds since 1970."""
    on = look.seen.items()
    oldest: dict[Labels, Value] = {
        (name,): max(0.0, wall_s - seen.oldest_at_s) if seen.oldest_at_s is not None else 0.0 for name, seen in on
    }
    return {
        LOG_EVENTS: {(): sum(look.heads.values())},
        LOOK_AGE_SECONDS: {(): max(0.0, now_s - look.at_s)},
        OLDEST_UNPROCESSED_SECONDS: oldest,
        PARKED_KEYS: {(name,): seen.parked for name, seen in on},
        OLDEST_PARKED_SECONDS: {
            (name,): max(0.0, wall_s - seen.oldest_parked_at_s) if seen.oldest_parked_at_s is not None else 0.0
            for name, seen in on
        },
        REBUILD_RATIO: {(name,): seen.rebuilt for name, seen in on if seen.rebuilt is not None},
        AUDIT_FINDINGS: {(each.audit,): each.found for each in look.audits},
        AUDIT_AGE_SECONDS: {(each.audit,): max(0.0, wall_s - each.ended_at / 1e6) for each in look.audits},
    }


def verdict_samples(verdicts: Sequence[tuple[Verdict, Progress]]) -> Samples:
    """Return what is said of each subscriber."""
    return {
        LAG_EVENTS: {(each.name,): each.behind for each, _ in verdicts},
        LAG_SECONDS: {(each.name,): each.lag_s for each, _ in verdicts},
        POSITION_EVENTS: {(each.name,): progress.position for each, progress in verdicts},
        SUBSCRIBER_STATE: {
            (each.name, str(state)): float(each.state == state) for each, _ in verdicts for state in State
        },
    }
