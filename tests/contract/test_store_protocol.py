"""The store's ports alone under random schedules: claims, appends, settling, writers that lost their shards, races.

No host decides here: rows are drawn, good ones and bad. The model holds the log as plain lists. PROTOCOL_EXAMPLES asks
for a longer run, PROTOCOL_SEED repeats one.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine
from functools import partial
from typing import Any, NamedTuple, TypeVar

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from store import EventRecord, EventStore, StoreRejected, open_store
from store.records import Claim, Route, ShardAppend, Snapshot
from tests.contract.protocol_world import raw_rows
from tests.contract.rows import SHARDS, row
from tests.contract.schedules import TIMEOUT_S, search

T = TypeVar("T")
USED = range(3)
NAMES = ["h-1", "h-2"]
UNFIT = "\ud800"
"""A text that no database takes."""

writers = st.integers(0, 2)
shards = st.lists(st.sampled_from(USED), min_size=1, unique=True)
keys = st.one_of(st.none(), st.integers(0, 2))
flaws = st.sampled_from([None] * 8 + ["version", "foreign stream", "surrogate"])


class Note(NamedTuple):
    """A row to be."""

    stream: int
    key: int | None
    """The command's id; None: not a command's first event."""
    flaw: str | None


notes = st.lists(st.builds(Note, st.integers(0, 1), keys, flaws), max_size=3)
batches = st.dictionaries(st.sampled_from(USED), notes, min_size=1, max_size=3)


class StoreMachine(RuleBasedStateMachine):
    """Three writers, each with its own opened store; a claim they hold may long be another's."""

    def __init__(self, url: str, schedule: int) -> None:
        super().__init__()
        self.url, self.schedule = url, schedule
        self.loop = asyncio.new_event_loop()
        self.stores: list[EventStore] = []
        self.claims: list[dict[int, Claim]] = [{}, {}, {}]
        """What each writer believes that it holds."""
        self.log: list[EventRecord] = []
        self.snapshots: dict[str, Snapshot] = {}
        """By stream, the latest."""

    @initialize()
    def begin(self) -> None:
        self.stores = [self.run(open_store(self.url, SHARDS)) for _ in self.claims]
        self.generation = self.run(self.stores[0].take("the coordinator"))
        self.since = self.run(self.stores[0].heads())
        self.heads = dict(self.since)
        routes = self.run(self.stores[0].routes())
        self.epochs = {route.shard: route.epoch for route in routes}
        self.assigned = {route.shard: route.host for route in routes}
        self.assign(list(USED), NAMES[0])
        self.claim(0, NAMES[0], list(USED))

    # --- who may write ---

    @rule(moved=shards, name=st.one_of(st.none(), st.sampled_from(NAMES)))
    def assign(self, moved: list[int], name: str | None) -> None:
        assignments = dict.fromkeys(moved, name)
        self.run(self.stores[0].assign(self.generation, assignments))
        self.assigned.update(assignments)

    @rule(writer=writers, name=st.sampled_from(NAMES), claimed=shards)
    def claim(self, writer: int, name: str, claimed: list[int]) -> None:
        self.take_claims(writer, name, claimed, self.run(self.stores[writer].claim(name, claimed)))

    @rule(writer=writers, moved=shards, name=st.sampled_from(NAMES))
    def succeed(self, writer: int, moved: list[int], name: str) -> None:
        self.assign(moved, name)
        self.claim(writer, name, moved)

    # --- writing ---

    @precondition(lambda self: any(self.claims))
    @rule(writer=writers, batch=batches)
    def append(self, writer: int, batch: dict[int, list[Note]]) -> None:
        appends = self.appends(writer, batch)
        try:
            fenced = self.run(self.stores[writer].append(appends))
        except StoreRejected:
            assert self.may_be_refused(appends), "good rows were refused"
            return
        self.appended(writer, appends, fenced)

    @precondition(lambda self: any(self.claims))
    @rule(writer=writers, batch=batches, successor=writers, name=st.sampled_from(NAMES))
    def append_while_another_claims(self, writer: int, batch: dict[int, list[Note]], successor: int, name: str) -> None:
        """Either comes first, the other one sees it. A shard that is only confirmed may be seen as it was before."""
        claimed = sorted(batch)
        self.assign(claimed, name)
        appends = self.appends(writer, batch)
        lost = {append.shard for append in appends if self.epochs[append.shard] != append.epoch}
        bad = self.may_be_refused(appends)
        fenced, claims = self.run(self.race(writer, appends, successor, name, claimed))
        if fenced is None:
            assert bad, "good rows were refused"
        elif fenced == lost:
            self.appended(writer, appends, fenced)
        else:
            written = {append.shard for append in appends if append.records}
            assert fenced >= written, "an append was made by half: it saw a claim in one shard and not in another"
        self.take_claims(successor, name, claimed, claims)

    async def race(
        self, writer: int, appends: list[ShardAppend], successor: int, name: str, claimed: list[int]
    ) -> tuple[set[int] | None, dict[int, Claim]]:
        appending = asyncio.ensure_future(self.stores[writer].append(appends))
        claims = await self.stores[successor].claim(name, claimed)
        try:
            return await appending, claims
        except StoreRejected:
            return None, claims

    @rule(writer=writers, asked=shards)
    def settle(self, writer: int, asked: list[int]) -> None:
        epochs = {shard: self.claims[writer][shard].epoch for shard in asked if shard in self.claims[writer]}
        heads = self.run(self.stores[writer].settle(epochs))
        assert heads == {shard: self.heads[shard] for shard, epoch in epochs.items() if self.epochs[shard] == epoch}

    @rule(writer=writers, kept=st.dictionaries(st.sampled_from(["note-a", "note-b"]), st.integers(1, 5), min_size=1))
    def keep_snapshots(self, writer: int, kept: dict[str, int]) -> None:
        """They need no claim, so that one who lost its shards may come late with an older one."""
        rows = [
            Snapshot(f"{stream}.{self.schedule}", version, "by a", f"{version}", 1) for stream, version in kept.items()
        ]
        self.run(self.stores[writer].write_snapshots(rows))
        for each in rows:
            self.snapshots[each.stream] = max(each, self.snapshots.get(each.stream, each))

    # --- what all can read ---

    @rule(reader=writers)
    def everybody_reads_the_log(self, reader: int) -> None:
        store = self.stores[reader]
        for shard in USED:
            written = [record for record in self.log if record.shard == shard]
            assert self.run(store.read_shard(shard, self.since[shard], 1000)) == written
        assert self.run(store.heads()) == self.heads
        assert self.run(store.routes()) == [Route(s, self.assigned[s], self.epochs[s]) for s in range(SHARDS)]
        by_stream = sorted(self.log, key=lambda record: (record.stream, record.version))
        assert self.run(store.read_histories(dict.fromkeys(r.stream for r in self.log))).records == by_stream
        firsts = {(r.shard, str(r.command_key), r.stream): r for r in self.log if r.command_key is not None}
        assert self.run(store.read_snapshots([*self.snapshots, "note-none"])) == self.snapshots
        absent = (0, "no such command", "note-0")
        assert self.run(store.find_commands([*firsts, absent])) == firsts

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.everybody_reads_the_log(0)
                raw = self.run(raw_rows(self.url, self.since))
                assert raw is None or sorted(raw) == sorted(self.log)
                self.run(self.stores[0].release(self.generation))
        finally:
            for store in self.stores:
                self.run(store.close())
            self.run(self.loop.shutdown_default_executor())
            self.loop.close()

    # --- the model ---

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def take_claims(self, writer: int, name: str, claimed: list[int], claims: dict[int, Claim]) -> None:
        entitled = {s: Claim(self.epochs[s] + 1, self.heads[s]) for s in claimed if self.assigned[s] == name}
        assert claims == entitled
        self.epochs.update({shard: claim.epoch for shard, claim in claims.items()})
        self.claims[writer].update(claims)

    def appends(self, writer: int, batch: dict[int, list[Note]]) -> list[ShardAppend]:
        """Lay the notes out as rows, by what the writer believes; nobody is so wrong as to have no claim at all."""
        appends = []
        versions = {record.stream: record.version for record in self.log}
        for shard in sorted(batch.keys() & self.claims[writer].keys()):
            claim = self.claims[writer][shard]
            records = [self.row(shard, claim.head + n, note, versions) for n, note in enumerate(batch[shard], 1)]
            appends.append(ShardAppend(shard, claim.epoch, claim.head, records))
        return appends

    def row(self, shard: int, position: int, note: Note, versions: dict[str, int]) -> EventRecord:
        home = 0 if note.flaw == "foreign stream" else shard
        stream = f"note-{self.schedule}.{home}.{note.stream}"
        version = max(1, versions.get(stream, 0) + (note.flaw != "version"))
        versions[stream] = version
        record = row(shard, position, stream, version, None if note.key is None else f"key-{note.key}")
        return record._replace(data=UNFIT) if note.flaw == "surrogate" else record

    def is_bad(self, appends: list[ShardAppend]) -> bool:
        """Whether a database has to refuse the rows of shards that are not fenced."""
        rows = [r for a in appends if self.epochs[a.shard] == a.epoch for r in a.records]
        both = [*self.log, *rows]
        places = {(record.stream, record.version) for record in both}
        commands = [(r.shard, r.command_key, r.stream) for r in both if r.command_key is not None]
        return (
            len(places) < len(both)
            or len(set(commands)) < len(commands)
            or any(record.data == UNFIT for record in rows)
        )

    def may_be_refused(self, appends: list[ShardAppend]) -> bool:
        """Whether the store may refuse it all: a backend may look at a row before it sees that its shard is fenced."""
        return self.is_bad(appends) or any(r.data == UNFIT for append in appends for r in append.records)

    def appended(self, writer: int, appends: list[ShardAppend], fenced: set[int]) -> None:
        lost = {append.shard for append in appends if self.epochs[append.shard] != append.epoch}
        assert fenced == lost
        assert not self.is_bad(appends), "rows were stored that break a key"
        for append in appends:
            if append.shard not in fenced:
                self.log += append.records
                self.heads[append.shard] = append.old_head + len(append.records)
                self.claims[writer][append.shard] = Claim(append.epoch, self.heads[append.shard])
                assert self.heads[append.shard] - self.since[append.shard] == sum(
                    record.shard == append.shard for record in self.log
                )


@pytest.mark.timeout(TIMEOUT_S)
def test_the_log_is_what_unfenced_writers_wrote_in_any_schedule(store_url: str) -> None:
    search(partial(StoreMachine, store_url))
