"""The audit of read models names each kind of damage, on every database, and finds nothing where there is none."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Table, delete, insert, update

from actors.customers import OrderCreated
from projections.auditing import LiveRows, RowFinding
from projections.changes import Changes
from projections.customers import CustomerDirectory, CustomerProjection, DailySales, LoyaltyProgramme, customers
from projections.customers.directory import addresses
from projections.customers.loyalty import loyalty
from projections.customers.sales import daily_sales
from projections.errors import NotThisVersion, ReadModelMissing
from projections.projection import Projection
from projections.tables import checkpoints
from store import EventStore
from tests.contract.shop_to_audit import NAMES, Shop, running_shop
from tests.logs import created, ordered


@pytest.fixture
async def shop(store: EventStore, store_url: str, tmp_path: Path) -> AsyncIterator[Shop]:
    async with running_shop(store, store_url, tmp_path) as running:
        yield running


async def test_nothing_is_found_where_nothing_is_wrong(shop: Shop) -> None:
    assert await shop.audit() == []


async def test_a_runtime_may_go_on_writing_meanwhile(shop: Shop) -> None:
    async def more() -> None:
        await shop.log.write(created("new"), ordered("new", "1"), *(ordered(name, "more") for name in NAMES))
        await shop.follow()

    assert await shop.audit(between=more) == []
    assert await shop.audit() == []


async def test_each_read_model_is_right_as_far_as_it_goes(shop: Shop) -> None:
    await shop.log.write(created("new"), *(ordered(name, "more") for name in NAMES))
    assert await shop.audit() == []
    await shop.follow(DailySales)
    assert await shop.audit() == []


async def found_after(shop: Shop, projection: type[Projection], table: Table, make: Any) -> RowFinding:
    await shop.damage(projection, table, make)
    (finding,) = await shop.audit()
    return finding


async def test_an_amount_that_is_off_by_a_cent_is_named(shop: Shop) -> None:
    spent = (await shop.row(CustomerProjection, "c-3"))["total_spent"]
    finding = await found_after(
        shop,
        CustomerProjection,
        customers,
        lambda table: update(table).where(table.c.id == "c-3").values(total_spent=spent - Decimal("0.01")),
    )
    assert finding[:6] == (
        "CustomerProjection",
        "different",
        f"total_spent is {spent - Decimal('0.01')}, and the log says {spent}",
        "customers",
        "c-3",
        "total_spent",
    )


async def test_a_row_that_was_changed_is_named_with_all_that_differs(shop: Shop) -> None:
    finding = await found_after(
        shop,
        CustomerProjection,
        customers,
        lambda table: update(table).where(table.c.id == "c-3").values(name="Eve", last_promoted_at=None, status=""),
    )
    assert (finding.check, finding.key, finding.column) == ("different", "c-3", "name")
    assert "name is Eve, and the log says Name of c-3; status is , and the log says Active" in finding.problem


async def test_a_row_that_is_missing_is_named(shop: Shop) -> None:
    finding = await found_after(
        shop, CustomerProjection, customers, lambda table: delete(table).where(table.c.id == "c-5")
    )
    assert str(finding).startswith("CustomerProjection, customers c-5: missing: the log makes it: id c-5, name Name of")


async def test_a_row_that_no_event_has_made_is_named(shop: Shop) -> None:
    made = await shop.row(CustomerProjection, "c-5") | {"id": "c-99"}
    finding = await found_after(shop, CustomerProjection, customers, lambda table: insert(table).values(**made))
    assert str(finding).startswith("CustomerProjection, customers c-99: extra: nothing in the log makes it: id c-99")


async def test_rows_of_several_shards_are_compared_too(shop: Shop) -> None:
    day = datetime(2026, 3, 1, tzinfo=UTC).date()
    of_day = (daily_sales.c.day.name, day)
    finding = await found_after(
        shop,
        DailySales,
        daily_sales,
        lambda table: update(table).where(table.c[of_day[0]] == day).values(orders=table.c.orders + 1),
    )
    assert (finding.check, finding.key, finding.column) == ("different", "2026-03-01, Regular", "orders")
    await shop.damage(DailySales, daily_sales, lambda table: delete(table).where(table.c.day == day))
    await shop.damage(
        CustomerDirectory, addresses, lambda table: insert(table).values(email_folded="x@y.example", customers=0)
    )
    assert [(each.projection, each.check, each.key) for each in await shop.audit()] == [
        ("DailySales", "missing", "2026-03-01, Regular"),
        ("CustomerDirectory", "extra", "x@y.example"),
    ]


async def put_checkpoint(shop: Shop, shard: int, position: int, event_id: bytes) -> None:
    mine = (checkpoints.c.subscriber == CustomerProjection.subscriber(), checkpoints.c.shard == shard)
    moved = update(checkpoints).where(*mine).values(position=position, event_id=event_id)
    await shop.read_models._database.write(lambda connection: connection.execute(moved))


async def test_a_checkpoint_ahead_of_its_rows_is_seen_in_the_rows(shop: Shop) -> None:
    """As after a transaction of which only the checkpoint came to be."""
    (record,) = await shop.log.write(ordered("c-1", "more", "5.00"))
    await put_checkpoint(shop, record.shard, record.position, record.event_id)
    (finding,) = await shop.audit(CustomerProjection)
    assert (finding.check, finding.key, finding.column) == ("different", "c-1", "total_orders")
    assert "total_spent is" in finding.problem


async def test_a_checkpoint_where_the_log_could_not_bring_it_is_named(shop: Shop) -> None:
    """As after a restore of the log alone."""
    (record,) = await shop.log.write(ordered("c-1", "more"))
    await shop.follow()
    await put_checkpoint(shop, record.shard, record.position, b"another")
    (finding,) = await shop.audit(CustomerProjection)
    assert str(finding) == (
        f"CustomerProjection, shard {record.shard}: checkpoint: it is at {record.position}, and the log has another"
        " event there"
    )
    await put_checkpoint(shop, record.shard, record.position + 1, b"another")
    (finding,) = await shop.audit(CustomerProjection)
    assert finding.problem == f"it is at {record.position + 1}, and the log ends at {record.position}"


async def test_an_event_that_was_counted_twice_is_seen(shop: Shop) -> None:
    twice = {"total_orders": 1, "total_spent": Decimal("19.99")}
    finding = await found_after(
        shop,
        CustomerProjection,
        customers,
        lambda table: (
            update(table)
            .where(table.c.id == "c-2")
            .values({each: table.c[each] + more for each, more in twice.items()})
        ),
    )
    assert finding.problem.startswith("total_orders is ")
    assert "; total_spent is " in finding.problem


async def test_a_method_that_can_not_take_an_event_is_named_and_others_go_on(shop: Shop) -> None:
    class Choosy(CustomerProjection, name="CustomerProjection"):
        def on_ordered(self, events: Sequence[OrderCreated], changes: Changes) -> None:
            raise ValueError(f"no {events[0].order_id}")

    findings = await shop.audit(Choosy, DailySales)
    folds = [each for each in findings if each.check == "fold"]
    assert folds
    assert all("ValueError: no c-" in each.problem for each in folds)
    assert {each.projection for each in findings} == {"CustomerProjection"}


async def test_the_state_of_a_process_manager_is_a_read_model_too(shop: Shop) -> None:
    await shop.follow(LoyaltyProgramme)
    assert await shop.audit(LoyaltyProgramme) == []
    await shop.damage(
        LoyaltyProgramme, loyalty, lambda table: update(table).where(table.c.customer_id == "c-2").values(spent=1)
    )
    (finding,) = await shop.audit(LoyaltyProgramme)
    assert (finding.key, finding.column) == ("c-2", "spent")


async def test_what_can_not_be_compared_is_an_error(shop: Shop, tmp_path: Path) -> None:
    class Newer(CustomerProjection, name="CustomerProjection", version=2):
        pass

    class Unknown(CustomerProjection):
        pass

    live = LiveRows(tmp_path / "other")
    with pytest.raises(NotThisVersion, match="still of version 1, and the application has 2"):
        await live.read(shop.read_models, Newer, range(shop.store.shards))
    with pytest.raises(ReadModelMissing):
        await live.read(shop.read_models, Unknown, range(shop.store.shards))
    live.close()
