"""What fails a host, and what an application's code may raise without failing it.

One that has failed decides nothing more, and its successor counts everything once.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from pydantic import BaseModel, field_validator

from actors import Aggregate, Command, hosting, mail, recording, shard
from actors.errors import ApplyFailed, DomainError, InvalidCommand, MakeFailed
from actors.registry import AggregateRegistry
from actors.wire import Receipt
from cluster import Application
from cluster.testing import InProcessRuntime
from store import Event, EventStore, UndecodableEvent, open_store
from tests.hosts import HostUnderTest, held, host_on, until_held

DEADLINE_S = 10.0


class Deposited(Event):
    account_id: str
    amount: int

    @field_validator("amount")
    @classmethod
    def _check(cls, amount: int) -> int:
        if Account.exits_at == ("validator", amount):
            raise SystemExit(3)
        return amount


class Deposit(Command):
    account_id: str
    amount: int


class BadAmount(InvalidCommand):
    """Made of other fields than its base class."""

    def __init__(self, amount: int) -> None:
        super().__init__("amount", str(amount), "give another")


class BadOrder(InvalidCommand):
    """Order {0} is bad."""

    def __init__(self, order: str, _limit: int) -> None:
        Exception.__init__(self, order)


class Account(Aggregate):
    exits_at: tuple[str, int] | None = None
    """Where, and at which amount."""

    def __init__(self, aggregate_id: str) -> None:
        super().__init__(aggregate_id)
        self.balance: int = 0
        if aggregate_id == "unmade":
            raise SystemExit(4)

    def deposit(self, command: Deposit) -> None:
        if command.amount == 13:
            raise BadAmount(command.amount)
        if command.amount == 14:
            raise BadOrder("o-1", 3)
        self.raise_event(Deposited(account_id=self.aggregate_id, amount=command.amount))

    def on_deposited(self, event: Deposited) -> None:
        if Account.exits_at == ("method", event.amount):
            raise SystemExit(5)
        self.balance += event.amount


class Mood(BaseModel, frozen=True):
    text: str

    def __eq__(self, other: object) -> bool:
        raise SystemExit(6)

    def __hash__(self) -> int:
        return 1


class Cheered(Event):
    friend_id: str


class Cheer(Command):
    friend_id: str


class Friend(Aggregate, snapshot_every=1):
    """One that, from some moment on, can't be made again."""

    unmade: ClassVar[bool] = False
    cheers: int

    def __init__(self, aggregate_id: str) -> None:
        super().__init__(aggregate_id)
        self.cheers = 0
        if self.unmade:
            raise SystemExit(7)

    def cheer(self, _command: Cheer) -> None:
        self.raise_event(Cheered(friend_id=self.aggregate_id))

    def on_cheered(self, _event: Cheered) -> None:
        self.cheers += 1


class Wore(Event):
    face_id: str


class Wear(Command):
    face_id: str


class Face(Aggregate, snapshot_every=1):
    """One whose state can't be compared with what comes back from its snapshot."""

    moods: frozenset[Mood]

    def __init__(self, aggregate_id: str) -> None:
        super().__init__(aggregate_id)
        self.moods = frozenset()

    def wear(self, _command: Wear) -> None:
        self.raise_event(Wore(face_id=self.aggregate_id))

    def on_wore(self, _event: Wore) -> None:
        self.moods = frozenset([Mood(text="well")])


REGISTRY = AggregateRegistry([Account, Friend, Face])
APPLICATION = Application(aggregates=[Account])


@pytest.fixture
async def store() -> Any:
    opened = await open_store("memory://", shards=2)
    yield opened
    await opened.close()


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Laying out the rows of a deposit of 100 fails, once."""
    left = [1]
    real: Callable[..., None] = recording.record_events

    def broken_once(pending: Any, *arguments: Any) -> None:
        if pending.command.amount == 100 and left:
            left.pop()
            raise LookupError("a bug")
        real(pending, *arguments)

    monkeypatch.setattr(shard, "record_events", broken_once)
    return left


def deposit(amount: int, account_id: str = "a") -> Deposit:
    return Deposit(account_id=account_id, amount=amount)


async def amounts(host: HostUnderTest) -> list[int]:
    return [json.loads(record.data)["amount"] for record in await host.log()]


async def test_nothing_is_decided_on_what_a_bug_left_half_changed(store: EventStore, bug: list[int]) -> None:
    calls: list[asyncio.Task[Any]] = []
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        held(host)
        calls.append(asyncio.create_task(host.submit(deposit(1), "k-0", first_send=True)))
        await until_held(host)
        messages = [host.message(deposit(amount), f"k-{amount}", first_send=True) for amount in (100, 10)]
        calls.append(asyncio.create_task(host.execute(*messages)))
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert [str(failure) for failure in failures] == ["host host-1 failed: LookupError: a bug"] * 2
        assert not bug
        host.store.open_gate.set()
        for _ in range(100):  # turns of the event loop in which it might go on
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="failed"):
            await host.core.claim([0, 1])
        with pytest.raises(RuntimeError, match="failed"):
            host.core.health()
    async with asyncio.timeout(DEADLINE_S), host_on(store, "host-2", registry=REGISTRY) as successor:
        ids = {"k-0": 1, "k-100": 100, "k-10": 10}
        answers = [await successor.submit(deposit(amount), command_id) for command_id, amount in ids.items()]
        assert [type(answer) for answer in answers] == [Receipt] * 3
        assert sorted(await amounts(successor)) == [1, 10, 100]


async def test_a_bug_where_commands_are_taken_in_fails_the_host(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        real = mail.Pending

        def broken(*arguments: Any) -> Any:
            if arguments[4].amount == 2:
                raise LookupError("a bug")
            return real(*arguments)

        monkeypatch.setattr(hosting, "Pending", broken)
        with pytest.raises(RuntimeError, match="failed: LookupError: a bug"):
            await host.execute(*(host.message(deposit(amount), f"k-{amount}") for amount in (1, 2)))
        with pytest.raises(RuntimeError, match="failed"):
            host.core.health()


async def test_who_waits_is_told_also_where_the_log_cannot_be_written(
    store: EventStore, bug: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def error(self, *_: object, **__: object) -> None:
            raise OSError(28, "No space left on device")

    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        monkeypatch.setattr(hosting, "log", Full())
        with pytest.raises((RuntimeError, OSError)):
            await host.submit(deposit(100), "k-1")
        with pytest.raises(RuntimeError, match="failed"):
            await host.submit(deposit(1), "k-2")
        monkeypatch.undo()


async def test_a_stop_that_is_cut_off_tells_who_waits_and_the_next_one_ends(store: EventStore) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        held(host)
        waiting = asyncio.create_task(host.submit(deposit(1), "k-1"))
        await until_held(host)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await host.core.stop()
        with pytest.raises(RuntimeError, match="failed: CancelledError"):
            await waiting
        await host.core.stop()


async def test_a_failed_host_is_replaced_and_its_command_is_stored_once(bug: list[int]) -> None:
    async with asyncio.timeout(30), InProcessRuntime.open(app=APPLICATION) as runtime:
        receipts = [await runtime.submit(deposit(amount)) for amount in (1, 100, 10)]
        assert [receipt.version for receipt in receipts] == [1, 2, 3]
        assert (await runtime.load(Account, "a")).balance == 111
    assert not bug


@pytest.mark.parametrize(
    ("place", "error"), [("validator", UndecodableEvent), ("method", ApplyFailed)], ids=["validator", "event's method"]
)
async def test_sys_exit_while_history_is_read_is_the_answer_of_that_aggregates_commands(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, place: str, error: type[Exception]
) -> None:
    async with host_on(store, registry=REGISTRY) as host:
        await host.submit(deposit(7), "k-1")
        await host.submit(deposit(7, "b"), "k-2")
        await host.submit(deposit(8, "b"), "k-3")
    monkeypatch.setattr(Account, "exits_at", (place, 8))
    async with asyncio.timeout(DEADLINE_S), host_on(store, "host-2", registry=REGISTRY) as host:
        answers = await host.execute(host.message(deposit(1), "k-4"), host.message(deposit(1, "b"), "k-5"))
        assert [type(answer) for answer in answers] == [Receipt, error]
        host.core.health()


async def test_an_aggregate_that_cannot_be_made_is_the_answer_of_its_commands(store: EventStore) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        answers = await host.execute(host.message(deposit(1, "unmade"), "k-1"), host.message(deposit(1), "k-2"))
        assert [type(answer) for answer in answers] == [MakeFailed, Receipt]
        assert str(answers[0]) == "account-unmade can't be made, so nothing is decided for it: SystemExit: 4"
        host.core.health()


async def test_a_refusal_of_a_class_of_ones_own_costs_no_other_command_its_answer(store: EventStore) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        answers = await host.execute(*(host.message(deposit(amount), f"k-{amount}") for amount in (13, 14, 1)))
        assert [type(answer) for answer in answers] == [InvalidCommand, DomainError, Receipt]
        assert [str(answer) for answer in answers[:2]] == ["amount = 13: give another", "Order o-1 is bad."]


async def test_state_that_cannot_be_compared_has_no_snapshot_and_costs_nothing_else(store: EventStore) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        assert isinstance(await host.submit(Wear(face_id="f"), "k-1"), Receipt)
        assert isinstance(await host.submit(Wear(face_id="f"), "k-2"), Receipt)
        host.core.health()
    assert await store.read_snapshots(["face-f"]) == {}


async def test_an_aggregate_that_cannot_be_made_for_its_snapshot_is_the_answer_of_its_commands(
    store: EventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with asyncio.timeout(DEADLINE_S), host_on(store, registry=REGISTRY) as host:
        await host.submit(Cheer(friend_id="f"), "k-1")
    assert len(await store.read_snapshots(["friend-f"])) == 1
    monkeypatch.setattr(Friend, "unmade", True)
    async with asyncio.timeout(DEADLINE_S), host_on(store, "host-2", registry=REGISTRY) as host:
        answers = await host.execute(host.message(Cheer(friend_id="f"), "k-2"), host.message(deposit(1), "k-3"))
        assert [type(answer) for answer in answers] == [MakeFailed, Receipt]
        host.core.health()
