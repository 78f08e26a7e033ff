"""A host on the memory store: exactly-once commands, and no answer before its facts are stored."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from typing import ClassVar

import pytest

from actors import Aggregate, Command, loading
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, DeactivateCustomer, PromoteToVip
from actors.errors import (
    CommandIdReused,
    CommandTimeout,
    DecideFailed,
    DomainError,
    InvalidCommand,
    NotOwner,
    StaleCall,
)
from actors.registry import AggregateRegistry
from actors.wire import Receipt
from store import ConcurrencyError, Event, EventRecord, OutcomeUnknown, StoreRejected, StoreUnavailable, open_store
from store.forwarding import Keys
from store.identity import shard_of
from store.records import ShardAppend
from tests.hosts import HostUnderTest, held, host_on, lost_reply, once, until_held

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
PROMOTE = PromoteToVip(customer_id="c-1", reason="loyal")


def order(number: int, customer: str = "c-1", amount: str = "10.00") -> CreateOrder:
    return CreateOrder(order_id=f"o-{number}", customer_id=customer, total_amount=Decimal(amount))


@pytest.fixture
async def host() -> AsyncIterator[HostUnderTest]:
    store = await open_store("memory://", shards=4)
    async with host_on(store) as running:
        yield running
    await store.close()


async def test_a_command_becomes_events_and_a_true_receipt(host: HostUnderTest) -> None:
    receipt = await host.submit(ADA, "k-1")
    assert isinstance(receipt, Receipt)
    (record,) = await host.log()
    assert (record.stream, record.version, record.command_key) == ("customer-c-1", 1, "k-1")
    assert receipt == Receipt("k-1", "customer-c-1", 1, record.shard, record.position, host.store.store_id, False)
    assert host.published == [record]
    assert json.loads(record.metadata)["command_id"] == "k-1"


async def test_a_command_reads_what_shares_its_partition_key(host: HostUnderTest) -> None:
    answers = await host.execute(
        host.message(order(1), "k-1"),
        host.message(ADA, "k-2"),
        host.message(order(1), "k-3"),
        host.message(DeactivateCustomer(customer_id="c-1"), "k-4"),
        host.message(order(2), "k-5"),
    )
    assert [type(answer) for answer in answers] == [DomainError, Receipt, Receipt, Receipt, DomainError]
    assert [record.type for record in await host.log()] == ["CustomerCreated", "OrderCreated", "CustomerDeactivated"]


async def test_the_same_id_gets_its_first_receipt_for_ever(host: HostUnderTest) -> None:
    first = await host.submit(ADA, "k-1")
    assert isinstance(first, Receipt)
    await host.submit(PROMOTE, "k-2")
    again = await host.submit(ADA, "k-1")
    assert again == first._replace(duplicate=True)
    assert len(await host.log()) == 2


async def test_health_counts_duplicates_and_lost_replies(host: HostUnderTest) -> None:
    host.store.after = once(lost_reply())
    for _ in range(3):
        await host.submit(ADA, "k-1")
    async with asyncio.timeout(5):
        while host.core.health().duplicates < 2:
            await asyncio.sleep(0.01)
    assert (host.core.health().duplicates, host.core.health().unknown_outcomes) == (2, 1)


async def test_whoever_measures_hears_of_each_call_and_of_where_its_time_went(host: HostUnderTest) -> None:
    held(host)
    execution = asyncio.create_task(host.execute(host.message(ADA, "k-1"), host.message(PROMOTE, "k-2")))
    await until_held(host)
    assert host.answered == []
    opened_s = time.monotonic()
    host.store.open_gate.set()
    answers = await execution
    ((request, call),) = host.answered
    assert [message.command_id for message in request.commands] == ["k-1", "k-2"]
    assert call.answers == answers
    assert call.turn is not None
    assert call.arrived_s <= call.turn.began_s <= call.turn.ended_s <= opened_s <= call.answered_s <= time.monotonic()


async def test_the_same_id_with_another_payload_is_refused(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1")
    other = await host.submit(CreateCustomer(customer_id="c-1", name="Eve", email="eve@example.com"), "k-1")
    assert isinstance(other, CommandIdReused)
    assert len(await host.log()) == 1


async def test_a_copy_that_arrives_while_the_first_is_pending_awaits_it(host: HostUnderTest) -> None:
    held(host)
    first = asyncio.create_task(host.submit(ADA, "k-1", first_send=True))
    await until_held(host)
    copy = asyncio.create_task(host.submit(ADA, "k-1"))
    other = asyncio.create_task(host.submit(ADA.model_copy(update={"name": "Eve"}), "k-1"))
    done, _ = await asyncio.wait([first, copy, other], timeout=0.05)
    assert not done, "something was answered before its facts were stored"
    host.store.open_gate.set()
    receipt = await first
    assert isinstance(receipt, Receipt)
    assert await copy == receipt._replace(duplicate=True)
    assert isinstance(await other, CommandIdReused)
    assert len(await host.log()) == 1


async def test_a_copy_of_a_refused_command_is_decided_anew(host: HostUnderTest) -> None:
    held(host)
    refused = asyncio.create_task(host.submit(PROMOTE, "k-1"))
    await until_held(host)
    created = asyncio.create_task(host.submit(ADA, "k-2"))
    copy = asyncio.create_task(host.submit(PROMOTE, "k-1"))
    host.store.open_gate.set()
    assert isinstance(await refused, DomainError)
    assert isinstance(await created, Receipt)
    answer = await copy
    assert isinstance(answer, Receipt)
    assert not answer.duplicate


async def test_a_copy_in_one_call_counts_once(host: HostUnderTest) -> None:
    first, copy = await host.execute(host.message(ADA, "k-1", first_send=True), host.message(ADA, "k-1"))
    assert isinstance(first, Receipt)
    assert copy == first._replace(duplicate=True)


async def test_a_refusal_waits_for_the_state_it_was_decided_on(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1")
    held(host)
    promoted = asyncio.create_task(host.submit(PROMOTE, "k-2"))
    await until_held(host)
    refused = asyncio.create_task(host.submit(PROMOTE, "k-3"))
    done, _ = await asyncio.wait([refused], timeout=0.05)
    assert not done
    host.store.open_gate.set()
    assert isinstance(await promoted, Receipt)
    assert isinstance(await refused, DomainError)


async def test_a_refusal_decided_on_state_that_failed_to_commit_is_decided_again(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1")
    held(host)
    expiring = asyncio.create_task(host.submit(PROMOTE, "k-2", patience_ms=80))
    await until_held(host)
    second = asyncio.create_task(host.submit(PROMOTE, "k-3"))
    await asyncio.wait([expiring, second], timeout=0.1)
    host.store.before = once(StoreUnavailable("locked", True))
    host.store.open_gate.set()
    assert isinstance(await expiring, CommandTimeout)
    assert isinstance(await second, Receipt), "it was refused because of a promotion that never was"
    assert [record.type for record in await host.log()] == ["CustomerCreated", "CustomerPromoted"]


async def test_a_commit_whose_reply_is_lost_is_found_and_answered(host: HostUnderTest) -> None:
    host.store.after = once(lost_reply())
    receipt = await host.submit(ADA, "k-1", first_send=True)
    assert isinstance(receipt, Receipt)
    assert receipt.version == 1
    assert not receipt.duplicate, "its own events, stored by the append whose reply was lost"
    assert len(await host.log()) == 1


async def test_a_commit_that_never_was_is_made_again(host: HostUnderTest) -> None:
    host.store.before = once(lost_reply())
    receipt = await host.submit(ADA, "k-1", first_send=True)
    assert isinstance(receipt, Receipt)
    assert len(await host.log()) == 1


async def test_a_command_whose_fate_cant_be_looked_up_is_not_called_unwritten(host: HostUnderTest) -> None:
    host.store.after = once(lost_reply())
    full = once(StoreUnavailable("disk full", False))
    find_commands = host.store.find_commands

    async def find(keys: Keys) -> dict[tuple[int, str, str], EventRecord]:
        if (error := full([])) is not None:
            raise error
        return await find_commands(keys)

    host.store.find_commands = find  # type: ignore[method-assign]
    assert isinstance(await host.submit(ADA, "k-1", first_send=True), CommandTimeout)
    assert len(await host.log()) == 1
    again = await host.submit(ADA, "k-1")
    assert isinstance(again, Receipt)
    assert again.duplicate


@pytest.mark.parametrize("fate", ["before", "after"])
async def test_after_a_lost_outcome_all_is_decided_again_before_newer_mail(host: HostUnderTest, fate: str) -> None:
    await host.submit(ADA, "k-1")
    held(host)
    lost = asyncio.create_task(host.submit(PROMOTE, "k-2"))
    await until_held(host)
    assert len(host.published) == 1, "what is not stored yet was published"
    refused = asyncio.create_task(host.submit(PROMOTE, "k-3"))
    newer = asyncio.create_task(host.submit(ChangeEmail(customer_id="c-1", email="new@example.com"), "k-4"))
    setattr(host.store, fate, once(lost_reply()))
    host.store.open_gate.set()
    receipt = await lost
    assert isinstance(receipt, Receipt)
    assert receipt.version == 2
    assert isinstance(await refused, DomainError)
    assert isinstance(await newer, Receipt)
    assert [record.command_key for record in await host.log()] == ["k-1", "k-2", "k-4"]


async def test_a_fenced_host_answers_nothing_from_its_memory(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1")
    shard = shard_of("c-1", 4)
    await host.store.inner.assign(await host.store.inner.take("test of host-1"), {shard: "host-2"})
    await host.store.inner.claim("host-2", [shard])
    refused = await host.submit(ADA, "k-2")
    assert isinstance(refused, NotOwner), "it refused from the memory of a shard that it lost"
    assert isinstance(await host.submit(PROMOTE, "k-3"), NotOwner)
    assert len(await host.log()) == 1


async def test_other_shards_of_a_fenced_group_are_stored(host: HostUnderTest) -> None:
    mine, lost = "c-1", next(f"d-{n}" for n in range(50) if shard_of(f"d-{n}", 4) != shard_of("c-1", 4))
    shard = shard_of(lost, 4)
    await host.store.inner.assign(await host.store.inner.take("test of host-1"), {shard: "host-2"})
    await host.store.inner.claim("host-2", [shard])
    answers = await host.execute(
        host.message(CreateCustomer(customer_id=mine, name="A", email="a@example.com"), "k-1"),
        host.message(CreateCustomer(customer_id=lost, name="B", email="b@example.com"), "k-2"),
    )
    assert [type(answer) for answer in answers] == [Receipt, NotOwner]
    assert [record.stream for record in await host.log()] == [f"customer-{mine}"]


async def test_one_guilty_command_alone_is_rejected(host: HostUnderTest) -> None:
    def refuse_eve(appends: Sequence[ShardAppend]) -> Exception | None:
        guilty = any("Eve" in record.data for append in appends for record in append.records)
        return StoreRejected("this row won't do") if guilty else None

    host.store.before = refuse_eve
    names = ["Ada", "Bob", "Eve", "Joe", "Kim", "Lea"]
    answers = await host.execute(
        *(
            host.message(CreateCustomer(customer_id=f"c-{n}", name=name, email="x@example.com"), f"k-{n}")
            for n, name in enumerate(names)
        )
    )
    assert [type(answer) for answer in answers] == [StoreRejected if name == "Eve" else Receipt for name in names]
    assert sorted(record.stream for record in await host.log()) == [f"customer-c-{n}" for n in (0, 1, 3, 4, 5)]
    host.store.appends.clear()
    await host.execute(host.message(order(1, "c-0"), "k-7"), host.message(order(2, "c-0"), "k-8"))
    assert len(host.store.appends) == 1, "the shard is still careful after its suspects are answered"


async def test_an_id_that_skipped_its_look_up_is_caught_by_the_key(host: HostUnderTest) -> None:
    first = await host.submit(ADA, "k-1")
    assert isinstance(first, Receipt)
    changed = ChangeEmail(customer_id="c-1", email="new@example.com")
    receipt = await host.submit(changed, "k-3")
    assert isinstance(receipt, Receipt)
    copy = await host.submit(changed.model_copy(update={"email": "other@example.com"}), "k-3", first_send=True)
    assert isinstance(copy, CommandIdReused)
    assert len(await host.log()) == 2


async def test_a_full_disk_is_told_and_nothing_is_stored(host: HostUnderTest) -> None:
    host.store.before = once(StoreUnavailable("disk full", False))
    answer = await host.submit(ADA, "k-1")
    assert isinstance(answer, StoreUnavailable)
    assert await host.log() == []
    assert isinstance(await host.submit(ADA, "k-1"), Receipt)


async def test_an_old_call_is_refused(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1")
    with pytest.raises(StaleCall):
        await host.execute(host.message(PROMOTE, "k-2"), number=1)
    assert len(await host.log()) == 1


async def test_another_epoch_is_refused(host: HostUnderTest) -> None:
    host.epochs = {shard: epoch + 1 for shard, epoch in host.epochs.items()}
    assert isinstance(await host.submit(ADA, "k-1"), NotOwner)
    assert await host.log() == []


async def test_a_command_for_another_shard_than_its_key_says_is_refused(host: HostUnderTest) -> None:
    wrong = (shard_of("c-1", 4) + 1) % 4
    assert isinstance(await host.submit(ADA, "k-1", shard=wrong), InvalidCommand)
    assert await host.log() == []


async def test_an_expired_command_is_not_decided(host: HostUnderTest) -> None:
    assert isinstance(await host.submit(ADA, "k-1", patience_ms=0), CommandTimeout)
    assert await host.log() == []


async def test_the_expected_version_is_checked(host: HostUnderTest) -> None:
    assert isinstance(await host.submit(ADA, "k-1", expected_version=0), Receipt)
    error = await host.submit(PROMOTE, "k-2", expected_version=7)
    assert isinstance(error, ConcurrencyError)
    assert (error.expected_version, error.actual_version) == (7, 1)


async def test_a_stream_keeps_its_partition_key(host: HostUnderTest) -> None:
    for customer in ("c-1", "c-2"):
        await host.submit(CreateCustomer(customer_id=customer, name="A", email="a@example.com"), f"k-{customer}")
    assert isinstance(await host.submit(order(1, "c-1"), "k-3"), Receipt)
    answer = await host.submit(order(1, "c-2"), "k-4")
    assert isinstance(answer, DomainError)
    assert len(await host.log()) == 3


async def test_two_shards_creating_one_stream_at_once_store_it_once(host: HostUnderTest) -> None:
    other = next(f"c-{n}" for n in range(2, 50) if shard_of(f"c-{n}", 4) != shard_of("c-1", 4))
    for customer in ("c-1", other):
        await host.submit(CreateCustomer(customer_id=customer, name="A", email="a@example.com"), f"k-{customer}")
    answers = await host.execute(host.message(order(1, "c-1"), "k-3"), host.message(order(1, other), "k-4"))
    assert sorted(type(answer).__name__ for answer in answers) == ["DomainError", "Receipt"]


async def test_two_shards_that_load_one_stream_together_share_no_memory_of_it(host: HostUnderTest) -> None:
    other = next(f"c-{n}" for n in range(2, 50) if shard_of(f"c-{n}", 4) != shard_of("c-1", 4))
    for customer in ("c-1", other):
        await host.submit(CreateCustomer(customer_id=customer, name="A", email="a@example.com"), f"k-{customer}")

    def refuse_orders(appends: Sequence[ShardAppend]) -> Exception | None:
        ordered = any(record.type == "OrderCreated" for append in appends for record in append.records)
        return StoreRejected("this row won't do") if ordered else None

    host.store.before = refuse_orders
    answers = await host.execute(host.message(order(1, "c-1"), "k-3"), host.message(order(1, other), "k-4"))
    assert [type(answer) for answer in answers] == [StoreRejected] * 2, "refused for an order that never was"


async def test_all_that_a_batch_lacks_is_read_in_one_query(host: HostUnderTest) -> None:
    await host.execute(
        *(
            host.message(CreateCustomer(customer_id=f"c-{n}", name="A", email="a@example.com"), f"k-{n}")
            for n in range(20)
        )
    )
    assert len(host.store.stream_reads) == 1
    assert len(host.store.lookups) == 1


async def test_streams_are_read_shard_by_shard(host: HostUnderTest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "GROWTH", 1)
    ids = [f"c-{n}" for n in range(5 * loading.FIRST_STREAMS)]
    commands = (CreateCustomer(customer_id=each, name="A", email="a@example.com") for each in ids)
    await host.execute(*(host.message(command, command.customer_id, first_send=True) for command in commands))
    read = [shard_of(stream.removeprefix("customer-"), host.store.shards) for stream in host.store.streams_in_order]
    assert len(host.store.stream_reads) == 5
    assert len(read) == len(ids)
    assert read == sorted(read)


async def test_the_first_queries_ask_for_more_streams_once_those_loaded_were_short(
    host: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def promote(prefix: str, count: int) -> list[int]:
        """Promote customers that are not there; return how many streams each query asked for."""
        host.store.stream_reads.clear()
        commands = (PromoteToVip(customer_id=f"{prefix}{n}", reason="loyal") for n in range(count))
        await host.execute(*(host.message(command, command.customer_id, first_send=True) for command in commands))
        return sorted(map(len, host.store.stream_reads), reverse=True)

    monkeypatch.setattr(loading, "GROWTH", 1)
    assert await promote("a", 40) == [loading.FIRST_STREAMS, 8]
    monkeypatch.setattr(loading, "RECORDS_WANTED", 0)  # as if those that come had been long
    assert await promote("b", 300) == [loading.FIRST_STREAMS_MAX, 44]
    assert await promote("c", 40) == [loading.FIRST_STREAMS, 8]


def warm_and_cold(host: HostUnderTest) -> tuple[str, str]:
    """Two customers of different shards."""
    shards = host.store.shards
    return "c-1", next(f"c-{n}" for n in range(2, 99) if shard_of(f"c-{n}", shards) != shard_of("c-1", shards))


async def test_what_is_decided_before_and_after_a_reading_is_stored_in_one_commit(host: HostUnderTest) -> None:
    warm, cold = warm_and_cold(host)
    await host.submit(ADA, "k-1")
    before = len(host.store.appends)
    answers = await host.execute(
        host.message(ChangeEmail(customer_id=warm, email="new@example.com"), "k-2", first_send=True),
        host.message(CreateCustomer(customer_id=cold, name="Bob", email="bob@example.com"), "k-3", first_send=True),
    )
    assert [type(answer) for answer in answers] == [Receipt, Receipt]
    assert [len(append.records) for appends in host.store.appends[before:] for append in appends] == [1, 1]
    assert len(host.store.appends) == before + 1


async def test_what_needed_no_reading_is_stored_where_the_reading_fails(
    host: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise StoreUnavailable("the disk is gone", False)

    warm, cold = warm_and_cold(host)
    await host.submit(ADA, "k-1")
    monkeypatch.setattr(host.store, "read_histories", broken)
    async with asyncio.timeout(5):
        stored, refused = await host.execute(
            host.message(ChangeEmail(customer_id=warm, email="new@example.com"), "k-2", first_send=True),
            host.message(CreateCustomer(customer_id=cold, name="Bob", email="bob@example.com"), "k-3", first_send=True),
        )
    assert (type(stored), type(refused)) == (Receipt, StoreUnavailable)


async def test_a_first_send_is_not_looked_up(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1", first_send=True)
    assert host.store.lookups == []


async def test_a_released_shard_finishes_what_it_has(host: HostUnderTest) -> None:
    held(host)
    waiting = asyncio.create_task(host.submit(ADA, "k-1"))
    await until_held(host)
    release = asyncio.create_task(host.core.release(range(4)))
    await asyncio.sleep(0)
    assert isinstance(await host.submit(PROMOTE, "k-2"), NotOwner)
    assert not release.done()
    host.store.open_gate.set()
    assert isinstance(await waiting, Receipt)
    await release
    assert isinstance(await host.submit(PROMOTE, "k-3"), NotOwner)


async def test_a_broken_writer_fails_its_calls_instead_of_hanging(host: HostUnderTest) -> None:
    host.store.before = once(AssertionError("same epoch, another head"))
    with pytest.raises(RuntimeError, match="same epoch"):
        await host.submit(ADA, "k-1")
    with pytest.raises(RuntimeError, match="failed"):
        await host.submit(ADA, "k-1")


async def test_a_bug_where_shards_decide_fails_the_host_instead_of_hanging(
    host: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    held(host)
    waiting = asyncio.create_task(host.submit(ADA, "k-1"))
    await until_held(host)

    def broken(*_: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr("actors.shard.record_events", broken)
    bob = CreateCustomer(customer_id="c-2", name="Bob", email="bob@example.com")
    async with asyncio.timeout(5):
        for submitted in (asyncio.create_task(host.submit(bob, "k-2")), waiting):
            with pytest.raises(RuntimeError, match="failed: LookupError: a bug"):
                await submitted
    with pytest.raises(RuntimeError, match="failed"):
        await host.submit(PROMOTE, "k-3")
    with pytest.raises(RuntimeError, match="failed"):
        host.core.health()


class Untold(Exception):
    def __str__(self) -> str:
        raise LookupError("no text")

    __repr__ = __str__


class UntoldRefusal(DomainError):
    def __str__(self) -> str:
        raise LookupError("no text")


class Panic(BaseException):
    """As some extension modules raise."""


class OddReason:
    def __str__(self) -> str:
        raise LookupError("no text")


class Opened(Event):
    box_id: str


class OpenBox(Command):
    box_id: str
    trap: str = ""


class Box(Aggregate):
    TRAPS: ClassVar[dict[str, BaseException]] = {
        "untold": Untold(),
        "exit": SystemExit(3),
        "cancelled": asyncio.CancelledError(),
        "closed": GeneratorExit(),
        "panic": Panic("no Exception"),
        "untold refusal": UntoldRefusal("no"),
        "odd refusal": DomainError("no", OddReason()),
    }

    def open(self, command: OpenBox) -> None:
        self.raise_event(Opened(box_id=self.aggregate_id))
        if command.trap:
            raise self.TRAPS[command.trap]

    def on_opened(self, _event: Opened) -> None:
        """Its number is all that it keeps."""


@pytest.mark.parametrize("trap", Box.TRAPS)
async def test_whatever_a_command_raises_breaks_that_command_and_nothing_else(trap: str) -> None:
    store = await open_store("memory://", shards=4)
    async with host_on(store, registry=AggregateRegistry([Box])) as host, asyncio.timeout(5):
        commands = [OpenBox(box_id=f"b-{n // 2}", trap=trap if n == 5 else "") for n in range(12)]
        answers = await host.execute(*[host.message(command, f"k-{n}") for n, command in enumerate(commands)])
        assert [type(answer) for answer in answers] == [Receipt] * 5 + [DecideFailed] + [Receipt] * 6
        assert isinstance(await host.submit(OpenBox(box_id="b-2"), "k-5"), Receipt)
        assert len(await host.log()) == 12
        host.core.health()
    await store.close()


class Filled(Event):
    jar_id: str


class Fill(Command):
    jar_id: str
    times: int


class Jar(Aggregate):
    """Holds three; one that is to hold more refuses half-way."""

    fillings: int = 0

    def fill(self, command: Fill) -> None:
        for _ in range(command.times):
            if self.fillings == 3:
                raise DomainError("the jar is full")
            self.raise_event(Filled(jar_id=self.aggregate_id))

    def on_filled(self, _event: Filled) -> None:
        self.fillings += 1


async def test_a_decision_that_refused_half_way_leaves_no_trace() -> None:
    store = await open_store("memory://", shards=4)
    async with host_on(store, registry=AggregateRegistry([Jar])) as host:
        held(host)
        first = asyncio.create_task(host.submit(Fill(jar_id="j", times=1), "k-1"))
        await until_held(host)
        refused = asyncio.create_task(host.submit(Fill(jar_id="j", times=5), "k-2"))
        fits = asyncio.create_task(host.submit(Fill(jar_id="j", times=2), "k-3"))
        done, _ = await asyncio.wait([refused, fits], timeout=0.05)
        assert not done
        host.store.open_gate.set()
        assert isinstance(await first, Receipt)
        assert isinstance(await refused, DomainError)
        receipt = await fits
        assert isinstance(receipt, Receipt)
        assert receipt.version == 3
        again = await host.submit(Fill(jar_id="j", times=2), "k-3")
        assert again == receipt._replace(duplicate=True), "the receipt of several events is that of the last"
        assert not host.store.errors, "the jar was read before its first filling was stored"
    await store.close()


def test_outcome_unknown_is_not_a_refusal() -> None:
    assert not issubclass(OutcomeUnknown, StoreUnavailable | StoreRejected)
