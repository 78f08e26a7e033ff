"""The standing audit: it finds what is wrong in a sample, is right beside a runtime that writes, and takes little."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, MetaData, Table, Text, delete, insert, update

from actors.customers import CustomerCreated, OrderCreated
from projections import sampling
from projections.changes import Changes
from projections.customers import CustomerDirectory, CustomerProjection, DailySales, customers
from projections.plain_rows import PlainFold, PlainRows
from projections.projection import Projection
from projections.sampling import AuditState, Sample, SampleLimits, StandingAudit
from store import EventRecord, EventStore
from store.identity import shard_of
from tests.contract.shop_to_audit import NAMES, Shop, running_shop
from tests.logs import EVENTS, created, ordered


@pytest.fixture
async def shop(store: EventStore, store_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_shop(store, store_url, tmp_path) as running:
        yield running


class Pauses:
    """Sleeps by doing what was asked for meanwhile."""

    def __init__(self) -> None:
        self.taken: list[float] = []
        self.meanwhile: Any = None

    async def __call__(self, delay_s: float) -> None:
        self.taken.append(delay_s)
        if self.meanwhile is not None:
            await self.meanwhile()


def standing(
    shop: Shop, *projections: type[Projection], keys_max: int = 100, pause: Pauses | None = None
) -> StandingAudit:
    return StandingAudit(
        shop.store,
        shop.read_models,
        projections or (CustomerProjection,),
        EVENTS,
        lambda: range(shop.store.shards),
        SampleLimits(keys_max=keys_max),
        pause=pause or Pauses(),
        draw=random.Random(5),
    )


async def once_round(audit: StandingAudit, shop: Shop) -> list[AuditState]:
    for _ in range(shop.store.shards * len(audit.states())):
        await audit.step()
    return audit.states()


async def test_nothing_is_found_where_nothing_is_wrong(shop: Shop) -> None:
    states = await once_round(standing(shop, CustomerProjection, DailySales, CustomerDirectory), shop)
    assert {state.projection: (state.audits, state.rows, state.differences, state.failure) for state in states} == {
        "CustomerProjection": (shop.store.shards, len(NAMES), 0, ""),
        "DailySales": (shop.store.shards, len(NAMES), 0, ""),
        "CustomerDirectory": (shop.store.shards, len(NAMES), 0, ""),
    }
    assert states[0].last_at is not None


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (
            lambda table: update(table).where(table.c.id == "c-3").values(total_spent=table.c.total_spent + 1),
            "different: total_spent is",
        ),
        (lambda table: delete(table).where(table.c.id == "c-3"), "missing: the log makes it: id c-3, name Name of c-3"),
    ],
)
async def test_damage_is_named_and_stays_named(shop: Shop, make: Any, problem: str) -> None:
    audit = standing(shop)
    before = await shop.row(CustomerProjection, "c-3")
    await shop.damage(CustomerProjection, customers, make)
    (state,) = await once_round(audit, shop)
    assert (state.differences, state.rows) == (1, len(NAMES))
    assert state.finding.startswith("CustomerProjection, customers c-3, shard ")
    assert problem in state.finding
    await shop.damage(CustomerProjection, customers, lambda table: delete(table).where(table.c.id == "c-3"))
    await shop.damage(CustomerProjection, customers, lambda table: insert(table).values(**before))
    (again,) = await once_round(audit, shop)
    assert (again.differences, again.last_differences, again.finding) == (1, 0, state.finding)


async def test_a_row_that_should_be_gone_is_named(shop: Shop) -> None:
    new = Table("new_customers", MetaData(), Column("id", Text, primary_key=True))

    class Forgetful(Projection):
        tables: ClassVar = [new]

        def on_created(self, event: CustomerCreated, changes: Changes) -> None:
            changes.insert(new, id=event.customer_id)

        def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
            changes.delete(new, event.customer_id)

    await shop.follow(Forgetful)
    audit = standing(shop, Forgetful)
    (state,) = await once_round(audit, shop)
    assert (state.rows, state.differences) == (len(NAMES), 0)
    await shop.damage(Forgetful, new, lambda table: insert(table).values(id="c-5"))
    (state,) = await once_round(audit, shop)
    assert "new_customers c-5" in state.finding
    assert "extra: nothing in the log makes it" in state.finding


@pytest.mark.parametrize("keys_max", [100, 1])
async def test_whoever_writes_meanwhile_makes_no_difference(shop: Shop, keys_max: int) -> None:
    pause = Pauses()
    number = 0

    async def more() -> None:
        nonlocal number
        number += 1
        await shop.log.write(created(f"new-{number}"), *(ordered(name, f"more-{number}", "7.77") for name in NAMES))
        await shop.follow(CustomerProjection)

    pause.meanwhile = more
    (state,) = await once_round(standing(shop, keys_max=keys_max, pause=pause), shop)
    assert number > shop.store.shards
    assert (state.differences, state.failure) == (0, "")
    assert state.rows >= min(len(NAMES), keys_max * shop.store.shards)


async def test_rows_that_come_meanwhile_leave_no_key_out_that_is_compared(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them there are more rows than a sample has."""
    seen = Table("seen_orders", MetaData(), Column("id", Text, primary_key=True))

    class Seen(Projection):
        tables: ClassVar = [seen]

        def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
            changes.insert(seen, id=event.order_id)

    async def more() -> None:
        pause.meanwhile = None
        await shop.log.write(*(ordered(name, f"more-{order}") for name in NAMES for order in range(10)))
        await shop.follow(Seen)

    await shop.follow(Seen)
    monkeypatch.setattr(sampling, "ROWS_MAX", 10)
    shard = shard_of(NAMES[0], shop.store.shards)
    pause = Pauses()
    pause.meanwhile = more
    limits = SampleLimits()
    audit = StandingAudit(shop.store, shop.read_models, [Seen], EVENTS, lambda: [shard], limits, pause=pause)
    await audit.step()
    (state,) = audit.states()
    assert (state.audits, state.differences, state.finding) == (1, 0, "")
    assert state.rows > 0


async def test_it_looks_at_so_many_keys_and_others_the_next_time(shop: Shop) -> None:
    audit = standing(shop, keys_max=1)
    seen = set()
    for _ in range(40):
        await shop.damage(CustomerProjection, customers, lambda table: update(table).values(name=table.c.name + "!"))
        for _ in range(shop.store.shards):
            await audit.step()
            (state,) = audit.states()
            assert state.last_rows <= 1
            seen.add(state.finding.split(",")[1])
        if len(seen) == len(NAMES):
            break
    assert len(seen) == len(NAMES)


async def test_it_rests_most_of_the_time(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    worked = 0

    def slowly(self: PlainFold, record: EventRecord, rows: PlainRows) -> None:
        nonlocal worked
        worked += 1
        time.sleep(0.002)

    monkeypatch.setattr(PlainFold, "apply", slowly)
    pause = Pauses()
    await once_round(standing(shop, pause=pause), shop)
    assert worked > len(NAMES)
    assert sum(pause.taken) >= worked * 0.002 * 49


async def test_what_it_can_not_read_is_told_and_tried_again(shop: Shop) -> None:
    class Unknown(CustomerProjection):
        pass

    audit = standing(shop, Unknown)
    await audit.step()
    (state,) = audit.states()
    assert (state.audits, "There is no read model of Unknown" in state.failure) == (0, True)
    await shop.follow(Unknown)
    await audit.step()
    (state,) = audit.states()
    assert (state.audits, state.failure) == (1, "")


async def test_an_event_that_its_code_can_not_take_is_named(shop: Shop) -> None:
    class Choosy(CustomerProjection, name="CustomerProjection"):
        def on_ordered(self, events: Sequence[OrderCreated], changes: Changes) -> None:
            raise ValueError("no")

    (state,) = await once_round(standing(shop, Choosy), shop)
    assert "fold: Projection CustomerProjection can't apply OrderCreated" in state.finding


@pytest.fixture
async def records(store: EventStore, shop: Shop) -> list[EventRecord]:
    return [record for shard in range(store.shards) for record in await store.read_shard(shard, 0, 1_000)]


async def test_a_sample_has_its_keys_whole_or_not_at_all(
    records: list[EventRecord], monkeypatch: pytest.MonkeyPatch
) -> None:
    every = Sample(PlainFold(CustomerProjection, EVENTS), 1_000, b"salt")
    for record in records:
        every.add(record)
    whole = every.made(customers)
    assert len(whole) == len(NAMES)
    for salt in range(20):
        for keys_max in (1, 3, 11):
            sample = Sample(PlainFold(CustomerProjection, EVENTS), keys_max, bytes([salt]))
            for record in records:
                sample.add(record)
            assert sample.failed is None
            assert len(sample.rows) == keys_max
            assert all(row == whole[key] for key, row in sample.made(customers).items())
    monkeypatch.setattr(sampling, "ROWS_MAX", 2)
    for salt in range(20):
        sample = Sample(PlainFold(CustomerProjection, EVENTS), 5, bytes([salt]))
        for record in records:
            sample.add(record)
            sample.shrink()
        assert len(sample.rows) == 2
        assert all(row == whole[key] for key, row in sample.made(customers).items())
