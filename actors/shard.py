"""One shard on its host: its mail in order, its live aggregates, and what was decided but is not stored yet.

Synchronous and free of I/O: `decide` goes as far as the memory reaches, `wants` says what has to be read before it
can go on, `fill` brings that. Deciding is pure and never interleaves, so the one queue gives each aggregate its
commands one at a time and lets a command read the other aggregates of its partition key.

The promise kept here: no answer leaves before everything it was decided on is stored. Whatever was decided waits in
`undone` until the writer says what became of its append. Not here: reading, committing, claiming.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import structlog

from actors.aggregate import Aggregate
from actors.errors import CommandTimeout, DecideFailed, MakeFailed, NotOwner
from actors.live import LiveAggregates
from actors.mail import Answer, Pending, Turn
from actors.new_streams import NewStreams
from actors.recording import receipt_of, record_events, repeated
from actors.registry import AggregateRegistry
from actors.snapshot_keeper import SnapshotKeeper
from actors.snapshots import due
from actors.wire import Receipt
from store import ConcurrencyError, EventrayError, EventRecord
from store.logs import subject
from store.records import Claim, ShardAppend

log = structlog.get_logger(__name__)

CommandKey = tuple[int, str, str]

TOGETHER, SHARD_ALONE, COMMAND_ALONE = range(3)
"""How carefully a shard's appends are made: with other shards', in a transaction of its own, or one command each."""


@dataclass(slots=True)
class Wants:
    """What has to be read before a shard's mail can be decided."""

    streams: set[str] = field(default_factory=set)
    keys: set[CommandKey] = field(default_factory=set)


class Shard:
    """The mail, the live aggregates and the undone decisions of one shard at one epoch."""

    def __init__(
        self,
        number: int,
        claim: Claim,
        registry: AggregateRegistry,
        store_id: str,
        snapshots: SnapshotKeeper,
        new_streams: NewStreams,
    ) -> None:
        self.number = number
        self.epoch = claim.epoch
        self.stored_head = claim.head
        """The position of the last event known to be stored."""
        self.head = claim.head
        """The position of the last event decided."""
        self.care = TOGETHER
        self.loading: Wants | None = None
        """What is being read for this shard; nothing is decided meanwhile."""
        self.settling = False
        """Whether an append's outcome is unknown and being found out; nothing is decided or written meanwhile."""
        self.releasing = False
        self.inbox: deque[Pending] = deque()
        self.live = LiveAggregates()
        self.unstored_bytes = 0
        """What the events that are decided and not yet known to be stored take, about."""
        self._registry = registry
        self._store_id = store_id
        self._snapshots = snapshots
        self._new_streams = new_streams
        self._ids: dict[tuple[str, str], Pending] = {}
        self._decided: list[Pending] = []
        self._writing: list[Pending] = []
        self._unreadable: dict[str, EventrayError] = {}
        self._suspects = 0
        self._load_barrier = 0

    # --- mail ---

    def admit(self, pending: Pending) -> None:
        """Put a command at the end of the mail; its id counts as pending from now on."""
        self.inbox.append(pending)
        self._ids.setdefault(pending.key, pending)

    @property
    def busy(self) -> bool:
        """Whether the shard waits for the store before it can decide."""
        return self.settling or self.loading is not None

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting, decided or being written."""
        return not (self.inbox or self._decided or self._writing or self.busy)

    @property
    def oldest_arrival_s(self) -> float | None:
        """When the oldest unanswered command arrived, on the host's monotonic clock."""
        heads = [items[0].arrived_s for items in (self._writing, self._decided, self.inbox) if items]
        return min(heads, default=None)

    # --- deciding ---

    def decide(self, turn: Turn, room_bytes: int) -> None:
        """Decide the mail in order, as far as it can be without reading, in a turn of the host.

        Stops where the new events take `room_bytes` or more: the last decision may go beyond.
        """
        full_bytes, now_s = self.unstored_bytes + room_bytes, turn.began_s
        while self.inbox and not self.busy:
            if self.unstored_bytes >= full_bytes:
                return
            if self.care == COMMAND_ALONE and (self._decided or self._writing):
                break
            pending = self.inbox[0]
            if pending.expires_s > now_s and not self._ready(pending):
                return
            self.inbox.popleft()
            pending.call.turn = turn
            self._decide_one(pending, now_s, turn.recorded_at)
        self._unreadable.clear()

    def wants(self) -> Wants:
        """What must be read before the mail can be decided; nothing while a stream's last events are on their way."""
        wants = Wants()
        if self.stored_head < self._load_barrier:
            return wants
        for pending in self.inbox:
            first = self._ids.setdefault(pending.key, pending)
            if first is pending and not pending.looked_up:
                wants.keys.add((self.number, *pending.key))
            if pending.found is None:
                own_too = pending.stream not in self.live and not self._presumes_new(pending)
                lacking = pending.streams if own_too else pending.read_streams
                wants.streams.update(stream for stream in lacking if stream not in self.live)
        return wants

    def fill(
        self,
        wants: Wants,
        found: Mapping[CommandKey, EventRecord],
        loaded: Mapping[str, Aggregate],
        unreadable: Mapping[str, EventrayError],
        now_s: float,
    ) -> None:
        """Take in what was read for `wants`, unless the shard's state was dropped while it was being read."""
        if self.loading is not wants:
            return
        self.loading = None
        self.live.add(loaded, now_s)
        self._unreadable.update(unreadable)
        for pending in self.inbox:
            key = (self.number, *pending.key)
            if key in wants.keys and self._ids.get(pending.key) is pending:
                pending.looked_up, pending.found = True, found.get(key)
            if pending.stream in unreadable or (pending.stream in loaded and loaded[pending.stream].version):
                self._new_streams.began_none(pending.message.command_type)

    def refuse_mail(self, wants: Wants, error: EventrayError) -> None:
        """What was wanted can't be read, and that won't pass: answer all waiting mail with the error.

        What went to the store before, and whose outcome the look-up was to tell, is answered as unknown.
        """
        if self.loading is wants:
            self.loading = None
            while self.inbox:
                pending = self.inbox.popleft()
                self._answer(pending, _timeout(pending) if pending.attempts else error)

    def _ready(self, pending: Pending) -> bool:
        first = self._ids.setdefault(pending.key, pending)
        if first is not pending:
            if first.records:
                return True
            self._ids[pending.key] = pending
        if not pending.looked_up:
            return False
        if pending.found is not None:
            return True
        for stream in pending.streams:
            if stream in self.live or stream in self._unreadable:
                continue
            if stream != pending.stream or not self._presumes_new(pending):
                return False
        return True

    def _presumes_new(self, pending: Pending) -> bool:
        """Whether a command whose stream is not in memory is to be decided as if that were new.

        Never with care: what the store has refused is decided on what was read.
        """
        return self.care == TOGETHER and self._new_streams.presumes(pending.message.command_type)

    def _decide_one(self, pending: Pending, now_s: float, recorded_at: int) -> None:
        if pending.expires_s <= now_s:
            self._answer(pending, _timeout(pending))
            return
        first = self._ids[pending.key]
        if first is not pending:
            first.followers.append(pending)
            return
        if pending.found is not None:
            self._answer(pending, repeated(pending, pending.found, self._store_id))
            return
        if self._unreadable:
            for stream in pending.streams:
                if stream in self._unreadable:
                    self._answer(pending, self._unreadable[stream])
                    return
        if pending.stream not in self.live:
            self._decide_presuming(pending, now_s, recorded_at)
            return
        pending.outcome = self._outcome(pending, now_s, recorded_at)
        self._decided.append(pending)
        if isinstance(pending.outcome, DecideFailed):
            log.error("a command broke the code that decides it", exc_info=pending.outcome)

    def _decide_presuming(self, pending: Pending, now_s: float, recorded_at: int) -> None:
        """Decide a command whose stream was not read, as if that were new.

        What it decided counts only if it caused events: the store refuses their versions if the stream has some. Any
        other outcome would stand on what nobody has looked at, so the command goes back, until its stream is read.
        """
        try:
            new = self._registry.new_aggregate(pending.stream)
        except MakeFailed:
            pass  # reading says so
        else:
            self.live.add({pending.stream: new}, now_s)
            outcome = self._outcome(pending, now_s, recorded_at)
            if pending.records:
                pending.outcome, pending.presumed_new = outcome, True
                self._decided.append(pending)
                return
            self.live.forget(pending.stream)
        self._new_streams.began_none(pending.message.command_type)
        self.inbox.appendleft(pending)

    def _outcome(self, pending: Pending, now_s: float, recorded_at: int) -> Answer:
        aggregate = self.live.use(pending.stream, now_s)
        expected = pending.message.expected_version
        if expected is not None and expected != aggregate.version:
            return ConcurrencyError(pending.stream, expected, aggregate.version)
        reads = [self.live.use(stream, now_s) for stream in pending.read_streams]
        try:
            subject.set(pending.described)
            pending.binding.decide(aggregate, pending.command, reads)
            events = aggregate.uncommitted_events
            if events:
                record_events(pending, events, self._registry.events, self.number, self.head, recorded_at)
        except EventrayError as error:
            self._forget_half_decided(aggregate, reads)
            return error
        if not pending.records:
            return Receipt(
                pending.message.command_id,
                pending.stream,
                aggregate.version,
                self.number,
                self.head,
                self._store_id,
                False,
            )
        aggregate.mark_committed()
        aggregate.partition_key = pending.partition_key
        if due(aggregate, aggregate.version - len(events)):
            pending.snapshot = self._snapshots.take(aggregate, recorded_at)
        self.head = pending.records[-1].position
        self.unstored_bytes += pending.records_bytes
        return receipt_of(pending, pending.records, self._store_id)

    def _forget_half_decided(self, aggregate: Aggregate, reads: Iterable[Aggregate]) -> None:
        """Drop aggregates that were changed by a decision that then failed; they are read anew once all is stored."""
        for touched in (aggregate, *reads):
            if touched.uncommitted_events:
                self.live.forget(touched.stream)
                self._load_barrier = self.head

    # --- what became of it ---

    def take(self) -> list[Pending]:
        """Hand what was decided to the writer, for the next append of this shard."""
        self._writing, self._decided = self._decided, []
        return self._writing

    def presumed_types(self) -> set[str]:
        """The types of those commands of what was taken whose streams are presumed to be new."""
        return {pending.message.command_type for pending in self._writing if pending.presumed_new}

    @property
    def has_decided(self) -> bool:
        """Whether there is something for the writer."""
        return bool(self._decided) and not self.busy

    def append_of(self, decided: Iterable[Pending]) -> ShardAppend:
        """The rows of what was taken; without any, the epoch is only confirmed."""
        records = [record for pending in decided for record in pending.records]
        return ShardAppend(self.number, self.epoch, self.stored_head, records)

    def committed(self) -> None:
        """The append of what was taken is stored (or, without rows, the epoch confirmed): answer it."""
        writing, self._writing = self._writing, []
        for pending in writing:
            if pending.records:
                self.stored_head = pending.records[-1].position
                self.unstored_bytes -= pending.records_bytes
                if pending.records[0].version == 1:
                    self._new_streams.began(pending.message.command_type)
            assert pending.outcome is not None
            self._answer(pending, pending.outcome)
            if pending.snapshot is not None:
                self._snapshots.keep(pending.snapshot)
            for follower in pending.followers:
                self._answer(follower, repeated(follower, pending.records[0], self._store_id))

    def rewind(self, stored_head: int | None = None) -> None:
        """Nothing that is undone was stored, or nobody knows: forget all state and put the undone back, in order.

        `stored_head` is what the store says after an unknown outcome. Refused commands go back too: they were decided
        on state that may never have been.
        """
        undone = [p for taken in (*self._writing, *self._decided) for p in (taken, *taken.followers)]
        for pending in undone:
            pending.undo()
        self.inbox = deque(sorted((*undone, *self.inbox), key=lambda pending: pending.arrival))
        self._writing, self._decided = [], []
        self._ids = {}
        for pending in self.inbox:
            self._ids.setdefault(pending.key, pending)
        self.live.forget_all()
        self.unstored_bytes = 0
        self.loading = None
        if stored_head is not None:
            self.stored_head = stored_head
        self.head = self.stored_head
        self._load_barrier = 0

    def rejected(self, error: EventrayError) -> None:
        """The store refused the append for one of its rows: decide again with more care, till the guilty is alone."""
        if self.care == COMMAND_ALONE:
            self.refuse_taken(error)
            return
        self.care += 1
        for pending in (*self._writing, *self._decided):
            for suspect in (pending, *pending.followers):
                self._suspects += not suspect.suspect
                suspect.suspect = True
        self.rewind()

    def refuse_taken(self, error: EventrayError) -> None:
        """Answer all that was taken with the error; what was decided after it goes back into the mail."""
        writing, self._writing = self._writing, []
        for pending in writing:
            for refused in (pending, *pending.followers):
                self._answer(refused, error)
        self.rewind()

    def drop(self) -> None:
        """This host is not the owner (any more): tell everyone who waits."""
        self.rewind()
        while self.inbox:
            self._answer(self.inbox.popleft(), NotOwner(self.number, self.epoch))

    def unneeded(self) -> Iterator[tuple[float, str]]:
        """Yield the live aggregates that nothing undone stands on: when each was last used, least recently first."""
        needed = {stream for pending in (*self._writing, *self._decided, *self.inbox) for stream in pending.streams}
        return ((used_s, stream) for used_s, stream in self.live.by_use() if stream not in needed)

    def _answer(self, pending: Pending, answer: Answer) -> None:
        pending.call.answer(pending.index, answer)
        if self._ids.get(pending.key) is pending:
            del self._ids[pending.key]
        if pending.suspect:
            pending.suspect = False
            self._suspects -= 1
            if not self._suspects:
                self.care = TOGETHER


def _timeout(pending: Pending) -> CommandTimeout:
    return CommandTimeout(pending.message.command_id, pending.message.patience_ms / 1000)
