"""What the database of read models promises, whichever it is: values come back as they were given, all or nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, ClassVar

import pytest
from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    Date,
    Dialect,
    Double,
    Enum,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Select,
    SmallInteger,
    String,
    Table,
    Text,
    Time,
    TypeDecorator,
    UniqueConstraint,
    Uuid,
    column,
    delete,
    select,
    table,
    text,
)

from projections.changes import Changes
from projections.columns import Moment, Money
from projections.customers import CustomerProjection, customers
from projections.errors import ReadModelMissing, ReadModelRejected, ReadModelUnavailable
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.tables import Build
from store import Event, InvalidValue
from store.records import Advance, Checkpoint


class Exiting(TypeDecorator[str]):
    """A user's column type that ends the process at some values."""

    impl, cache_ok = Text, True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value == "exit":
            raise SystemExit(3)
        return value


everything = Table(
    "everything",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("short", String(8)),
    Column("whole", Integer),
    Column("small", SmallInteger),
    Column("big", BigInteger),
    Column("real", Double),
    Column("flag", Boolean),
    Column("amount", Money),
    Column("at", Moment),
    Column("day", Date),
    Column("hour", Time),
    Column("bytes", LargeBinary),
    Column("number", Uuid),
    Column("mood", Enum("good", "bad", name="moods")),
    Column("details", JSON(none_as_null=True)),
    Column("order", Text),  # a word of SQL's
    Column("exiting", Exiting),
)
VALUES: dict[str, Any] = {
    "short": "ö' \\ ☃",
    "whole": -(2**31),
    "small": 2**15 - 1,
    "big": 2**63 - 1,
    "real": 0.1,
    "flag": True,
    "amount": Decimal("12345678901234.5678"),
    "at": datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
    "day": date(1997, 1, 1),
    "hour": time(23, 59, 59, 999_999),
    "bytes": bytes(range(256)),
    "number": uuid.UUID(int=1),
    "mood": "bad",
    "details": {"a": [1, None, "ü"]},
    "order": "",
    "exiting": "stays",
}
pairs = Table(
    "pairs",
    MetaData(),
    Column("day", Date, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("n", Integer, default=0),
    Column("a", Integer, index=True),
    Column("b", Integer),
    UniqueConstraint("a", "b", name="pairs_a_b"),
    Index("pairs_b", "b"),
    CheckConstraint("n <> 13", name="on_sqlite").ddl_if(dialect="sqlite"),
    CheckConstraint("n <> 14", name="on_postgres").ddl_if(dialect="postgresql"),
)


class Everything(Projection):
    tables: ClassVar = [everything]

    def on_any(self, event: Event, changes: Changes) -> None:
        raise AssertionError


class Pairs(Projection):
    tables: ClassVar = [pairs]

    def on_any(self, event: Event, changes: Changes) -> None:
        raise AssertionError


class NewerPairs(Pairs, version=2, name="NewerPairs"):
    """Side by side with its elder."""


class PairsToCome(Pairs, version=2, name="Pairs"):
    """Takes the place of its elder."""


@pytest.fixture
async def read_models(store_url: str) -> AsyncIterator[ReadModels]:
    opened = ReadModels(store_url)
    yield opened
    await opened.close()


class Applying:
    """Applies changes to a projection, one event of shard 0 after the other."""

    def __init__(self, read_models: ReadModels, projection: type[Projection]) -> None:
        self.read_models, self.projection = read_models, projection
        self.position = 0

    async def __call__(self, changes: Changes) -> None:
        advance = Advance(0, self.position, self.position + 1, b"id")
        assert await self.read_models.apply(self.projection, [advance], changes) == {}
        self.position += 1

    async def row(self, key: Any) -> dict[str, Any] | None:
        return (await self.read_models.query(self.projection, key)).row


async def applying(read_models: ReadModels, projection: type[Projection]) -> Applying:
    await read_models.prepare(projection, [0])
    return Applying(read_models, projection)


async def sql(read_models: ReadModels, statement: str) -> list[Any]:
    def work(connection: Connection) -> list[Any]:
        result = connection.execute(text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []

    return await read_models._database.write(work)


class TestValues:
    async def test_of_every_common_type_come_back_as_they_were_given(self, read_models: ReadModels) -> None:
        apply = await applying(read_models, Everything)
        nothing = dict.fromkeys(VALUES)
        inserted, emptied, filled = Changes(), Changes(), Changes()
        inserted.insert(everything, id="full", **VALUES)
        inserted.insert(everything, id="empty")
        emptied.set(everything, "full", **nothing)
        filled.set(everything, "empty", **VALUES)
        await apply(inserted)
        assert await apply.row("full") == {"id": "full", **VALUES}
        assert await apply.row("empty") == {"id": "empty", **nothing}
        await apply(emptied)
        await apply(filled)
        assert await apply.row("full") == {"id": "full", **nothing}
        assert await apply.row("empty") == {"id": "empty", **VALUES}

    async def test_amounts_are_added_exactly_also_to_nothing(self, read_models: ReadModels) -> None:
        apply = await applying(read_models, Everything)
        started = Changes()
        started.insert(everything, id="x", amount=Decimal("0.1"), real=0.5)
        await apply(started)
        for _ in range(3):
            added = Changes()
            added.add(everything, "x", amount=Decimal("0.2"), big=2**40, real=-1.0)
            added.set(everything, "x", short="set")
            added.add(everything, "unknown", big=1)
            await apply(added)
        row = await apply.row("x")
        assert row is not None
        assert (row["amount"], row["big"], row["real"], row["short"]) == (Decimal("0.70"), 3 * 2**40, -2.5, "set")
        assert await apply.row("unknown") is None

    async def test_thousands_of_rows_are_changed_by_one_call(self, read_models: ReadModels) -> None:
        apply = await applying(read_models, Everything)
        inserted, changed, deleted = Changes(), Changes(), Changes()
        count = 2_500
        for number in range(count):
            inserted.insert(everything, id=f"{number}", whole=number)
            changed.add(everything, f"{number}", whole=1)
            if number % 2:
                deleted.delete(everything, f"{number}")
        await apply(inserted)
        await apply(changed)
        await apply(deleted)
        found = await sql(read_models, "SELECT count(*), sum(whole), min(whole), max(whole) FROM everything")
        assert found == [(count // 2, sum(range(1, count, 2)), 1, count - 1)]

    async def test_keys_of_several_columns_are_found_changed_and_deleted(self, read_models: ReadModels) -> None:
        apply = await applying(read_models, Pairs)
        first, second, changes = date(2026, 1, 1), date(2026, 1, 2), Changes()
        for day in (first, second):
            for kind in ("x", "y"):
                changes.insert(pairs, day=day, kind=kind)
        await apply(changes)
        changes = Changes()
        changes.add(pairs, (first, "y"), n=5)
        changes.delete(pairs, (second, "x"))
        await apply(changes)
        expected = {(first, "x"): 0, (first, "y"): 5, (second, "x"): None, (second, "y"): 0}
        for key, n in expected.items():
            row = await apply.row(key)
            assert (None if row is None else row["n"]) == n
        with pytest.raises(InvalidValue, match=r"give 2 values: day, kind"):
            await apply.row("x")

    @pytest.mark.parametrize(
        ("column", "value"),
        [
            ("amount", Decimal("0.00001")),
            ("amount", "much"),
            ("at", "yesterday"),
            ("big", 2**63),
            ("order", "\ud800"),
            ("number", "no number"),
            ("exiting", "exit"),
        ],
    )
    async def test_one_that_the_column_cannot_hold_is_refused_and_nothing_is_changed(
        self, read_models: ReadModels, column: str, value: Any
    ) -> None:
        apply = await applying(read_models, Everything)
        changes = Changes()
        changes.insert(everything, id="good", short="good")
        changes.insert(everything, id="x", **{column: value})
        with pytest.raises(ReadModelRejected):
            await apply(changes)
        assert await apply.row("good") is None
        assert (await read_models.query(Everything, "x", 0)).position == 0


class TestQueriesOfUsers:
    @pytest.mark.parametrize(
        "statement",
        [
            select(column("id")).select_from(table("nope")),
            select(column("nope")).select_from(everything),
            text("SELEC 1"),
            text("SELECT nope(1)"),
            text("DELETE FROM everything_v1"),
            text("DELETE FROM everything_v1 RETURNING id"),
            text("DROP TABLE everything_v1"),
            delete(everything),
            text("SELECT :lacking"),
            "SELECT 1",
        ],
        ids=str,
    )
    async def test_one_that_is_wrong_is_refused_for_good_and_changes_nothing(
        self, read_models: ReadModels, statement: Any
    ) -> None:
        apply = await applying(read_models, Everything)
        changes = Changes()
        changes.insert(everything, id="x")
        await apply(changes)
        with pytest.raises(ReadModelRejected):
            await read_models.select(Everything, statement)
        assert await read_models.select(Everything, select(everything.c.id)) == [{"id": "x"}]
        assert await sql(read_models, "SELECT id FROM everything_v1") == [("x",)]

    async def test_what_only_the_version_to_come_has_may_be_asked_for_again(self, read_models: ReadModels) -> None:
        await applying(read_models, Pairs)
        await read_models.prepare(PairsToCome, [0])
        to_come: Select[Any] = select(column("to_come")).select_from(pairs)
        with pytest.raises(ReadModelUnavailable, match="version 1 of it is still read"):
            await read_models.select(PairsToCome, to_come)
        with pytest.raises(ReadModelRejected):
            await read_models.select(Pairs, to_come)

    async def test_what_eventray_itself_asks_for_and_lacks_is_unavailable_till_it_is_there(
        self, read_models: ReadModels
    ) -> None:
        """Who follows the log tries again, and doesn't call it the event's fault."""
        apply = await applying(read_models, Everything)
        await sql(read_models, "DROP VIEW everything")
        await sql(read_models, "ALTER TABLE everything_v1 RENAME TO elsewhere")
        changes = Changes()
        changes.insert(everything, id="x")
        for asking in (apply(changes), apply.row("x")):
            with pytest.raises(ReadModelUnavailable):
                await asking
        await sql(read_models, "ALTER TABLE elsewhere RENAME TO everything_v1")
        assert await apply.row("x") is None


class TestMaking:
    async def test_several_that_make_it_at_once_find_one(self, store_url: str, read_models: ReadModels) -> None:
        several = [read_models if store_url.startswith("memory") else ReadModels(store_url) for _ in range(4)]
        begin = {shard: Checkpoint(0, None) for shard in range(64)}
        try:
            for projection in (CustomerProjection, Everything):
                made = await asyncio.gather(*(each.prepare(projection, begin) for each in several))
                assert made == [(Build(1), True, begin)] * 4
        finally:
            await asyncio.gather(*(each.close() for each in several))

    async def test_people_read_it_by_a_view_of_its_name(self, read_models: ReadModels) -> None:
        apply = await applying(read_models, Pairs)
        changes = Changes()
        changes.insert(pairs, day=date(2026, 1, 1), kind="x", n=3)
        await apply(changes)
        assert await sql(read_models, "SELECT kind, n FROM pairs") == [("x", 3)]

    async def test_a_view_that_somebody_else_made_is_left_as_it_is(self, read_models: ReadModels) -> None:
        await sql(read_models, "CREATE VIEW pairs AS SELECT 1 AS theirs")
        with pytest.raises(InvalidValue, match="not Eventray's"):
            await read_models.prepare(Pairs, [0])
        assert await sql(read_models, "SELECT * FROM pairs") == [(1,)]
        await sql(read_models, "DROP VIEW pairs")
        await read_models.prepare(Pairs, [0])
        await sql(read_models, "DELETE FROM projections")
        await read_models.prepare(Pairs, [0])  # its own view is no obstacle
        assert await sql(read_models, "SELECT * FROM pairs") == []

    async def test_two_versions_stand_side_by_side_each_with_its_constraints(self, read_models: ReadModels) -> None:
        older = await applying(read_models, Pairs)
        (newer,) = NewerPairs.physical_tables().values()
        await read_models._database.write(newer.create)
        forbidden = 13 if older.read_models._database.dialect.name == "sqlite" else 14
        changes = Changes()
        changes.insert(pairs, day=date(2026, 1, 1), kind="x", n=27 - forbidden)
        await older(changes)
        changes.insert(pairs, day=date(2026, 1, 1), kind="y", n=forbidden)
        with pytest.raises(ReadModelRejected):
            await older(changes)

    async def test_before_it_is_made_it_is_said_to_be_missing(self, read_models: ReadModels, store_url: str) -> None:
        with pytest.raises(ReadModelMissing):
            await read_models.query(Pairs, (date(2026, 1, 1), "x"))
        await read_models.prepare(CustomerProjection, [0])
        with pytest.raises(ReadModelMissing):
            await read_models.query(Pairs, (date(2026, 1, 1), "x"))
        with pytest.raises(ReadModelMissing):
            await read_models.apply(CustomerProjection, [Advance(7, 0, 1, b"id")], Changes())

    async def test_once_closed_it_says_so(self, read_models: ReadModels) -> None:
        await read_models.prepare(CustomerProjection, [0])
        await read_models.close()
        await read_models.close()
        with pytest.raises(Exception, match="closed"):
            await read_models.query(CustomerProjection, "c-1")


async def test_a_row_and_its_checkpoint_are_read_as_they_were_together(store_url: str, read_models: ReadModels) -> None:
    reader = read_models if store_url.startswith("memory") else ReadModels(store_url)
    apply = await applying(read_models, Everything)
    changes = Changes()
    changes.insert(everything, id="x", whole=1)
    await apply(changes)
    changes = Changes()
    changes.add(everything, "x", whole=1)

    async def write() -> None:
        for _ in range(200):
            await apply(changes)

    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        reading = await reader.query(Everything, "x", 0)
        assert reading.row is not None
        assert reading.row["whole"] == reading.position
        seen.add(reading.position)
    await writing
    await reader.close()
    assert len(seen) > 10


async def test_the_checkpoint_moves_only_from_where_it_is(read_models: ReadModels) -> None:
    await read_models.prepare(CustomerProjection, range(3))
    advances = [Advance(shard, 0, shard + 1, bytes([shard])) for shard in range(3)]
    assert await read_models.apply(CustomerProjection, advances, Changes()) == {}
    again = [Advance(0, 1, 9, b"9"), Advance(1, 1, 9, b"9"), Advance(2, 3, 9, b"9")]  # shard 1 is at 2, not at 1
    changes = Changes()
    changes.insert(customers, id="c-1", name="n", email="e", type="t", status="s", created_at=VALUES["at"])
    there = {0: Checkpoint(1, b"\0"), 1: Checkpoint(2, b"\1"), 2: Checkpoint(3, b"\2")}
    assert await read_models.apply(CustomerProjection, again, changes) == there
    assert await read_models.positions(CustomerProjection) == {0: 1, 1: 2, 2: 3}
    assert (await read_models.query(CustomerProjection, "c-1")).row is None
