"""What is said of a runtime's health, and why: of each projection and handler, and of the whole.

Pure. Not here: finding out (`watching.py`, `gathering.py`), HTTP (`serving.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from cluster.metrics.follower import projection_of
from cluster.metrics.watching import Progress, Seen, Standing, Stood
from cluster.status import RuntimeStatus
from projections.host import ProjectionHealth


class Limits(NamedTuple):
    """When a subscriber is not well; see `Settings`."""

    lagging_after_s: float
    stuck_after_s: float


class State(StrEnum):
    """How a subscriber is; the worst that is true of it."""

    OK = "ok"
    LAGGING = "lagging"
    PARKED = "parked"
    STUCK = "stuck"
    DOWN = "down"
    OFF = "off"
    """A handler that has said why it does nothing here."""


LOOKS_MIN = 4
"""Looks that must have found a checkpoint where it was, whatever the time: on a machine on which processes wait long
for their turn there are few, and those that are watched wait too."""
SILENT_TIMES = 6
"""So many times longer a shard may stand that has no trouble to tell of, while others of its subscriber go on."""
NEEDS_SOMEBODY = (State.PARKED, State.STUCK, State.DOWN)


class Verdict(NamedTuple):
    """What is said of one subscriber."""

    name: str
    kind: str
    """`projection`, `process manager` or `handler`."""
    state: State
    why: str
    behind: int
    lag_s: float
    parked: int = 0


class Followers(NamedTuple):
    """What the projection hosts have said, each by its title."""

    health: Mapping[str, ProjectionHealth]
    down: Mapping[str, str]
    """Why those that said nothing did not."""

    def trouble_of(self, name: str, shard: int | None) -> str:
        """Return what holds up a subscriber, in a shard or at all; empty: nothing that is told."""
        for health in self.health.values():
            for lag in health.lags:
                if projection_of(lag.subscriber) == name:
                    found = lag.failure or (lag.blocked.get(shard, "") if shard is not None else "")
                    if found:
                        return found
        return ""

    def unsent(self, name: str, after_s: float) -> str:
        """Return what has kept a process manager from sending anything for so long; empty: nothing has."""
        relays = [each for health in self.health.values() for each in health.process_managers]
        failing = [each for each in relays if each.process_manager == name and each.failing_s >= after_s]
        return next((f"it has sent no command for {each.failing_s:.0f} s: {each.failure}" for each in failing), "")

    def follows(self, name: str) -> bool:
        """Tell whether any projection host says that it follows this subscriber."""
        return any(projection_of(lag.subscriber) == name for each in self.health.values() for lag in each.lags)


def judged(
    name: str, kind: str, seen: Seen, progress: Progress, followers: Followers, off: str, limits: Limits
) -> Verdict:
    """Say how a subscriber is. `off`: why it does nothing; empty: it is on."""
    state, why = State.OK, ""
    stuck = _stuck(name, progress, followers, limits.stuck_after_s) or followers.unsent(name, limits.stuck_after_s)
    if off:
        state, why = State.OFF, off
    elif seen.trouble:
        state, why = State.DOWN, seen.trouble
    elif followers.down or not followers.health:
        reasons = "; ".join(f"{title}: {reason}" for title, reason in sorted(followers.down.items()))
        state, why = State.DOWN, reasons or "no projection host serves"
    elif not followers.follows(name):
        state, why = State.DOWN, "no projection host follows it: is it in the application that the runtime serves?"
    elif stuck:
        state, why = State.STUCK, stuck
    elif seen.parked:
        state, why = State.PARKED, f"{seen.parked} keys are parked: see `eventray dead-letters list`"
    elif progress.lag_s > limits.lagging_after_s:
        state, why = State.LAGGING, f"it is {progress.behind} events and {progress.lag_s:.0f} s behind the log"
    return Verdict(name, kind, state, why, progress.behind, progress.lag_s, seen.parked)


def _stuck(name: str, progress: Progress, followers: Followers, after_s: float) -> str:
    """Say what stands still, and why; empty: nothing does.

    A shard that has trouble, or all of them; and one alone that says nothing, later: where there is more to do than is
    done, as with a handler that is slow, each waits for its turn.
    """
    for standing in progress.standing:
        if _long(standing.stood, after_s) and (told := followers.trouble_of(name, standing.shard)):
            return _where(standing, told)
    if not progress.standing:
        return ""
    longest = progress.standing[0]
    all_stand = _long(longest.stood, after_s) and _long(progress.still, after_s)
    if all_stand or _long(longest.stood, SILENT_TIMES * after_s):
        return _where(longest, "it does not say why; see its process in the Ray dashboard")
    return ""


def _long(stood: Stood, after_s: float) -> bool:
    return stood.seconds >= after_s and stood.looks >= LOOKS_MIN


def _where(standing: Standing, why: str) -> str:
    shard, position, head, stood = standing
    return f"in shard {shard} it stands at {position} of {head} for {stood.seconds:.0f} s: {why}"


def unready(status: RuntimeStatus | None, why_none: str, down: Mapping[str, str]) -> list[str]:
    """Return what keeps a runtime from serving; nothing: it is ready. `down`: processes that don't answer, and why."""
    if status is None:
        return [why_none]
    reasons = [f"{title}: {reason}" for title, reason in sorted(down.items())]
    serving = sum(each.state == "serving" for each in status.hosts)
    if serving < status.hosts_wanted:
        reasons.append(f"{serving} of {status.hosts_wanted} hosts serve")
    if status.free:
        reasons.append(f"nobody serves {len(status.free)} shards")
    if not any(each.state == "serving" for each in status.projection_hosts):
        reasons.append("no projection host serves")
    return reasons


def needs_somebody(verdicts: Sequence[Verdict]) -> bool:
    """Tell whether any of them does not get on by itself."""
    return any(verdict.state in NEEDS_SOMEBODY for verdict in verdicts)
