"""Streams that a host presumes to be new: not read where they are, and never believed to be where they are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import ClassVar

import pytest

from actors import Aggregate, Command
from actors.customers import CreateCustomer, CreateOrder, DeactivateCustomer
from actors.errors import ApplyFailed, DecideFailed, DomainError, MakeFailed
from actors.limits import HostLimits
from actors.loading import FIRST_STREAMS
from actors.new_streams import PENALTY, RARE, NewStreams
from actors.registry import AggregateRegistry
from actors.wire import Receipt
from store import ConcurrencyError, Event, EventrayError, EventStore, StoreRejected, StoreUnavailable
from store.records import ShardAppend
from tests.hosts import HostUnderTest, held, host_on, lost_reply, once, until_held

LIMITS = HostLimits(presume_new_after=2)


@pytest.fixture
async def host(store: EventStore) -> AsyncIterator[HostUnderTest]:
    """A host that presumes customers and orders to be new, of a store that has c-1, its order o-1, and c-2."""
    async with host_on(store, "former") as former:
        for command in (create("c-1"), order("o-1", "c-1"), create("c-2")):
            assert isinstance(await former.submit(command, f"former-{command}"), Receipt)
    async with presuming(store) as running:
        yield running


@asynccontextmanager
async def presuming(store: EventStore) -> AsyncIterator[HostUnderTest]:
    async with host_on(store, "host-1", LIMITS) as running:
        for n in range(LIMITS.presume_new_after):
            for command in (create(f"taught-{n}"), order(f"taught-{n}", f"taught-{n}")):
                assert isinstance(await running.submit(command, f"{n}"), Receipt)
        running.store.stream_reads.clear()
        running.store.appends.clear()
        yield running


def create(customer_id: str) -> CreateCustomer:
    return CreateCustomer(customer_id=customer_id, name="Ada", email="ada@example.com")


def order(order_id: str, customer_id: str) -> CreateOrder:
    return CreateOrder(order_id=order_id, customer_id=customer_id, total_amount=Decimal(10))


async def versions(host: HostUnderTest, *streams: str) -> list[list[int]]:
    """The versions of these streams that are in the log."""
    log = await host.log()
    return [[record.version for record in log if record.stream == stream] for stream in streams]


async def test_a_stream_that_is_presumed_to_be_new_is_not_read(host: HostUnderTest) -> None:
    messages = [
        host.message(create("c-9"), "k-1", first_send=True),
        host.message(order("o-9", "c-9"), "k-2", first_send=True),
    ]
    answers = await host.execute(*messages)
    assert [(type(answer), answer.version) for answer in answers if isinstance(answer, Receipt)] == [(Receipt, 1)] * 2
    assert host.store.stream_reads == []
    assert await versions(host, "customer-c-9", "order-o-9") == [[1], [1]]


async def test_one_that_is_there_after_all_is_read_and_the_others_of_its_append_are_stored(host: HostUnderTest) -> None:
    created = [create(f"c-{n}") for n in range(10, 210)]  # so many that PostgreSQL takes them by COPY
    commands = [*created, order("o-10", "c-10"), create("c-1"), create("c-1")]
    answers = await host.execute(*(host.message(command, f"k-{n}") for n, command in enumerate(commands)))
    assert len(host.store.errors) == 1, "the presumption was refused, once"
    *stored, refused, again = answers
    assert str(refused) == str(again) == "Customer c-1 exists already."
    assert all(isinstance(answer, Receipt) and not answer.duplicate for answer in stored)
    assert await versions(host, "customer-c-1", "customer-c-10", "order-o-10") == [[1], [1], [1]]


async def test_after_a_refusal_streams_are_read_for_longer(host: HostUnderTest) -> None:
    await host.submit(create("c-1"), "k-1")
    assert host.store.stream_reads == [{"customer-c-1"}]
    for n in range(10, 30):
        await host.submit(create(f"c-{n}"), f"k-{n}")
    assert len(host.store.stream_reads) == 1 + PENALTY * LIMITS.presume_new_after
    assert len(host.store.errors) == 1
    await host.submit(create("c-2"), "k-2")
    assert len(host.store.errors) == 2, "and are presumed to be new again after that"


async def test_commands_that_begin_nothing_do_not_make_up_for_it(host: HostUnderTest) -> None:
    """One that is in vain in another shard, in the same turn, does not hide that a presumption was refused."""
    for turn in range(6):
        commands = [order(f"new-{turn}-{n}", "c-2") for n in range(30)] + [order("o-1", "c-1"), order("vain", "nobody")]
        answers = await host.execute(
            *(host.message(command, f"{turn}-{n}", first_send=True) for n, command in enumerate(commands))
        )
        assert [isinstance(answer, Receipt) for answer in answers] == [True] * 30 + [False] * 2
    assert 1 <= len(host.store.errors) <= 3, "of 2, 8, 32 begun in a row"


async def test_no_refusal_stands_on_a_stream_that_was_not_read(host: HostUnderTest) -> None:
    await host.submit(DeactivateCustomer(customer_id="c-1", reason="left"), "k-1")
    host.store.stream_reads.clear()
    known, unknown, moved = await host.execute(
        host.message(order("o-1", "c-1"), "k-2"),  # a new one would be refused since its customer has left
        host.message(order("o-8", "nobody"), "k-3"),
        host.message(order("o-1", "c-2"), "k-4"),
    )
    assert str(known) == "Order o-1 exists already."
    assert str(unknown) == "Customer nobody does not exist."
    assert "order-o-1 belongs to customer_id 'c-1'" in str(moved)
    assert {"order-o-1", "order-o-8"} <= set().union(*host.store.stream_reads)
    assert await versions(host, "order-o-1", "order-o-8") == [[1], []]


@pytest.mark.parametrize(
    ("command", "expected", "actual"), [(create("c-1"), 0, 1), (create("c-1"), 3, 1), (create("c-9"), 3, 0)]
)
async def test_the_version_that_was_expected_is_compared_with_the_streams_own(
    host: HostUnderTest, command: CreateCustomer, expected: int, actual: int
) -> None:
    answer = await host.submit(command, "k-1", expected_version=expected)
    assert isinstance(answer, ConcurrencyError)
    assert (answer.expected_version, answer.actual_version) == (expected, actual)
    assert isinstance(await host.submit(create("c-10"), "k-2", expected_version=0), Receipt)


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_lost_reply_to_what_was_presumed_is_settled(host: HostUnderTest, moment: str) -> None:
    setattr(host.store, moment, once(lost_reply()))
    messages = [host.message(create("c-9"), "k-1", first_send=True), host.message(order("o-9", "c-9"), "k-2")]
    assert [isinstance(answer, Receipt) for answer in await host.execute(*messages)] == [True, True]
    assert await versions(host, "customer-c-9", "order-o-9") == [[1], [1]]


async def test_a_row_that_cant_be_stored_is_found_among_presumed_ones(host: HostUnderTest) -> None:
    def guilty(appends: Sequence[ShardAppend]) -> EventrayError | None:
        streams = {record.stream for append in appends for record in append.records}
        return StoreRejected("a row that won't do") if "customer-c-12" in streams else None

    host.store.before = guilty
    messages = [host.message(create(f"c-{n}"), f"k-{n}") for n in range(10, 16)]
    answers = await host.execute(*messages, host.message(create("c-1"), "k-1"))
    expected: list[type] = [Receipt, Receipt, StoreRejected, Receipt, Receipt, Receipt, DomainError]
    assert [type(answer) for answer in answers] == expected
    assert await versions(host, "customer-c-11", "customer-c-12") == [[1], []]
    host.store.stream_reads.clear()
    for n in range(20, 30):
        await host.submit(create(f"c-{n}"), f"k-{n}")
    assert len(host.store.stream_reads) < PENALTY * LIMITS.presume_new_after, (
        "only the first refusal was about them all"
    )


async def test_what_was_refused_is_read_however_much_its_type_has_begun_meanwhile(
    host: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(NewStreams, "presumes", lambda _self, _command_type: True)
    answers = await host.execute(*(host.message(create(name), name, first_send=True) for name in ("c-1", "c-9", "c-2")))
    assert [type(answer) for answer in answers] == [DomainError, Receipt, DomainError]
    assert len(host.store.errors) == 1


async def test_where_nothing_comes_of_it_streams_are_read_many_at_once_again(host: HostUnderTest) -> None:
    messages = [host.message(order(f"o-{n}", "nobody"), f"k-{n}", first_send=True) for n in range(100, 150)]
    assert {str(answer) for answer in await host.execute(*messages)} == {"Customer nobody does not exist."}
    assert len(host.store.stream_reads) <= 1 + 50 // FIRST_STREAMS + 1
    assert host.store.errors == []


async def test_what_goes_back_to_be_read_stays_before_what_came_after_it(host: HostUnderTest) -> None:
    messages = [host.message(order("o-8", "nobody"), "k-1", first_send=True)]
    refused, created = await host.execute(*messages, host.message(create("nobody"), "k-2", first_send=True))
    assert str(refused) == "Customer nobody does not exist."
    assert isinstance(created, Receipt)


class Opened(Event):
    door_id: str
    by: str


class Open(Command):
    door_id: str
    by: str = "somebody"


class Slam(Command):
    door_id: str


class Knock(Command):
    door_id: str


class Jam(Command):
    door_id: str


class Door(Aggregate):
    """Can't be made as "unmade", can't be read where a ghost has opened it, and breaks when it is jammed."""

    knocks: ClassVar[list[str]] = []
    """At which door each knocking was decided."""

    def __init__(self, aggregate_id: str) -> None:
        super().__init__(aggregate_id)
        if aggregate_id == "unmade":
            raise SystemExit(4)

    def open(self, command: Open) -> None:
        self.raise_event(Opened(door_id=self.aggregate_id, by=command.by))

    def slam(self, command: Slam) -> None:
        self.raise_event(Opened(door_id=self.aggregate_id, by="the wind"))

    def knock(self, command: Knock) -> None:
        Door.knocks.append(self.aggregate_id)

    def jam(self, command: Jam) -> None:
        self.raise_event(Opened(door_id=self.aggregate_id, by="nobody"))
        raise OSError("jammed")

    def on_opened(self, event: Opened) -> None:
        if event.by == "a ghost":
            raise OSError("nobody was seen")


class LaxDoor(Door, category="door"):
    """Knows how to read all."""

    def on_opened(self, event: Opened) -> None:
        """Nothing that it has to know."""


DOORS = AggregateRegistry([Door])


@asynccontextmanager
async def doors(store: EventStore) -> AsyncIterator[HostUnderTest]:
    """A host that presumes doors that are opened to be new, of a store where d-0 and d-1 are not; d-1 can't be read."""
    async with host_on(store, "former", registry=AggregateRegistry([LaxDoor])) as former:
        assert isinstance(await former.submit(Open(door_id="d-0"), "first"), Receipt)
        assert isinstance(await former.submit(Open(door_id="d-1", by="a ghost"), "former"), Receipt)
    async with host_on(store, "host-1", LIMITS, DOORS) as running:
        for n in range(LIMITS.presume_new_after):
            assert isinstance(await running.submit(Open(door_id=f"taught-{n}"), f"{n}"), Receipt)
        yield running


async def test_a_stream_that_cannot_be_read_has_its_type_read_like_any_other_that_is_there(store: EventStore) -> None:
    async with doors(store) as host:
        for n in range(100):
            for door in (f"new-{n}", f"newer-{n}", f"newest-{n}"):
                assert isinstance(await host.submit(Open(door_id=door), f"{door}", first_send=True), Receipt)
            assert isinstance(await host.submit(Open(door_id="d-1"), f"k-{n}", first_send=True), ApplyFailed)
        assert len(host.store.errors) == 1, "after it never 8 were begun in a row"
        assert await versions(host, "door-d-1") == [[1]]


async def test_only_what_is_stored_was_begun(store: EventStore) -> None:
    """A store that is away for a while has the same commands decided time and again."""
    async with host_on(store, "host-1", LIMITS) as host:
        away = [StoreUnavailable("locked", True)] * 5
        host.store.before = lambda _appends: away.pop() if away else None
        assert isinstance(await host.submit(create("c-1"), "k-1"), Receipt)
        host.store.stream_reads.clear()
        assert isinstance(await host.submit(create("c-2"), "k-2"), Receipt)
        assert host.store.stream_reads == [{"customer-c-2"}]


async def test_commands_to_streams_that_have_events_teach_nothing(store: EventStore) -> None:
    async with doors(store) as host:
        for n in range(2 * LIMITS.presume_new_after):
            assert isinstance(await host.submit(Slam(door_id="taught-0"), f"k-{n}", first_send=True), Receipt)
        assert isinstance(await host.submit(Slam(door_id="d-0"), "k-9", first_send=True), Receipt)
        assert host.store.errors == []


async def test_nor_do_those_that_cause_no_event(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Door, "knocks", [])
    async with doors(store) as host:
        for n in range(2 * LIMITS.presume_new_after):
            await host.submit(Knock(door_id=f"far-{n}"), f"k-{n}", first_send=True)
        assert len(Door.knocks) == len(set(Door.knocks)), "some were decided twice"


async def test_an_aggregate_that_cannot_be_made_is_read_and_then_refused(store: EventStore) -> None:
    async with doors(store) as host:
        assert isinstance(await host.submit(Open(door_id="unmade"), "k-1"), MakeFailed)
        assert isinstance(await host.submit(Open(door_id="d-2"), "k-2"), Receipt)


async def test_one_that_was_forgotten_while_its_events_were_on_their_way_is_read_in_the_end(store: EventStore) -> None:
    async with doors(store) as host:
        held(host)
        opened = asyncio.create_task(host.submit(Open(door_id="d-2"), "k-1", first_send=True))
        await until_held(host)
        others = [host.message(kind(door_id="d-2"), f"k-{kind}", first_send=True) for kind in (Jam, Open)]
        waiting = asyncio.create_task(host.execute(*others))
        await asyncio.sleep(0)
        host.store.open_gate.set()
        assert isinstance(await opened, Receipt)
        assert [type(answer) for answer in await waiting] == [DecideFailed, Receipt]
        assert len(host.store.errors) == 1, "the stream was presumed to be new"
        assert await versions(host, "door-d-2") == [[1, 2]]


def test_types_are_learned_apart_and_each_refusal_makes_the_next_one_rarer_unless_it_is() -> None:
    new_streams = NewStreams(3)

    def needed() -> int:
        """Let streams be begun until the next one is presumed to be new; return how many."""
        count = 0
        while not new_streams.presumes("CreateOrder"):
            new_streams.began("CreateOrder")
            count += 1
        return count

    taken: list[int] = []
    for _ in range(3):
        taken.append(needed())
        new_streams.refused({"CreateOrder"})
    assert taken == [3, 3 * PENALTY, 3 * PENALTY**2]
    new_streams.began("CreateOrder")
    new_streams.began_none("CreateOrder")
    assert needed() == 3 * PENALTY**3
    assert not new_streams.presumes("CreateCustomer")
    for _ in range(RARE):
        new_streams.began("CreateOrder")
    new_streams.refused({"CreateOrder"})
    assert needed() == 3
