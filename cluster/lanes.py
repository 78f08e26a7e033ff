"""The commands that a client holds: one lane per shard, which keeps their order, and the calls that carry them.

The invariant: commands of a lane leave it in the order of submission, and none leaves it while an earlier one is in a
call or awaits a retry. (The promise is made per partition key; per shard is the same one, made for more at once.)
Plain data that takes the time as an argument. Not here: when to send, where to, and what an answer means
(`sending.py`).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import Any

from actors.errors import CommandTimeout, Overloaded
from actors.wire import CommandMessage, Receipt
from cluster.limits import ClientLimits, Suspicion
from store.records import Route

_new_message: Callable[[tuple[Any, ...]], CommandMessage] = partial(tuple.__new__, CommandMessage)


class Submission:
    """One command, from its submission until its future is done."""

    __slots__ = (
        "command_id",
        "command_type",
        "data",
        "deadline_s",
        "expected_version",
        "first_send",
        "future",
        "lost_host",
        "lost_hosts",
        "metadata",
        "occurred_at",
        "retry_after_ms",
        "sendings",
        "shard",
        "size_bytes",
        "timeout_s",
        "turned_away",
    )

    def __init__(
        self,
        shard: int,
        command_type: str,
        command_id: str,
        first_send: bool,
        data: str,
        expected_version: int | None,
        occurred_at: int | None,
        metadata: str,
        timeout_s: float,
        deadline_s: float,
        size_bytes: int,
        future: asyncio.Future[Receipt],
    ) -> None:
        self.shard = shard
        self.command_type = command_type
        self.command_id = command_id
        self.first_send = first_send
        """The id was drawn by this client, and the command was not put into any call yet."""
        self.sendings = 0
        """Calls that it was put into."""
        self.turned_away = 0
        """Sendings that a full host has refused: it has not decided the command."""
        self.retry_after_ms = 0
        """The hint that came with the last refusal of that kind."""
        self.lost_hosts = 0
        """Hosts that were lost, one after another, while they had this command in hand."""
        self.lost_host = ""
        """The last of them."""
        self.data = data
        self.expected_version = expected_version
        self.occurred_at = occurred_at
        self.metadata = metadata
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        """On the event loop's clock."""
        self.size_bytes = size_bytes
        self.future = future

    def message(self, now_s: float) -> CommandMessage:
        """What is sent of it now. Later ones say that it is not the first."""
        first_send, self.first_send = self.first_send, False
        self.sendings += 1
        return _new_message(
            (
                self.shard,
                self.command_type,
                self.command_id,
                first_send,
                self.data,
                self.expected_version,
                self.occurred_at,
                int((self.deadline_s - now_s) * 1000) + 1,
                self.metadata,
            )
        )

    def waited_s(self, now_s: float) -> float:
        """How long its caller has waited, to the millisecond."""
        return round(self.timeout_s - (self.deadline_s - now_s), 3)

    def time_out(self, waited_s: float | None = None) -> None:
        """Tell the caller, if it still waits, what is known after that time (None: all it had).

        That is Overloaded if only full hosts were met, else CommandTimeout: the outcome is unknown.
        """
        if self.future.done():
            return
        if 0 < self.turned_away == self.sendings:
            self.future.set_exception(Overloaded(self.retry_after_ms))
        else:
            elapsed_s = self.timeout_s if waited_s is None else waited_s
            self.future.set_exception(CommandTimeout(self.command_id, elapsed_s))


class OutgoingCall:
    """One call to a host: what it carries, and what of it is still awaited."""

    __slots__ = ("full", "host", "routes", "size_bytes", "started_s", "submissions", "suspicion", "task")

    def __init__(self, host: str, started_s: float, suspicion: Suspicion) -> None:
        self.host = host
        self.started_s = started_s
        self.suspicion = suspicion
        """Of each command in it."""
        self.size_bytes = 0
        self.full = False
        """Whether a command was left behind because it did not fit."""
        self.submissions: list[Submission] = []
        """In the order in which they were packed, which is that of the answers."""
        self.routes: dict[int, Route] = {}
        """By what each shard was routed; a shard that is no longer awaited from this call is taken out."""
        self.task: asyncio.Task[bytes] | None = None

    def awaited(self) -> list[Submission]:
        """What only this call can still answer."""
        return [submission for submission in self.submissions if submission.shard in self.routes]


class Lane:
    """One shard's commands that are not in a call, oldest first."""

    __slots__ = ("failures", "under_way", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Submission] = deque()
        self.under_way = False
        """Whether commands of this lane are in a call: no other call may take any."""
        self.failures = 0
        """Calls in a row after which commands had to go back."""


class Lanes:
    """All lanes of a client, and how many commands it holds in them and in calls."""

    def __init__(self, shards: int, limits: ClientLimits) -> None:
        self.held = 0
        """Commands in lanes and in calls."""
        self.held_bytes = 0
        """What these commands take on the wire, about."""
        self.suspects = 0
        """How many of these commands are suspected of being what hosts are lost of."""
        self.ready: dict[int, Lane] = {}
        """Lanes that may be sent from, by shard; the one that waits longest first."""
        self._resting: dict[int, float] = {}
        """When each lane that rests may be sent from again, by shard."""
        self._lanes = [Lane() for _ in range(shards)]
        self._limits = limits

    def add(self, submission: Submission) -> bool:
        """Put a command at the end of its lane; return whether the lane may be sent from."""
        self.held += 1
        self.held_bytes += submission.size_bytes
        if submission.lost_hosts and self._suspicion(submission):
            self.suspects += 1
        lane = self._lanes[submission.shard]
        lane.waiting.append(submission)
        if lane.under_way or submission.shard in self._resting:
            return False
        self.ready[submission.shard] = lane
        return True

    def fill(self, call: OutgoingCall, route: Route, now_s: float) -> None:
        """Move what fits from a ready lane into the call, and mark the call full where something is left behind.

        Commands whose caller gave up or whose time is up are dropped on the way. The first that is suspected more or
        less than the call's stays for another one, with all that wait behind it.
        """
        lane = self.ready[route.shard]
        waiting, submissions = lane.waiting, call.submissions
        before, size_max = len(submissions), self._limits.size_max(call.suspicion)
        while waiting:
            submission = waiting[0]
            if submission.deadline_s <= now_s or submission.future.done():
                submission.time_out()
                self.departed((submission,))
            elif self.suspects and self._suspicion(submission) != call.suspicion:
                break
            else:
                size_bytes = call.size_bytes + submission.size_bytes
                if len(submissions) >= size_max or (submissions and size_bytes > self._limits.batch_bytes_max):
                    call.full = True
                    break
                submissions.append(submission)
                call.size_bytes = size_bytes
            waiting.popleft()
        if len(submissions) > before:
            call.routes[route.shard] = route
            lane.under_way = True
        if lane.under_way or not waiting:
            del self.ready[route.shard]

    def waiting_in(self, routes: Iterable[Route]) -> int:
        """Return how many commands wait in those of these lanes that may be sent from."""
        return sum(len(self.ready[route.shard].waiting) for route in routes if route.shard in self.ready)

    def goes_alone(self, shard: int) -> bool:
        """Whether the first command that waits in this lane is to go alone."""
        waiting = self._lanes[shard].waiting
        return bool(waiting) and self._suspicion(waiting[0]) is Suspicion.STRONG

    def suspicions(self, routes: Iterable[Route]) -> set[Suspicion]:
        """Return how far the first commands of those of these lanes that may be sent from are suspected."""
        heads = [self.ready[route.shard].waiting[0] for route in routes if route.shard in self.ready]
        return set(map(self._suspicion, heads))

    def _suspicion(self, submission: Submission) -> Suspicion:
        return self._limits.suspicion(submission.lost_hosts)

    def lost(self, submission: Submission) -> None:
        """A host was lost that had this command in hand."""
        before = self._suspicion(submission)
        submission.lost_hosts += 1
        self.suspects += not before and bool(self._suspicion(submission))

    def departed(self, submissions: Collection[Submission]) -> None:
        """These commands have left for good."""
        self.held -= len(submissions)
        if self.suspects:
            self.suspects -= sum(1 for submission in submissions if self._suspicion(submission))
        for submission in submissions:
            self.held_bytes -= submission.size_bytes

    def free(self, shard: int) -> None:
        """No command of this lane is in a call any more, and none goes back."""
        lane = self._lanes[shard]
        lane.failures = 0
        lane.under_way = False
        if lane.waiting:
            self.ready[shard] = lane

    def put_back(self, shard: int, unanswered: Iterable[Submission], rests_until_s: float | None) -> None:
        """Put commands of a call back to the front of their lane, in the call's order, and let the lane rest.

        A command whose caller has got an answer, or has given up, is dropped.
        """
        lane = self._lanes[shard]
        kept: list[Submission] = []
        for submission in unanswered:
            if submission.future.done():
                self.departed((submission,))
            else:
                kept.append(submission)
        lane.waiting.extendleft(reversed(kept))
        lane.failures += 1
        lane.under_way = False
        if rests_until_s is not None:
            self._resting[shard] = rests_until_s
        elif lane.waiting:
            self.ready[shard] = lane

    def rest(self, shard: int, until_s: float) -> None:
        """Let a lane that is in no call rest until then."""
        self.ready.pop(shard, None)
        self._resting[shard] = until_s

    def is_empty(self, shard: int) -> bool:
        """Whether no command waits in this lane."""
        return not self._lanes[shard].waiting

    def failures(self, shard: int) -> int:
        """Calls in a row after which commands of this lane had to go back."""
        return self._lanes[shard].failures

    def wake(self, now_s: float) -> float | None:
        """Make the lanes ready that have rested enough; return when the next one will have, None without any."""
        for shard in [shard for shard, until_s in self._resting.items() if until_s <= now_s]:
            self.end_rest(shard)
        return min(self._resting.values(), default=None)

    def end_rest(self, shard: int) -> None:
        """Make a lane ready now, if it rests."""
        if self._resting.pop(shard, None) is not None and self._lanes[shard].waiting:
            self.ready[shard] = self._lanes[shard]

    def waiting(self) -> Iterator[Submission]:
        """All commands that are in no call."""
        return (submission for lane in self._lanes for submission in lane.waiting)

    def drop_done(self) -> None:
        """Forget the commands in no call whose futures are done."""
        for shard, lane in enumerate(self._lanes):
            done = [submission for submission in lane.waiting if submission.future.done()]
            if done:
                self.departed(done)
                lane.waiting = deque(submission for submission in lane.waiting if not submission.future.done())
                if not lane.waiting:
                    self.ready.pop(shard, None)


def by_shard(submissions: Iterable[Submission]) -> dict[int, list[Submission]]:
    """Group by shard, keeping the order within each."""
    groups: dict[int, list[Submission]] = {}
    for submission in submissions:
        groups.setdefault(submission.shard, []).append(submission)
    return groups
