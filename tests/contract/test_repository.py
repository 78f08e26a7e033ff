"""Aggregates loaded and saved without a runtime, and time travel, on every backend."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from actors import loading
from actors import repository as actors_repository
from actors.customers import (
    ChangeEmail,
    CreateCustomer,
    CreateOrder,
    Customer,
    CustomerType,
    Order,
    PromoteToVip,
)
from actors.registry import AggregateRegistry
from actors.repository import Repository, load_aggregate
from actors.snapshots import Snapshots
from store import ConcurrencyError, EventStore, InvalidValue, ports, records
from store.identity import shard_of
from store.records import Histories
from tests.contract.rows import SHARDS
from tests.logs import RECORDED_AT, Log, created

REGISTRY = AggregateRegistry([Customer, Order])
CREATE = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")


def new_customer(customer_id: str = "c-1") -> Customer:
    customer = Customer(customer_id)
    customer.create(CREATE)
    return customer


async def test_what_is_saved_is_got_again(store: EventStore) -> None:
    async with Repository(store, REGISTRY) as repository:
        assert await repository.get(Customer, "c-1") is None
        customer = new_customer()
        await repository.save(customer)
        assert customer.uncommitted_events == ()
        customer.promote(PromoteToVip(customer_id="c-1", reason="loyal"))
        customer.change_email(ChangeEmail(customer_id="c-1", email="ada@example.org"))
        await repository.save(customer)
        await repository.save(customer)
        found = await repository.get(Customer, "c-1")
        assert found is not None
        assert (found.version, found.type, found.email) == (3, CustomerType.VIP, "ada@example.org")
        order = Order("o-1")
        order.place(CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00")), found)
        await repository.save(order)
    heads = await store.heads()
    assert heads == {**dict.fromkeys(range(SHARDS), 0), shard_of("c-1", SHARDS): 4}


async def test_many_are_read_shard_by_shard(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    read_histories = store.read_histories

    async def watched(fingerprints: dict[str, str | None], limit: int | None = None) -> Histories:
        read.extend(fingerprints)
        return await read_histories(fingerprints, limit)

    monkeypatch.setattr(store, "read_histories", watched)
    ids = [f"c-{number}" for number in range(60)]
    await Repository(store, REGISTRY).get_many(Customer, ids)
    shards = [shard_of(stream.removeprefix("customer-"), SHARDS) for stream in read]
    assert (len(shards), shards) == (60, sorted(shards))
    await Repository(store, REGISTRY).get_many(Order, ids)
    assert read[60:] == [f"order-{each}" for each in ids], "an order's shard is not known by its id"


async def test_many_are_got_as_one_by_one(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loading, "RECORDS_WANTED", 20)  # so that there are several queries
    async with Repository(store, REGISTRY) as repository:
        for number in range(60):
            customer = new_customer(f"c-{number}")
            for change in range(number % 3 * number):
                customer.change_email(ChangeEmail(customer_id=f"c-{number}", email=f"{change}@example.com"))
            await repository.save(customer)
        ids = [f"c-{number}" for number in reversed(range(60))]
        found = await repository.get_many(Customer, ["nobody", *ids])
        assert {each: vars(customer) for each, customer in found.items()} == {
            each: vars(await repository.load(Customer, each)) for each in ids
        }
        assert await repository.get_many(Customer, []) == {}


def many_changes(count: int) -> Customer:
    customer = new_customer()
    for number in range(count - 1):
        customer.change_email(ChangeEmail(customer_id="c-1", email=f"{number}@example.com"))
    return customer


@pytest.mark.parametrize("count", [2, 3, 4, 6, 7])
async def test_a_long_history_is_got_page_by_page(
    store: EventStore, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(actors_repository, "PAGE_SIZE", 3)
    async with Repository(store, REGISTRY) as repository:
        customer = many_changes(count)
        await repository.save(customer)
        found = await repository.get(Customer, "c-1")
    assert found is not None
    assert vars(found) == vars(customer)


@pytest.mark.parametrize("kind", ["sound", "of other code", "damaged"])
async def test_a_snapshot_changes_nothing_of_what_is_got(store: EventStore, kind: str) -> None:
    async with Repository(store, REGISTRY) as repository:
        customer = many_changes(7)
        await repository.save(customer)
        snapshot = Snapshots().take(await repository.load(Customer, "c-1", version=5), RECORDED_AT)
        assert snapshot is not None
        if kind == "of other code":
            snapshot = snapshot._replace(fingerprint="other")
        if kind == "damaged":
            snapshot = snapshot._replace(data=snapshot.data[:-1])
        await store.write_snapshots([snapshot])
        for found in (await repository.get(Customer, "c-1"), (await repository.get_many(Customer, ["c-1"]))["c-1"]):
            assert found is not None
            assert vars(found) == vars(customer)


async def test_of_two_copies_the_second_is_refused_with_both_versions(store: EventStore) -> None:
    async with Repository(store, REGISTRY) as repository:
        await repository.save(new_customer())
        first, second = await repository.get(Customer, "c-1"), await repository.get(Customer, "c-1")
        assert first is not None
        assert second is not None
        first.promote(PromoteToVip(customer_id="c-1", reason="loyal"))
        second.change_email(ChangeEmail(customer_id="c-1", email="ada@example.org"))
        second.promote(PromoteToVip(customer_id="c-1", reason="loyal"))
        await repository.save(first)
        with pytest.raises(ConcurrencyError) as caught:
            await repository.save(second)
        assert (caught.value.expected_version, caught.value.actual_version) == (1, 2)
        assert len(second.uncommitted_events) == 2
    assert len(await store.read_stream("customer-c-1", 0, 10)) == 2


async def test_saving_needs_the_store_and_reading_does_not(store: EventStore) -> None:
    repository = Repository(store, REGISTRY)
    with pytest.raises(RuntimeError, match="async with"):
        await repository.save(new_customer())
    assert await repository.get(Customer, "c-1") is None
    assert (await repository.load(Customer, "c-1")).version == 0


@pytest.fixture
async def history(store: EventStore) -> EventStore:
    """Customer c-1 with three events: one written each hour from RECORDED_AT, the second by a clock that is behind."""
    log = await Log.on(store)
    for hours in (0, 2, 1):
        record = log.record(created("c-1"), occurred_at=0)
        await log.append([record._replace(recorded_at=RECORDED_AT + hours * 3_600_000_000)])
    return store


@pytest.mark.parametrize("version", [0, 1, 2, 3])
async def test_an_aggregate_as_it_was_at_a_version(history: EventStore, version: int) -> None:
    customer = await load_aggregate(history, REGISTRY.events, Customer, "c-1", version=version)
    assert customer.version == version


@pytest.mark.parametrize(("hours", "version"), [(-0.001, 0), (0, 1), (1, 1), (1.9, 1), (2, 3), (9, 3)])
async def test_an_aggregate_as_it_was_at_a_time_of_writing(history: EventStore, hours: float, version: int) -> None:
    as_of = records.moment(RECORDED_AT) + timedelta(hours=hours)
    customer = await load_aggregate(history, REGISTRY.events, Customer, "c-1", as_of=as_of)
    assert customer.version == version


@pytest.mark.parametrize(
    ("version", "as_of", "field"),
    [
        (4, None, "version"),
        (-1, None, "version"),
        (None, datetime(2026, 1, 1), "as_of"),
        (1, datetime(2026, 1, 1, tzinfo=UTC), "as_of"),
        (None, "2026-01-01", "as_of"),
        ("1", None, "version"),
    ],
)
async def test_times_and_versions_that_can_not_be_meant_are_refused(
    history: ports.EventReader, version: Any, as_of: Any, field: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        await load_aggregate(history, REGISTRY.events, Customer, "c-1", version, as_of)
    assert caught.value.field == field


@pytest.mark.parametrize("what", [str, "Customer", None])
async def test_only_aggregates_are_loaded(history: ports.EventReader, what: Any) -> None:
    with pytest.raises(InvalidValue, match="aggregate_class"):
        await load_aggregate(history, REGISTRY.events, what, "c-1")
