"""Carrying commands to their hosts: one call to a host, or two beside each other, retries in order, deadlines.

What is submitted while a call is out goes with the next one, so batches grow with the load and no timer waits for them.
Each call has its price, so that beside another one it goes only if it is large, or if something holds that other one
up. Ray keeps no order between calls, but no two calls under way share a shard, and the host decides one while it stores
the other; where the later one arrives first, the host refuses the earlier one, whose commands go again. For one event
loop, not thread-safe.
Not here: what callers see (`client.py`), the order within a shard (`lanes.py`), reading routes (`routing.py`), how
bytes reach a host (`transport.py`).

How an answer that does not come is treated
-------------------------------------------
Sending twice is safe: ids are unique in the log, hosts know their pending ids and refuse old call numbers and other
epochs. What must be kept here is the order, and one rule keeps it: no command is sent while an earlier one of its shard
is awaited from another call, or is to be sent again.

- A call that failed (host gone, answers unreadable, number overtaken): all its commands go back to the front of their
  lanes and rest. Its number is used up: if the old copy still arrives, it is refused, or it is the one that is decided
  and the retry, behind it, gets its receipts.
- A call that has no answer while a shard of it has moved (another host or epoch): the commands of THAT shard go back,
  and are sent by the new route. What the old owner commits before the new claim, the new owner finds in the log; what
  it has not committed by then, the fence refuses. So the new owner decides the rest, in order.
- The other shards of that call stay with it, and no newer call carries any of them: the host may be slow and alive, and
  would decide the old call's commands after those of the newer one. If the host is dead, its other shards move too, and
  the same rule frees them; failing that, the deadlines do. Once nothing of a call is awaited, it is given up, and its
  late answer ignored.
"""

from __future__ import annotations

import asyncio
import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial

import structlog

from actors.errors import CommandTimeout, NotOwner, Overloaded, StaleCall
from actors.wire import Call, Receipt, pack_call, unpack_answers
from cluster.lanes import Lanes, OutgoingCall, Submission, by_shard
from cluster.limits import ClientLimits, Suspicion
from cluster.routing import Routes, RouteTable
from cluster.suspects import Suspects
from cluster.transport import HostGone, Transport
from store.errors import EventrayError, InvalidValue, StoreUnavailable
from store.identity import uuid7
from store.records import Route

log = structlog.get_logger(__name__)


class Sender:
    """Sees each command through to its answer: a receipt, an error that is final, or CommandTimeout."""

    def __init__(
        self, transport: Transport, routes: Routes, shards: int, limits: ClientLimits, on_departed: Callable[[], None]
    ) -> None:
        """Goes by the clock of the running event loop. `on_departed` is called when it may hold less than before."""
        self._transport = transport
        self._limits = limits
        self._on_departed = on_departed
        self._loop = asyncio.get_running_loop()
        self._session = uuid7().hex
        self._number = 0
        self.lanes = Lanes(shards, limits)
        """What it holds. Whoever made it asks here how much that is."""
        self._suspects = Suspects(self.lanes, limits)
        self._table = RouteTable(routes, limits, self._on_routes)
        self._calls: dict[str, list[OutgoingCall]] = {}
        """The calls under way, by host."""
        self._refused: dict[int, Route] = {}
        """By shard whose lane rests: the route that led nowhere. Another one ends the rest."""
        self._unsent: defaultdict[str, int] = defaultdict(int)
        """By host: commands that the last dispatch left in lanes that may be sent from, and those that have come since.
        Whatever changes the lanes or the routes otherwise has a dispatch follow, which counts anew."""
        self._last_suspicion: dict[str, Suspicion] = {}
        """Of the last call to each host, while any command is suspected."""
        self._dispatching = False
        self._timer: asyncio.TimerHandle | None = None
        self._tick_s = math.inf
        """When `_tick` runs next."""
        self._look_over_s = math.inf
        """When all that is held is looked over next: no deadline among them is earlier."""

    def carry(self, submission: Submission) -> None:
        """Take charge of a command: its future will be done by its deadline."""
        self._suspects.recall(submission)
        if self.lanes.add(submission) and not self._dispatching and self._may_send_one_more(submission.shard):
            self._dispatch_soon()
        if submission.deadline_s < self._look_over_s:
            self._look_over_s = submission.deadline_s
            self._arm(submission.deadline_s)

    def close(self) -> None:
        """Stop; whoever still waits gets CommandTimeout with the time that it has waited."""
        now_s = self._loop.time()
        for submission in self._all():
            submission.time_out(submission.waited_s(now_s))
        self._forget_done()
        self._table.close()
        if self._timer is not None:
            self._timer.cancel()

    # --- sending ---

    def _may_send_one_more(self, shard: int) -> bool:
        """Count a command that has come; return whether a dispatch has something to do now."""
        route = self._table.get(shard)
        if route is None or route.host is None:
            return True
        self._unsent[route.host] += 1
        return self._takes(route.host, self._unsent[route.host], self._loop.time())

    def _takes(self, host: str, commands: int, now_s: float) -> bool:
        """Whether a call with so many commands may go to the host beside those that are under way to it."""
        limits, under_way = self._limits, self._calls.get(host, ())
        if len(under_way) >= limits.calls_max:
            return False
        if self.lanes.suspects and any(call.suspicion for call in under_way):
            return False
        return commands >= limits.large_call or all(now_s - call.started_s >= limits.patience_s for call in under_way)

    def _dispatch_soon(self) -> None:
        if not self._dispatching:
            self._dispatching = True
            self._loop.call_soon(self._dispatch)

    def _dispatch(self) -> None:
        """Send what may be sent, the lanes that wait longest first."""
        self._dispatching = False
        now_s = self._loop.time()
        ready, homeless = self._ready()
        self._unsent.clear()
        for host, routes in ready.items():
            commands = self.lanes.waiting_in(routes)
            while commands and self._takes(host, commands, now_s):
                suspicion = self._suspicion_next(host, routes)
                if suspicion and self._calls.get(host):
                    break  # what is under way beside it would be lost with it
                call = OutgoingCall(host, now_s, suspicion)
                for route in routes:
                    if not call.full and route.shard in self.lanes.ready:
                        self.lanes.fill(call, route, now_s)
                if call.submissions:
                    self._send(call, now_s)
                commands = self.lanes.waiting_in(routes)
            self._unsent[host] = commands
        if homeless or self._refused:
            self._table.read_again()
        else:
            self._table.satisfied()
        self._on_departed()

    def _suspicion_next(self, host: str, routes: Iterable[Route]) -> Suspicion:
        """Return how far the commands are suspected that go to a host next: the least and the most, by turns.

        The least to a new host, which it might otherwise lose before anybody else was served.
        """
        if not self.lanes.suspects:
            self._last_suspicion.clear()
            return Suspicion.NONE
        ready = self.lanes.suspicions(routes)
        return min(ready) if self._last_suspicion.get(host, Suspicion.STRONG) else max(ready)

    def _ready(self) -> tuple[dict[str, list[Route]], bool]:
        """Return the routes of the lanes that may be sent from, by host, and whether one has none."""
        ready: dict[str, list[Route]] = {}
        homeless = False
        for shard in self.lanes.ready:
            route = self._table.get(shard)
            if route is None or route.host is None:
                homeless = True
            else:
                ready.setdefault(route.host, []).append(route)
        return ready, homeless

    def _send(self, call: OutgoingCall, now_s: float) -> None:
        self._number += 1
        if self.lanes.suspects:
            self._last_suspicion[call.host] = call.suspicion
        epochs = {shard: route.epoch for shard, route in call.routes.items()}
        for shard in epochs:
            self._refused.pop(shard, None)
        messages = [submission.message(now_s) for submission in call.submissions]
        payload = pack_call(Call(self._session, self._number, epochs, messages))
        self._calls.setdefault(call.host, []).append(call)
        call.task = self._loop.create_task(self._transport.call(call.host, payload))
        call.task.add_done_callback(partial(self._returned, call))
        self._arm(now_s + min(self._limits.patience_s, self._limits.watch_after_s))

    # --- answers ---

    def _returned(self, call: OutgoingCall, task: asyncio.Task[bytes]) -> None:
        """Take in what came of a call, unless it was given up before."""
        error = HostGone(call.host, "the call was cancelled") if task.cancelled() else task.exception()
        if call not in self._calls.get(call.host, ()):
            return
        self._back(call)
        if error is None:
            try:
                answers = unpack_answers(task.result())
                if len(answers) == len(call.submissions):
                    self._answered(call, answers)
                else:
                    error = HostGone(call.host, f"{len(answers)} answers to {len(call.submissions)} commands")
            except InvalidValue as unreadable:
                error = unreadable
        if error is not None:
            unexpected = None if isinstance(error, HostGone | StaleCall) else error
            say = log.info if unexpected is None else log.warning
            say("a call failed; sending its commands again", host=call.host, reason=str(error), exc_info=unexpected)
            self._refused |= call.routes
            awaited = call.awaited()
            if isinstance(error, HostGone):
                self._suspects.lost(call, awaited, self._loop.time())
            self._put_back(by_shard(awaited), {})
        self._dispatch_soon()
        self._on_departed()

    def _answered(self, call: OutgoingCall, answers: Iterable[Receipt | EventrayError]) -> None:
        """Hand out the answers that are final; put the other commands back."""
        self._suspects.answered(call.host)
        returning: dict[int, list[Submission]] = {}
        hints_s: dict[int, float] = {}
        final: list[tuple[Submission, Receipt | EventrayError]] = []
        for submission, answer in zip(call.submissions, answers, strict=True):
            shard = submission.shard
            if shard not in call.routes:
                continue
            if type(answer) is not Receipt and _may_pass(answer):
                returning.setdefault(shard, []).append(submission)
                if isinstance(answer, NotOwner):
                    self._refused[shard] = call.routes[shard]
                elif isinstance(answer, Overloaded):
                    submission.turned_away += 1
                    submission.retry_after_ms = answer.retry_after_ms
                    hints_s[shard] = answer.retry_after_ms / 1000
                continue
            final.append((submission, answer))
        for shard in call.routes.keys() - returning.keys():
            self.lanes.free(shard)
        if returning:
            self._put_back(returning, hints_s)
        ready, _ = self._ready()
        waiting = self.lanes.waiting_in(ready.get(call.host, ()))
        if len(final) < self._limits.large_call or waiting >= len(final):
            self._dispatch()  # the host works on the next call while this process works on these answers
        self.lanes.departed([submission for submission, _ in final])
        self._suspects.cleared(submission for submission, _ in final)
        for submission, answer in final:
            _hand_out(submission, answer)

    def _back(self, call: OutgoingCall) -> None:
        """Count this call no more among those that are under way."""
        under_way = self._calls[call.host]
        under_way.remove(call)
        if not under_way:
            del self._calls[call.host]

    def _under_way(self) -> list[OutgoingCall]:
        return [call for calls in self._calls.values() for call in calls]

    def _put_back(self, returning: dict[int, list[Submission]], hints_s: dict[int, float]) -> None:
        """Put commands back to the front of their lanes, and let these rest."""
        now_s = self._loop.time()
        pause_s = self._limits.pause_s(1 + max(map(self.lanes.failures, returning), default=0))
        for shard, submissions in returning.items():
            self._rest(shard, submissions, now_s + max(pause_s, hints_s.get(shard, 0.0)))

    def _rest(self, shard: int, submissions: list[Submission], until_s: float | None) -> None:
        """Put commands back to the front of their lane, and let it rest, with None only if the first goes alone."""
        self.lanes.put_back(shard, submissions, until_s)
        if self.lanes.suspects and self.lanes.goes_alone(shard):
            until_s = max(until_s or 0.0, self._loop.time() + self._limits.alone_pause_s())
            self.lanes.rest(shard, until_s)
        if until_s is not None:
            self._arm(until_s)

    # --- calls without an answer ---

    def _on_routes(self) -> None:
        """New routes are there: end the rests for which they were read, and those of lanes that nothing waits in, and
        take back from the calls that have been out for long what has moved."""
        now_s = self._loop.time()
        for shard, route in list(self._refused.items()):
            if self._table.get(shard) not in (None, route) or self.lanes.is_empty(shard):
                del self._refused[shard]
                if not self.lanes.goes_alone(shard):
                    self.lanes.end_rest(shard)
        for call in self._under_way():
            if now_s - call.started_s >= self._limits.watch_after_s:
                self._take_back_moved(call)
        self._dispatch_soon()
        self._on_departed()

    def _take_back_moved(self, call: OutgoingCall) -> None:
        moved = [shard for shard, route in call.routes.items() if self._table.get(shard) != route]
        if not moved:
            return
        log.info("shards have moved while a call was out; their commands go again", host=call.host, shards=moved)
        submissions = by_shard(call.awaited())
        for shard in moved:
            del call.routes[shard]
            self._suspects.lost(call, submissions[shard], self._loop.time())
            self._rest(shard, submissions[shard], None)
        if not call.routes:
            self._give_up(call)

    def _give_up(self, call: OutgoingCall) -> None:
        """Await nothing more of this call; the next one may go to its host."""
        self.lanes.departed(call.awaited())
        for shard in call.routes:
            self.lanes.free(shard)
        self._back(call)
        if call.task is not None:
            call.task.cancel()
        self._dispatch_soon()

    def _held_up_s(self, now_s: float) -> float:
        """Return when the next of the calls under way will have been out for so long that something holds it up."""
        ages_s = [now_s - call.started_s for call in self._under_way()]
        young_s = max((age_s for age_s in ages_s if age_s < self._limits.patience_s), default=None)
        return math.inf if young_s is None else now_s + max(0.001, self._limits.patience_s - young_s)

    def _watch(self, now_s: float) -> float:
        """Read the routes while a call is out for long; return when to look again."""
        oldest_s = min((call.started_s for call in self._under_way()), default=math.inf)
        due_s = max(oldest_s, self._table.read_s) + self._limits.watch_after_s
        if due_s > now_s:
            return due_s
        self._table.read()
        return now_s + self._limits.watch_after_s

    # --- time ---

    def _arm(self, when_s: float) -> None:
        """See to it that `_tick` runs at that time at the latest."""
        if when_s < self._tick_s:
            if self._timer is not None:
                self._timer.cancel()
            self._tick_s = when_s
            self._timer = self._loop.call_at(when_s, self._tick)

    def _tick(self) -> None:
        """All that time brings: lanes that have rested, deadlines, calls that are out for long."""
        self._timer, self._tick_s = None, math.inf
        now_s = self._loop.time()
        if self._look_over_s <= now_s:
            self._look_over(now_s)
        rested_s = self.lanes.wake(now_s)
        self._arm(min(self._look_over_s, math.inf if rested_s is None else rested_s, self._watch(now_s)))
        self._arm(self._held_up_s(now_s))
        if self.lanes.ready:
            self._dispatch_soon()

    def _look_over(self, now_s: float) -> None:
        """Tell those whose time is up, and find the next deadline."""
        next_s = math.inf
        for submission in self._all():
            if submission.deadline_s <= now_s:
                submission.time_out()
            elif submission.deadline_s < next_s and not submission.future.done():
                next_s = submission.deadline_s
        self._forget_done()
        self._look_over_s = max(next_s, now_s + self._limits.deadline_grain_s) if self.lanes.held else math.inf

    def _all(self) -> list[Submission]:
        """All commands that are held, in no order."""
        return [*self.lanes.waiting(), *(s for call in self._under_way() for s in call.awaited())]

    def _forget_done(self) -> None:
        """Drop what nobody waits for any more, and the calls that hold nothing else."""
        self.lanes.drop_done()
        for call in self._under_way():
            if all(submission.future.done() for submission in call.awaited()):
                self._give_up(call)
        self._on_departed()


def _hand_out(submission: Submission, answer: Receipt | EventrayError) -> None:
    """Tell the caller, if it still waits."""
    if submission.future.done():
        return
    if isinstance(answer, Receipt):
        submission.future.set_result(answer)
    elif isinstance(answer, CommandTimeout) or (isinstance(answer, StoreUnavailable) and submission.sendings > 1):
        submission.time_out()  # the log can't be asked now what an earlier sending has done
    else:
        submission.future.set_exception(answer)


def _may_pass(answer: Receipt | EventrayError) -> bool:
    """Whether the same command, sent again, may get another answer."""
    return isinstance(answer, NotOwner | Overloaded) or (isinstance(answer, StoreUnavailable) and answer.passing)
