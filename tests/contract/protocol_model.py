"""What the protocol promises, as a model that watches: who owns what, what was committed, sent and answered.

The world (`protocol_world.py`) tells it each thing as it happens, in the order of the commits; it answers with an
AssertionError where a promise is broken. It decides and folds with `shop_rules.py`, not with the runtime.
"""

from __future__ import annotations

import json
import zlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from actors.errors import CommandIdReused, CommandTimeout, DomainError, NotOwner
from actors.wire import Receipt
from store import ConcurrencyError, EventrayError, EventRecord, StoreRejected, StoreUnavailable
from store.records import Claim, ShardAppend, Snapshot
from tests.contract.shop_rules import NOTHING, States, StreamState, Wish, decided, folded, plain, remembered

Answer = Receipt | EventrayError
CommandKey = tuple[str, str]
"""A command's id and its stream: what may cause events once."""


@dataclass(eq=False)
class Sending:
    """One command on its way to one host, once."""

    host: int
    """Which process it was sent to; a name may stand for several."""
    session: str
    """The client that sends it."""
    wish: Wish
    command_id: str
    shard: int
    epoch: int
    """By which it was routed."""
    expected_version: int | None
    expired: bool
    first_send: bool
    lies: bool = False
    """It was sent before, and says that it was not: nobody looks its id up."""
    sent_at: int = 0
    """The length of the log when it reached the host."""
    broken_at: int = 0
    """How often the host's store had failed for good by then."""
    answer: Answer | None = None
    answered_at: int = 0
    promised: bool = False
    """It got a receipt for events, which must be in the log for ever."""

    @property
    def key(self) -> CommandKey:
        return self.command_id, self.wish.stream

    def __repr__(self) -> str:
        version = "" if self.expected_version is None else f" at {self.expected_version}"
        return f"{self.command_id}: {self.wish.kind}{[v for _, v in self.wish.fields]}{version} -> host {self.host}"


@dataclass
class Cause:
    """A command in the log: what it asked, and the place of its last event."""

    wish: Wish
    version: int
    shard: int
    position: int


@dataclass
class ProtocolModel:
    """One store's truth since `heads` and `epochs` were read from it."""

    store_id: str
    shards: int
    heads: dict[int, int]
    epochs: dict[int, int]
    assigned: dict[int, str | None]
    log: list[EventRecord] = field(default_factory=list)
    """All that was committed since, in the order of the commits."""
    states: list[dict[str, StreamState]] = field(default_factory=lambda: [{}])
    """The streams' states after each event of the log."""
    places: list[dict[int, int]] = field(default_factory=list)
    """The shards' heads after each event of the log."""
    causes: dict[CommandKey, Cause] = field(default_factory=dict)
    caused_at: dict[CommandKey, int] = field(default_factory=dict)
    """The length of the log before a command's first event."""
    sendings: list[Sending] = field(default_factory=list)
    refused_alone: set[CommandKey] = field(default_factory=set)
    """Commands that the store refused in a transaction of their own."""
    in_doubt: set[CommandKey] = field(default_factory=set)
    """Commands whose host did not hear that their events were stored."""
    snapshots: dict[str, int] = field(default_factory=dict)
    """The version of each stream's snapshot in the store."""
    broken: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    """How often each host's store failed in a way that doesn't pass."""

    def __post_init__(self) -> None:
        self.places.append(dict(self.heads))

    # --- the store ---

    def claimed(self, name: str, shards: Iterable[int], claims: Mapping[int, Claim]) -> None:
        """A claim was made: of all that is assigned to the name, each epoch one higher, nothing else."""
        expected = {s: (self.epochs[s] + 1, self.heads[s]) for s in shards if self.assigned[s] == name}
        assert claims == expected, f"{name} claimed {claims}, entitled to {expected}"
        self.epochs.update({shard: claim.epoch for shard, claim in claims.items()})

    def settled(self, epochs: Mapping[int, int], heads: Mapping[int, int]) -> None:
        """A writer was told which of its shards it still has."""
        expected = {shard: self.heads[shard] for shard, epoch in epochs.items() if self.epochs[shard] == epoch}
        assert heads == expected, f"settled as {heads}, the truth is {expected}"

    def refused(self, appends: Sequence[ShardAppend]) -> None:
        """The store refused the rows of an append."""
        commands = _keys(appends)
        if len(commands) == 1:
            self.refused_alone |= commands

    def reply_lost(self, appends: Sequence[ShardAppend]) -> None:
        """A host will not hear from the store what became of an append."""
        self.in_doubt |= _keys(appends)

    def appended(self, host: int, appends: Sequence[ShardAppend], fenced: Collection[int]) -> None:
        """A host's append was committed, but for the fenced shards."""
        foreign = {append.shard for append in appends if self.epochs[append.shard] != append.epoch}
        assert set(fenced) == foreign, f"fenced: {set(fenced)}; shards that host {host} had lost: {foreign}"
        for append in appends:
            if append.shard not in foreign:
                for command in _commands(append.records):
                    self._commit(host, append.epoch, command)

    def _commit(self, host: int, epoch: int, events: list[EventRecord]) -> None:
        """One command's events are in the log: right by the log before them, and somebody asked for them."""
        first, last = events[0], events[-1]
        key = (str(first.command_key), first.stream)
        assert key not in self.causes, f"{key} caused events twice"
        before = self.states[-1]
        happened = [(event.type, plain(event.data)) for event in events]
        version = before.get(first.stream, NOTHING).version
        askers = [
            sending
            for sending in self.sendings
            if (sending.key, sending.host, sending.epoch, sending.answer) == (key, host, epoch, None)
            and sending.expected_version in (None, version)
            and not sending.expired
            and decided(before, sending.wish) == happened
        ]
        assert askers, f"host {host} stored {happened} for {key} at epoch {epoch}: nobody's command, by {before}"
        self.caused_at[key] = len(self.log)
        for event in events:
            self._store(event)
        self.causes[key] = Cause(askers[0].wish, last.version, last.shard, last.position)

    def _store(self, event: EventRecord) -> None:
        states = self.states[-1]
        state = states.get(event.stream, NOTHING)
        assert event.position == self.heads[event.shard] + 1, f"a gap in shard {event.shard}: {event}"
        assert event.version == state.version + 1, f"a gap in {event.stream}: {event}"
        assert event.shard == zlib.crc32(event.partition_key.encode()) % self.shards, event
        assert state.key in ("", event.partition_key), f"{event.stream} has two partition keys"
        self.heads[event.shard] = event.position
        self.log.append(event)
        after = folded(state, event.type, event.partition_key, plain(event.data))
        self.states.append({**states, event.stream: after})
        self.places.append(dict(self.heads))

    def kept(self, snapshots: Iterable[Snapshot]) -> None:
        """A host has written snapshots: of versions in the log, and the state is what these events come to."""
        for snapshot in snapshots:
            states = (states.get(snapshot.stream, NOTHING) for states in self.states)
            state = next((state for state in states if state.version == snapshot.version), None)
            assert state is not None, f"a snapshot of a version that is not in the log: {snapshot}"
            assert remembered(snapshot.stream, snapshot.data) == state, (
                f"{snapshot} is not what the events come to: {state}"
            )
            self.snapshots[snapshot.stream] = max(snapshot.version, self.snapshots.get(snapshot.stream, 0))

    # --- commands ---

    def sent(self, sendings: Iterable[Sending]) -> None:
        """These commands reached their host."""
        for sending in sendings:
            sending.sent_at, sending.broken_at = len(self.log), self.broken[sending.host]
            self.sendings.append(sending)

    def answered(self, sendings: Sequence[Sending], answers: Sequence[Answer]) -> None:
        """A host answered a call: each answer must be right, and their order that of the call."""
        assert len(sendings) == len(answers)
        for sending, answer in zip(sendings, answers, strict=True):
            sending.answer, sending.answered_at = answer, len(self.log)
        for sending, answer in zip(sendings, answers, strict=True):
            problem = self._problem(sending, answer)
            assert problem is None, f"{sending} got {answer!r}: {problem}"
        self._check_order(sendings)

    def _problem(self, sending: Sending, answer: Answer) -> str | None:
        """Say what is wrong with an answer; None if nothing is."""
        cause = self.causes.get(sending.key)
        match answer:
            case Receipt():
                return self._receipt_problem(sending, answer, cause)
            case CommandIdReused():
                return None if cause and cause.wish != sending.wish else "the id isn't in the log with another payload"
            case DomainError() | ConcurrencyError():
                if any(self._refused(sending, answer, at, states) for at, states in self._views(sending)):
                    return None
                return f"by no state of the log since it was sent: {self.states[sending.sent_at :]}"
            case NotOwner():
                return None
            case CommandTimeout():
                broken = self.broken[sending.host] > sending.broken_at
                return None if sending.expired or broken else "its time was not up"
            case StoreUnavailable():
                if answer.passing or self.broken[sending.host] == sending.broken_at:
                    return "the store did not fail for good"
            case StoreRejected():
                if sending.key not in self.refused_alone:
                    return "the store never refused it alone"
            case _:
                return "no such answer was expected"
        only = sum(other.key == sending.key for other in self.sendings) == 1
        return "it says that nothing was stored, and the events are in the log" if only and cause else None

    def _receipt_problem(self, sending: Sending, receipt: Receipt, cause: Cause | None) -> str | None:
        place = (receipt.command_id, receipt.stream, receipt.shard, receipt.store_id)
        if place != (*sending.key, sending.shard, self.store_id):
            return "it is about another command"
        elsewhere = cause is None or (receipt.version, receipt.position) != (cause.version, cause.position)
        if receipt.duplicate and elsewhere:
            return f"the log has it elsewhere: {cause}"
        may_be_unchanged = elsewhere or (sending.lies and not receipt.duplicate)
        if may_be_unchanged and any(self._unchanged(sending, receipt, *view) for view in self._views(sending)):
            return None
        if elsewhere:
            return f"neither its own place in the log ({cause}), nor a place where it would have changed nothing"
        if cause is None or cause.wish != sending.wish:
            return "the log has the id with another payload"
        sending.promised = True
        same = [other for other in self.sendings if other.key == sending.key and other is not sending]
        if receipt.duplicate:
            return None if same else "it was sent only once"
        if any(isinstance(o.answer, Receipt) and o.promised and not o.answer.duplicate for o in same):
            return "two sendings were told that they were the first"
        return None

    def _views(self, sending: Sending) -> Iterator[tuple[int, States]]:
        """Yield on what a command without a trace may have been decided: lengths of the log, and the states by then.

        Only a stream of another shard, which a command asks for as if it were its own shard's, may be older than the
        rest: it is read from that shard's log once, and then kept in memory.
        """
        stream = sending.wish.stream
        for at in range(sending.sent_at, sending.answered_at + 1):
            now = self.states[at].get(stream, NOTHING)
            foreign = now.version and zlib.crc32(now.key.encode()) % self.shards != sending.shard
            for since in range(at + 1) if foreign else (at,):
                yield at, {**self.states[at], stream: self.states[since].get(stream, NOTHING)}

    def _refused(self, sending: Sending, error: EventrayError, at: int, states: States) -> bool:
        """Whether these states, the log's after its first `at` events, refuse the command in those words."""
        if self._known(sending, at):
            return False
        expected = sending.expected_version
        version = states.get(sending.wish.stream, NOTHING).version
        if isinstance(error, ConcurrencyError):
            told = (error.stream, error.expected_version, error.actual_version)
            return told == (sending.wish.stream, expected, version) and expected != version
        return expected in (None, version) and decided(states, sending.wish) == str(error)

    def _unchanged(self, sending: Sending, receipt: Receipt, at: int, states: States) -> bool:
        """Whether the command causes no events on these states, the log's after its first `at` events."""
        if self._known(sending, at):
            return False
        version = states.get(sending.wish.stream, NOTHING).version
        place = (receipt.version, receipt.position)
        return place == (version, self.places[at][sending.shard]) and (
            sending.expected_version in (None, version) and decided(states, sending.wish) == []
        )

    def _known(self, sending: Sending, at: int) -> bool:
        """Whether the log's first `at` events show that its id caused events, in its own shard."""
        cause = self.causes.get(sending.key)
        if sending.lies or cause is None or cause.shard != sending.shard:
            return False
        return self.caused_at[sending.key] < at

    def _check_order(self, sendings: Sequence[Sending]) -> None:
        """Within a call a shard's commands are decided in order, and none after one that will be sent again.

        But a refused one, which leaves no trace, is decided anew where the outcome of those after it was lost.
        """
        for shard in {sending.shard for sending in sendings}:
            to_send_again: Sending | None = None
            position = 0
            for sending in (sending for sending in sendings if sending.shard == shard):
                answer = sending.answer
                if isinstance(answer, NotOwner):
                    to_send_again = sending
                elif isinstance(answer, Receipt) and sending.promised and not answer.duplicate:
                    if self.caused_at[sending.key] < sending.sent_at or sending.key in self.in_doubt:
                        continue
                    assert to_send_again is None, f"{sending} was decided, {to_send_again} before it not"
                    assert answer.position > position, f"{sending} was decided before an earlier one of its call"
                    position = answer.position

    # --- the end ---

    def check_snapshots(self, snapshots: Mapping[str, Snapshot]) -> None:
        """Compare what the store holds at the end with what was kept: of each stream its latest."""
        assert {stream: snapshot.version for stream, snapshot in snapshots.items()} == self.snapshots
        self.kept(snapshots.values())

    def check_log(self, rows: Sequence[EventRecord], heads: Mapping[int, int]) -> None:
        """Compare what the store holds at the end with what was committed, and with every receipt given out."""
        assert heads == self.heads
        assert sorted(rows) == sorted(self.log), "the store holds other events than were committed"
        keys = [(row.command_key, row.stream) for row in rows if row.command_key is not None]
        assert len(keys) == len(set(keys)), "an id caused events twice on a stream"
        at = {(row.shard, row.position): row for row in rows}
        for sending in self.sendings:
            receipt = sending.answer
            if isinstance(receipt, Receipt) and sending.promised:
                row = at.get((receipt.shard, receipt.position))
                assert row is not None, f"{sending} was acknowledged, and its events are lost"
                assert (row.stream, row.version) == (receipt.stream, receipt.version), f"{sending}: {receipt}"
                assert json.loads(row.metadata)["command_id"] == sending.command_id


def _keys(appends: Iterable[ShardAppend]) -> set[CommandKey]:
    return {(str(r.command_key), r.stream) for append in appends for r in append.records if r.command_key is not None}


def _commands(records: Iterable[EventRecord]) -> list[list[EventRecord]]:
    """Group a shard's records by the command that caused them: its id is on the first one."""
    commands: list[list[EventRecord]] = []
    for record in records:
        if record.command_key is not None:
            commands.append([record])
        else:
            commands[-1].append(record)
    return commands
