"""Commands that their hosts may not survive: whose code ends the process, or never returns.

A host that is lost counts against each command that it had in hand. One that was lost with several hosts goes in calls
of few, then alone, until it is answered, or so many were lost with it that it is given up: a retry for ever would end
host after host. Not here: what goes into which call (`lanes.py`), when it goes, and what is done with what was lost
(`sending.py`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import structlog

from actors.errors import HostsLost
from cluster.lanes import Lanes, OutgoingCall, Submission
from cluster.limits import ClientLimits

log = structlog.get_logger(__name__)

COMMANDS_KNOWN_MAX = 10_000
HOSTS_KNOWN_MAX = 1_000


class Suspects:
    """What one client knows of lost hosts and of the commands that they had in hand."""

    def __init__(self, lanes: Lanes, limits: ClientLimits) -> None:
        self._lanes = lanes
        self._limits = limits
        self._lost_s: dict[str, float] = {}
        """When each host that has not answered since was lost, the first one first."""
        self._lost_hosts: dict[str, int] = {}
        """How many hosts were lost with each command that was not answered since, by its id; the last one last."""

    def recall(self, submission: Submission) -> None:
        """A command comes, and is in no lane yet: hosts that were lost with an earlier sending of it count."""
        if self._lost_hosts:
            submission.lost_hosts = self._lost_hosts.get(submission.command_id, 0)

    def answered(self, host: str) -> None:
        """The host is there."""
        self._lost_s.pop(host, None)

    def cleared(self, submissions: Iterable[Submission]) -> None:
        """Hosts have answered these commands."""
        if self._lost_hosts:
            for submission in submissions:
                self._lost_hosts.pop(submission.command_id, None)

    def lost(self, call: OutgoingCall, submissions: Iterable[Submission], now_s: float) -> None:
        """Count the call's host as lost against these commands of the call, and give up those that it is too much for.

        What was sent to it when it was known to be lost was not in its hands. Against one command it counts once.
        """
        if call.started_s >= self._lost_s.get(call.host, math.inf):
            return
        self._lost_s.setdefault(call.host, now_s)
        _bound(self._lost_s, HOSTS_KNOWN_MAX)
        for submission in submissions:
            if submission.lost_host != call.host:
                submission.lost_host = call.host
                self._count(submission, now_s)
        _bound(self._lost_hosts, COMMANDS_KNOWN_MAX)

    def _count(self, submission: Submission, now_s: float) -> None:
        self._lanes.lost(submission)
        hosts, command_id = submission.lost_hosts, submission.command_id
        self._lost_hosts.pop(command_id, None)  # so that it is put at the end
        self._lost_hosts[command_id] = hosts
        if hosts >= self._limits.lost_hosts_max and not submission.future.done():
            log.error(
                "a command is given up: hosts were lost, one after another, each with it in hand",
                command=submission.command_type,
                command_id=command_id,
                hosts=hosts,
            )
            submission.future.set_exception(HostsLost(command_id, submission.waited_s(now_s), hosts))


def _bound(known: dict[str, int] | dict[str, float], size_max: int) -> None:
    while len(known) > size_max:
        del known[next(iter(known))]
