"""The declarative half of projections: methods by annotation, changes merged per row, exact columns."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import ARRAY, CheckConstraint, Column, Integer, MetaData, Table, Text, create_engine, insert, select
from sqlalchemy.engine import Connection

from projections.changes import Changes
from projections.columns import Moment, Money
from projections.errors import ConsistencyTimeout, ProjectionFailed, ReadModelVersion, RebuildStopped, RestoredBehind
from projections.folding import Folder
from projections.opening import database_of
from projections.projection import Projection
from projections.row_sql import statements
from store import Event, EventRecord, EventRegistry, InvalidValue

things = Table("things", MetaData(), Column("id", Text, primary_key=True), Column("n", Integer), Column("m", Integer))
pairs = Table(
    "pairs",
    MetaData(),
    Column("day", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("n", Integer, default=0),
)


class Happened(Event):
    thing: str


class HappenedOften(Happened):
    times: int


class Elsewhere(Event):
    thing: str


REGISTRY = EventRegistry([Happened, HappenedOften, Elsewhere])


def flush(connection: Connection, changes: Changes) -> None:
    for sql, parameters in statements(changes, {things: things, pairs: pairs}, connection.dialect):
        connection.exec_driver_sql(sql, parameters)


def database() -> Connection:
    connection = create_engine("sqlite://").connect()
    things.create(connection)
    pairs.create(connection)
    return connection


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "set", "add", "delete"]),
        st.sampled_from(["a", "b"]),
        st.sampled_from(["n", "m"]),
        st.integers(-5, 5),
    ),
    max_size=25,
)


@given(OPERATIONS, st.integers(1, 25))
def test_merged_changes_do_what_the_same_changes_do_one_by_one(operations: list[Any], batch_size: int) -> None:
    def run(size: int) -> list[Any]:
        exists: set[str] = set()
        with database() as connection:
            for start in range(0, len(operations), size):
                changes = Changes()
                for verb, key, column, value in operations[start : start + size]:
                    if verb == "insert" and key not in exists:
                        changes.insert(things, id=key, **{column: value})
                        exists.add(key)
                    elif verb == "delete":
                        changes.delete(things, key)
                        exists.discard(key)
                    elif verb in ("set", "add"):
                        getattr(changes, verb)(things, key, **{column: value})
                flush(connection, changes)
            return [tuple(row) for row in connection.execute(select(things).order_by(things.c.id))]

    assert run(batch_size) == run(1)


def test_many_events_of_one_row_cost_one_row_of_one_statement() -> None:
    changes = Changes()
    for _ in range(1000):
        changes.add(things, "a", n=1)
    with database() as connection:
        found = list(statements(changes, {things: things}, connection.dialect))
    assert [parameters for _, parameters in found] == [("a", 1000)]


SUMS = st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(-5, 5)), max_size=25)


@given(SUMS, st.integers(1, 25))
def test_sums_of_a_batch_are_those_of_its_events_one_by_one_and_rows_are_made(sums: list[Any], size: int) -> None:
    expected: dict[tuple[str, str], int] = {}
    with database() as connection:
        for start in range(0, len(sums), size):
            changes = Changes()
            for day, kind, amount in sums[start : start + size]:
                changes.accumulate(pairs, (day, kind), n=amount)
                expected[day, kind] = expected.get((day, kind), 0) + amount
            flush(connection, changes)
        assert {(day, kind): n for day, kind, n in connection.execute(select(pairs))} == expected


def test_a_table_is_accumulated_in_all_its_rows_or_in_none() -> None:
    for first, second in (("accumulate", "add"), ("add", "accumulate")):
        changes = Changes()
        getattr(changes, first)(pairs, ("mon", "x"), n=1)
        with pytest.raises(ValueError, match="in all its rows, or in none"):
            getattr(changes, second)(pairs, ("tue", "x"), n=1)
    with pytest.raises(ValueError, match="no column typo"):
        Changes().accumulate(pairs, ("mon", "x"), typo=1)


def test_a_row_is_seen_as_the_batch_has_left_it() -> None:
    changes = Changes({things: {"a": {"id": "a", "n": 1, "m": None}}})
    changes.add(things, "a", n=2, m=3)
    changes.set(things, "a", m=7)
    assert changes.row(things, "a") == {"id": "a", "n": 3, "m": 7}
    changes.delete(things, "a")
    assert changes.row(things, "a") is None
    changes.insert(things, id="a", n=9)
    changes.insert(things, id="b")
    assert (changes.row(things, "a"), changes.row(things, "b"), changes.row(things, "c")) == (
        {"id": "a", "n": 9, "m": None},
        {"id": "b", "n": None, "m": None},
        None,
    )


@pytest.mark.parametrize("way", ["add", "accumulate"])
def test_rows_are_changed_in_key_order(way: str) -> None:
    """Two processes whose shards feed the same rows lock them in one order."""
    changes = Changes()
    for key in ("c", "a", "b"):
        getattr(changes, way)(things, key, n=1)
    with database() as connection:
        found = list(statements(changes, {things: things}, connection.dialect))
    given = [value for _, parameters in found for value in parameters if isinstance(value, str)]
    assert given == ["a", "b", "c"]


@pytest.mark.parametrize("first", [0, 1])
def test_tables_are_changed_in_the_order_in_which_a_projection_names_them(first: int) -> None:
    """Two batches that touch them the other way round lock their rows in one order."""
    named = [things, pairs]
    for accumulated in (False, True):
        changes = Changes()
        for table in (named[first], named[1 - first]):
            key = "a" if table is things else ("a", "b")
            if accumulated:
                changes.accumulate(table, key, n=1)
            else:
                changes.delete(table, key)
        with database() as connection:
            found = statements(changes, {table: table for table in named}, connection.dialect)
            assert ["things" in each.sql for each in found] == [True, False]


def test_a_key_of_several_columns_is_a_tuple_and_defaults_fill_new_rows() -> None:
    with database() as connection:
        for amount in (1, 2):
            changes = Changes()
            if amount == 1:
                changes.insert(pairs, day="mon", kind="x")
            changes.add(pairs, ("mon", "x"), n=amount)
            flush(connection, changes)
        assert [tuple(row) for row in connection.execute(select(pairs))] == [("mon", "x", 3)]


@pytest.mark.parametrize(
    ("row", "message"),
    [({"n": 1}, "key column id"), ({"id": "a", "typo": 1}, "no column typo")],
)
def test_a_row_that_does_not_fit_its_table_is_refused(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Changes().insert(things, **row)


class TestProjection:
    def test_methods_are_found_by_annotated_type_also_of_base_classes_and_unions(self) -> None:
        class Everything(Projection):
            tables = (things,)

            def on_happened(self, event: Happened, changes: Changes) -> None:
                changes.insert(things, id=event.thing)

            def on_other(self, event: HappenedOften | Elsewhere, changes: Changes) -> None:
                changes.add(things, event.thing, n=1)

        assert set(Everything.event_methods()) == {Happened, HappenedOften, Elsewhere}
        assert (Everything.name, Everything.version, Everything.subscriber()) == ("Everything", 1, "Everything@1")
        assert [table.name for table in Everything.physical_tables().values()] == ["things_v1"]

    def test_a_base_class_stands_for_all_event_types_derived_from_it(self) -> None:
        class Base(Projection):
            tables = (things,)

            def on_happened(self, event: Happened, changes: Changes) -> None:
                raise AssertionError

        assert set(Folder(Base, REGISTRY)._methods) == {"Happened", "HappenedOften"}

    def test_a_method_of_many_gets_those_that_follow_on_each_other(self) -> None:
        got: list[list[str]] = []

        class Many(Projection):
            tables = (things,)

            def on_happened(self, events: Sequence[Happened], changes: Changes) -> None:
                got.append([event.thing for event in events])

            def on_other(self, event: Elsewhere, changes: Changes) -> None:
                got.append([f"-{event.thing}"])

        def record(place: int, event: Event) -> EventRecord:
            data = event.model_dump_json()
            return EventRecord(0, place, "s-1", place, "1", b"", event.event_type, 1, data, "{}", None, None, 0)

        kinds: list[Event] = [Happened(thing="a"), HappenedOften(thing="b", times=2), Elsewhere(thing="c")]
        kinds += [Happened(thing="d"), Elsewhere(thing="e"), Elsewhere(thing="f")]
        folder = Folder(Many, REGISTRY)
        folder.fold(folder.decode([record(place, event) for place, event in enumerate(kinds, 1)]))
        assert got == [["a", "b"], ["-c"], ["d"], ["-e"], ["-f"]]

    def test_a_method_that_can_not_work_is_named_at_once(self) -> None:
        class Twice(Projection):
            tables = (things,)

            def one(self, event: Happened, changes: Changes) -> None:
                raise AssertionError

            def two(self, event: Happened, changes: Changes) -> None:
                raise AssertionError

        class Lacking(Projection):
            tables = (things,)

            def one(self, event: Happened) -> None:
                raise AssertionError

        class Idle(Projection):
            tables = (things,)

        for projection, words in ((Twice, "leave one"), (Lacking, "and changes"), (Idle, "annotate")):
            with pytest.raises(InvalidValue, match=words):
                projection.event_methods()

    @pytest.mark.parametrize(
        ("name", "parts", "words"),
        [
            ("events", [], "Eventray has a table of this name"),
            ("checkpoints", [], "Eventray has a table of this name"),
            ("words", [Column("words", ARRAY(Text))], r"words\.words.*use JSON"),
            ("odd", [CheckConstraint("1 = 1").ddl_if(dialect="sqlite")], "a name"),
        ],
    )
    def test_a_table_that_no_database_would_keep_right_is_refused(self, name: str, parts: Any, words: str) -> None:
        class Refused(Projection):
            tables = (Table(name, MetaData(), Column("id", Text, primary_key=True), *parts),)

        with pytest.raises(InvalidValue, match=words):
            Refused.event_methods()

    def test_a_projection_without_tables_keys_or_version_is_refused(self) -> None:
        keyless = Table("keyless", MetaData(), Column("n", Integer))
        for attributes, keywords, words in (
            ({}, {}, "name the tables"),
            ({"tables": [keyless]}, {}, "primary key"),
            ({"tables": [things]}, {"version": 0}, "from 1"),
        ):
            broken: Any = type("Broken", (Projection,), attributes, **keywords)
            with pytest.raises(InvalidValue, match=words):
                broken.event_methods()


class TestColumns:
    table = Table(
        "values", MetaData(), Column("id", Integer, primary_key=True), Column("amount", Money), Column("at", Moment)
    )

    def kept(self, **row: Any) -> Any:
        with create_engine("sqlite://").connect() as connection:
            self.table.create(connection)
            connection.execute(insert(self.table).values(id=1, **row))
            return connection.execute(select(self.table)).one()

    @pytest.mark.parametrize(
        ("amount", "text"),
        [("42", "42.00"), ("0.0001", "0.0001"), ("12.5", "12.50"), ("1.230", "1.23"), ("-3", "-3.00"), ("0", "0.00")],
    )
    def test_money_is_exact_with_two_decimals_or_more(self, amount: str, text: str) -> None:
        assert str(self.kept(amount=Decimal(amount)).amount) == text

    @pytest.mark.parametrize("amount", ["0.00001", "922337203685477.5808"])
    def test_money_that_is_not_exact_in_the_column_is_refused(self, amount: str) -> None:
        with pytest.raises(ValueError, match="decimals"):
            Money().process_bind_param(Decimal(amount), create_engine("sqlite://").dialect)

    def test_moments_come_back_in_utc(self) -> None:
        moment = datetime(2026, 1, 1, 1, 0, 0, 7, tzinfo=timezone(timedelta(hours=2)))
        kept = self.kept(at=moment).at
        assert (kept, kept.tzinfo) == (moment, UTC)


@pytest.mark.parametrize(
    ("store", "read_models"),
    [
        ("sqlite:////data/shop.db", "/data/shop.read.db"),
        ("sqlite:////data/shop", "/data/shop.read"),
        ("memory://any", "memory"),
        ("postgresql://ada:secret@localhost/shop", "postgresql://ada:***@localhost/shop"),
    ],
)
def test_read_models_are_beside_their_store(store: str, read_models: str) -> None:
    assert database_of(store).name == read_models


@pytest.mark.parametrize(
    "error",
    [
        ConsistencyTimeout("P", 1, 5, 2.0, 4, ""),
        ProjectionFailed("P", "s-1", 1, "T", "why"),
        RestoredBehind("P", 1, 5, "ends before it", "move it away"),
        ReadModelVersion("P", 2, 1),
        RebuildStopped("P", "why"),
    ],
)
def test_errors_cross_processes_unchanged(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.args, str(copy), vars(copy)) == (type(error), error.args, str(error), vars(error))
