"""The append protocol under random schedules: several hosts on one store, held, failed, crashed, fenced and resumed.

A Hypothesis state machine makes the schedule, `protocol_world.py` carries it out, `protocol_model.py` says what is
wrong. PROTOCOL_EXAMPLES asks for a longer run, PROTOCOL_SEED repeats one.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import partial
from itertools import chain
from typing import NamedTuple

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from structlog.testing import capture_logs

from actors import new_streams
from actors.customers import Customer, Order
from actors.errors import CommandIdReused, DomainError
from actors.snapshots import SnapshotCounts
from actors.wire import Call, CommandMessage, Receipt, pack_call
from store import ConcurrencyError, StoreRejected
from store.identity import shard_of
from tests.contract.protocol_model import Sending
from tests.contract.protocol_world import Host, World
from tests.contract.rows import SHARDS
from tests.contract.schedules import TIMEOUT_S, search
from tests.contract.shop_rules import Wish
from tests.contract.watched_store import FAULTS, GUILTY, STEPS

USED = [0, 1, 2]
"""The shards that customers of a schedule live in."""
HOMES = [0, 0, 1, 2]
"""The shard of each of its customers."""
SESSIONS = ["client-1", "client-2"]
NAMES = ["h-1", "h-2", "h-3"]
HAPPENINGS = {
    *("Receipt", "DomainError", "ConcurrencyError", "CommandIdReused", "StoreRejected", "StoreUnavailable", "NotOwner"),
    *("CommandTimeout", "duplicate", "unchanged", "shard fenced", "outcome unknown"),
    *("presumed new, and new", "presumed new, and there"),
    *(f"snapshot {name}" for name in SnapshotCounts._fields),
}
"""What a search must have met, to have shown anything."""
FINAL = (Receipt, DomainError, ConcurrencyError, CommandIdReused, StoreRejected)

hosts = st.integers(0, 3)
shards = st.lists(st.sampled_from(USED), min_size=1, unique=True)
names = st.sampled_from(NAMES)
runs = st.sampled_from([True, True, False])
kinds = st.sampled_from(
    ["CreateCustomer", "ChangeEmail", "ChangeEmail", "PromoteToVip", "DeactivateCustomer", "CreateOrder"]
)
words = st.sampled_from(["a@example.com", "b@example.com", "b@example.com", GUILTY])
caller_ids = st.one_of(st.none(), st.integers(0, 5))
versions = st.sampled_from([None, None, None, None, 0, 1, 2, 3])
rarely = st.integers(0, 9).map(lambda number: number == 9)
single_faults = [[(step, fault)] for step, known in FAULTS.items() for fault in known]
faults = st.sampled_from([*single_faults, [("append", "lost"), ("read", "disk full")]])


class Draft(NamedTuple):
    """A command to be."""

    customer: int
    kind: str
    word: str
    """What its payload is made of."""
    caller_id: int | None = None
    """A caller's id; None: the client draws one."""
    expected_version: int | None = None
    expired: bool = False
    """Its time is up when it arrives."""


drafts = st.builds(Draft, st.integers(0, len(HOMES) - 1), kinds, words, caller_ids, versions, rarely)


class ProtocolMachine(RuleBasedStateMachine):
    """Schedules. Each rule is one thing that can happen; `runs` says whether the world moves on at once."""

    def __init__(self, url: str, happened: Counter[str], schedule: int) -> None:
        super().__init__()
        self.happened = happened
        """Over all schedules."""
        self.world = World(url, SHARDS, happened)
        self.schedule = schedule
        self.customers = [customer_in(shard, f"{schedule}.{n}") for n, shard in enumerate(HOMES)]
        self.numbers = dict.fromkeys(SESSIONS, 0)
        """The number of each client's last call."""
        self.made: list[Sending] = []
        self.drawn = 0
        self.calls: list[tuple[Host, str, int, bytes, list[Sending]]] = []
        """All calls that were made, delivered or not."""
        self.delayed: list[int] = []

    @initialize()
    def begin(self) -> None:
        self.world.begin()
        first, second = (self.world.run(self.world.add_host(name)) for name in NAMES[:2])
        self.move([0, 1], 0)
        self.move([2], 1)
        for host, customers in ((first, [0, 2]), (second, [3])):
            created = [Draft(customer, "CreateCustomer", "a@example.com") for customer in customers]
            self.send(host, [self.sending(host, draft, SESSIONS[0]) for draft in created])
        self.go_on(True)

    # --- the coordinator and the hosts ---

    @precondition(lambda self: len(self.alive) < 4)
    @rule(name=names)
    def a_host_starts(self, name: str) -> None:
        self.world.run(self.world.add_host(name))

    @rule(moved=shards, name=st.one_of(st.none(), names))
    def the_coordinator_assigns(self, moved: list[int], name: str | None) -> None:
        self.world.run(self.world.assign(dict.fromkeys(moved, name)))

    @rule(host=hosts, claimed=shards, runs=runs)
    def a_host_claims(self, host: int, claimed: list[int], runs: bool) -> None:
        self.world.spawn(self.host(host).claim(claimed))
        self.go_on(runs)

    @rule(moved=shards, host=hosts, commands=st.lists(drafts, max_size=3))
    def move(self, moved: list[int], host: int, commands: Sequence[Draft] = ()) -> None:
        """Assign and claim; the new owner is at work at once."""
        target = self.host(host)
        self.world.run(self.world.assign(dict.fromkeys(moved, target.name)))
        self.a_host_claims(host, moved, True)
        self.send(target, [self.sending(target, draft, SESSIONS[0]) for draft in commands])
        self.go_on(True)

    @rule(host=hosts, released=shards, runs=runs)
    def a_host_releases(self, host: int, released: list[int], runs: bool) -> None:
        self.world.spawn(self.host(host).core.release(released))
        self.go_on(runs)

    @rule(host=hosts, step=st.sampled_from(STEPS))
    def a_host_is_held(self, host: int, step: str) -> None:
        self.host(host).store.held.add(step)

    @precondition(lambda self: any(host.store.held for host in self.alive))
    @rule(host=hosts)
    def a_host_goes_on(self, host: int) -> None:
        held = [host for host in self.alive if host.store.held]
        held[host % len(held)].store.let_go(STEPS)
        self.go_on(True)

    @rule(host=hosts, coming=st.lists(faults, min_size=1, max_size=3))
    def something_fails(self, host: int, coming: list[list[tuple[str, str]]]) -> None:
        self.host(host).store.fail(chain.from_iterable(coming))

    @rule(host=hosts)
    def a_lost_transaction_ends(self, host: int) -> None:
        self.world.run(self.host(host).store.end_doubts(USED))

    @precondition(lambda self: len(self.alive) > 1)
    @rule(host=hosts)
    def a_host_crashes(self, host: int) -> None:
        self.world.run(self.host(host).store.crash())

    # --- the clients ---

    @rule(
        host=hosts,
        owner=st.booleans(),
        session=st.sampled_from(SESSIONS),
        age=st.sampled_from([0, 0, 0, 1]),
        calls=st.lists(st.lists(drafts, min_size=1, max_size=4), min_size=1, max_size=4),
        coming=st.lists(faults, max_size=2),
        step=st.one_of(st.none(), st.none(), st.sampled_from(STEPS)),
        runs=runs,
        late=rarely,
    )
    def a_client_submits(
        self,
        host: int,
        owner: bool,
        session: str,
        age: int,
        calls: list[list[Draft]],
        coming: list[list[tuple[str, str]]],
        step: str | None,
        runs: bool,
        late: bool,
    ) -> None:
        """The host that gets them is held at `step`, and `coming` goes wrong there."""
        target = self.owner(HOMES[calls[0][0].customer], host) if owner else self.host(host)
        target.store.fail(chain.from_iterable(coming))
        if step is not None:
            target.store.held.add(step)
        for commands in calls:
            self.send(target, [self.sending(target, draft, session, age) for draft in commands], late)
        self.go_on(runs)

    @rule(
        host=hosts,
        shard=st.sampled_from(USED),
        fault=st.sampled_from(FAULTS["append"]),
        step=st.sampled_from([step for step in STEPS if "claim" not in step]),
        calls=st.lists(st.lists(drafts, min_size=1, max_size=3), min_size=2, max_size=2),
    )
    def a_call_comes_while_an_earlier_ones_append_fails(
        self, host: int, shard: int, fault: str, step: str, calls: list[list[Draft]]
    ) -> None:
        """All commands go to customers of one shard."""
        target = self.owner(shard, host)
        target.store.fail([("append", fault)])
        target.store.held.add(step)
        for commands in calls:
            meant = [draft._replace(customer=HOMES.index(shard)) for draft in commands]
            self.send(target, [self.sending(target, draft, SESSIONS[1]) for draft in meant])
            self.go_on(True)
        target.store.let_go([step])
        self.go_on(True)

    @rule(
        host=hosts,
        owner=st.booleans(),
        which=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
        lies=rarely,
        runs=runs,
    )
    def a_client_retries(self, host: int, owner: bool, which: list[int], lies: bool, runs: bool) -> None:
        """Send some of the client's last commands again, under their ids. One that lies calls it the first time."""
        session = self.made[-1].session
        known = [sending for sending in self.made if sending.session == session]
        old = [known[-min(number, len(known))] for number in which]
        target = self.owner(old[0].shard, host) if owner else self.host(host)
        self.send(target, [self.again(target, sending, lies) for sending in old])
        self.go_on(runs)

    @precondition(lambda self: self.delayed)
    @rule(runs=runs)
    def a_late_call_arrives(self, runs: bool) -> None:
        self.deliver(self.delayed.pop(0))
        self.go_on(runs)

    @precondition(lambda self: self.calls)
    @rule(call=st.integers(1, 6))
    def an_old_copy_arrives(self, call: int) -> None:
        self.deliver(len(self.calls) - min(call, len(self.calls)))
        self.go_on(True)

    # --- the end ---

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.finish()
        finally:
            self.world.end()

    def finish(self) -> None:
        """A last owner takes all; zombies go on and fail; every command gets an answer; the log holds what was said."""
        last = self.world.run(self.world.add_host("h-last"))
        self.world.run(self.world.assign(dict.fromkeys(USED, last.name)))
        self.world.spawn(last.claim(USED))
        self.go_on(True)
        assert last.epochs.keys() == set(USED), "a claim waits for its predecessor"
        for host in self.alive:
            host.store.faults = {step: [] for step in FAULTS}
            host.store.let_go(STEPS)
        self.go_on(True)
        asked = {(sending.key, sending.wish): sending for sending in self.made}
        retries = [replace(self.again(last, sending, False), expired=False) for sending in asked.values()]
        for session in SESSIONS:
            self.send(last, [sending for sending in retries if sending.session == session])
        self.go_on(True)
        living = {host.number for host in self.alive}
        silent = [s for s in self.world.model.sendings if s.answer is None and s.host in living]
        assert not silent, f"a living host owes answers: {silent}"
        unanswered = [sending for sending in retries if not isinstance(sending.answer, FINAL)]
        assert not unanswered, f"no answer, or none that is final: {[(s, s.answer) for s in unanswered]}"
        self.world.model.check_log(*self.world.run(self.world.log()))
        self.world.model.check_snapshots(self.world.run(self.world.snapshots()))
        self.tally()

    def tally(self) -> None:
        answers = [sending.answer for sending in self.world.model.sendings if sending.answer is not None]
        self.happened.update(type(answer).__name__ for answer in answers)
        receipts = [answer for answer in answers if isinstance(answer, Receipt)]
        self.happened["duplicate"] += sum(receipt.duplicate for receipt in receipts)
        self.happened["unchanged"] += sum(not s.promised and isinstance(s.answer, Receipt) for s in self.made)
        for host in self.world.hosts:
            host.core._take_health()
            health = host.core.health()
            self.happened["shard fenced"] += health.fenced
            self.happened["outcome unknown"] += health.unknown_outcomes
            for name, count in health.snapshots._asdict().items():
                self.happened[f"snapshot {name}"] += count

    # --- how ---

    @property
    def alive(self) -> list[Host]:
        return [host for host in self.world.hosts if not host.store.dead]

    def host(self, number: int) -> Host:
        return self.alive[number % len(self.alive)]

    def owner(self, shard: int, otherwise: int) -> Host:
        """The living host that claimed a shard last."""
        claimants = [host for host in self.alive if self.world.model.epochs[shard] in host.epochs.get(shard, [])]
        return claimants[0] if claimants else self.host(otherwise)

    def go_on(self, runs: bool) -> None:
        if runs:
            self.world.settle_down()

    def sending(self, host: Host, draft: Draft, session: str, age: int = 0) -> Sending:
        number, kind, email, caller_id, expected_version, expired = draft
        wish = self.wish(kind, number, email)
        drawn = caller_id is None
        self.drawn += drawn
        command_id = f"drawn-{self.schedule}-{self.drawn}" if drawn else f"caller-{self.schedule}-{caller_id}"
        shard = shard_of(wish.key, SHARDS)
        epoch = epoch_of(host, shard, age)
        return Sending(host.number, session, wish, command_id, shard, epoch, expected_version, expired, drawn)

    def again(self, host: Host, old: Sending, lies: bool) -> Sending:
        epoch = epoch_of(host, old.shard, 0)
        return replace(old, host=host.number, epoch=epoch, first_send=lies, lies=lies, answer=None, promised=False)

    def wish(self, kind: str, number: int, word: str) -> Wish:
        """The first customer also tries to get the second one's order."""
        customer = self.customers[number]
        letter = word[0]
        order = f"{self.customers[1] if letter == 'g' else customer}-{letter}"
        fields = {
            "CreateCustomer": {"name": letter, "email": word},
            "ChangeEmail": {"email": word},
            "PromoteToVip": {"reason": letter},
            "DeactivateCustomer": {"reason": letter},
            "CreateOrder": {"order_id": order, "total_amount": str(Decimal(ord(letter)))},
        }[kind]
        return Wish(kind, tuple({"customer_id": customer, **fields}.items()))

    def send(self, host: Host, sendings: list[Sending], late: bool = False) -> None:
        if not sendings:
            return
        session = sendings[0].session
        self.made += sendings
        self.numbers[session] += 1
        call = Call(
            session, self.numbers[session], {s.shard: s.epoch for s in sendings}, [message_of(s) for s in sendings]
        )
        self.calls.append((host, session, call.number, pack_call(call), sendings))
        if late:
            self.delayed.append(len(self.calls) - 1)
        else:
            self.deliver(len(self.calls) - 1)

    def deliver(self, number: int) -> None:
        host, session, call_number, call, sendings = self.calls[number]
        if not host.store.dead:
            self.world.spawn(host.execute(session, call_number, call, sendings))


def customer_in(shard: int, name: str) -> str:
    return next(f"c-{name}-{n}" for n in range(1000) if shard_of(f"c-{name}-{n}", SHARDS) == shard)


def epoch_of(host: Host, shard: int, age: int) -> int:
    """An epoch at which the host claimed the shard, the last one or one before it; 0 if it never did."""
    known = host.epochs.get(shard, [0])
    return known[max(0, len(known) - 1 - age)]


def message_of(sending: Sending) -> CommandMessage:
    data = "{" + ",".join(f'"{name}":"{value}"' for name, value in sending.wish.fields) + "}"
    return CommandMessage(
        shard=sending.shard,
        command_type=sending.wish.kind,
        command_id=sending.command_id,
        first_send=sending.first_send,
        data=data,
        expected_version=sending.expected_version,
        occurred_at=None,
        patience_ms=0 if sending.expired else 600_000,
        metadata="",
    )


@pytest.mark.timeout(TIMEOUT_S)
def test_every_answer_is_true_and_every_event_right_in_any_schedule(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    happened: Counter[str] = Counter()
    wanted = HAPPENINGS if store_url.startswith("memory:") else set()  # the others take longer for a schedule
    monkeypatch.setattr(Customer, "snapshot_every", 2)
    monkeypatch.setattr(Order, "snapshot_every", 1)
    monkeypatch.setattr(new_streams, "PENALTY", 1)
    with capture_logs():
        search(partial(ProtocolMachine, store_url, happened), lambda: wanted - (+happened).keys())
