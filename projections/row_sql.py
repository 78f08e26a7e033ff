"""The SQL of merged row changes: for each table at most one DELETE, one INSERT, and one UPDATE per set of columns.

A statement takes its rows all at once, as a table of its own: on PostgreSQL an array for each column, on SQLite VALUES
of up to 512 rows. What is done with them is SQLAlchemy's, compiled once. (Measured on SQLite beside a busy event loop:
with a row at a time, 2,000 rows took 40 s, since its driver waits for the interpreter's lock at each one; see
docs/adr/0003.) Not here: transactions, and what the checkpoints mean.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, NamedTuple

from sqlalchemy import (
    ColumnElement,
    Connection,
    Dialect,
    Subquery,
    Table,
    column,
    delete,
    func,
    insert,
    select,
    text,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.dialects.postgresql import ENUM
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.sql.dml import UpdateBase
from sqlalchemy.types import String, TypeEngine

from projections.changes import Changes, Key, RowChange, default_values

Rows = Sequence[tuple[Key, RowChange]]
Sums = list[tuple[Key, dict[str, Any]]]
Names = tuple[str, ...]
Processor = Callable[[Any], Any]

GIVEN = "eventray_given"
ROWS = "/* the given rows */"
ROWS_MAX = 512
"""Rows in one VALUES. What is left goes in smaller powers of two, so that few statements are compiled, each once."""
PARAMETERS_MAX = 32_766
"""In one statement of SQLite's."""


class Statement(NamedTuple):
    """A statement in the driver's own words, and its parameters."""

    sql: str
    parameters: tuple[Any, ...]


class Compiled(NamedTuple):
    """What is to be done with given rows; how many there are doesn't matter yet."""

    before: str
    after: str
    """What stands before and after the rows."""
    types: Names
    """Of the given columns, in the database's words."""
    processors: tuple[Processor | None, ...]
    """What turns each column's values into the driver's."""
    arrays: bool

    def with_columns(self, columns: Sequence[Sequence[Any]]) -> Iterator[Statement]:
        """Yield the statement with its rows, given column by column; as several where one can't take them all."""
        given = [
            list(values) if process is None else list(map(process, values))
            for process, values in zip(self.processors, columns, strict=True)
        ]
        if self.arrays:
            yield Statement(_with_arrays(self), tuple(given))
            return
        rows = list(zip(*given, strict=True))
        start, count = 0, 1 << min(ROWS_MAX, PARAMETERS_MAX // len(given)).bit_length() - 1
        while start < len(rows):
            while count > len(rows) - start:
                count //= 2
            yield Statement(_with_values(self, count), tuple(chain.from_iterable(rows[start : start + count])))
            start += count


def statements(changes: Changes, physical: Mapping[Table, Table], dialect: Dialect) -> Iterator[Statement]:
    """Yield the statements that make the changes, in an order that may be executed as it comes.

    The tables come in the order of `physical`, whatever the events touched first: two processes whose shards feed the
    same rows lock them in one order, and never wait for each other. Raises whatever a column's type raises at a value
    that it can't take.
    """
    places = {logical: place for place, logical in enumerate(physical)}
    for logical, rows in sorted(changes.items(), key=lambda changed: places[changed[0]]):
        target = physical[logical]
        if deleted := [key for key, change in rows if change.delete]:
            yield from _delete(target, dialect).with_columns(_key_columns(target, deleted))
        if inserted := [change.insert for _, change in rows if change.insert is not None]:
            names = [each.name for each in target.columns]
            yield from _insert(target, dialect).with_columns([[row[name] for row in inserted] for name in names])
        yield from _updates(target, rows, dialect)
    for logical, sums in sorted(changes.sums(), key=lambda changed: places[changed[0]]):
        yield from _increments(physical[logical], sums, dialect)


def rows_of(connection: Connection, target: Table, keys: Collection[Key]) -> dict[Key, dict[str, Any]]:
    """Return those of the rows with these keys that are there, by key."""
    columns = list(target.primary_key)
    wanted = tuple_(*columns) if len(columns) > 1 else columns[0]
    found: dict[Key, dict[str, Any]] = {}
    for chunk in _chunks(sorted(keys), PARAMETERS_MAX // len(columns)):
        for row in connection.execute(select(target).where(wanted.in_(chunk))).mappings():
            values = tuple(row[column] for column in columns)
            found[values if len(columns) > 1 else values[0]] = dict(row)
    return found


def given(types: Sequence[TypeEngine[Any]]) -> Subquery:
    """Return the table that a statement's given rows are, with columns of those types, called as VALUES calls them."""
    columns = [column(f"column{place}", type_) for place, type_ in enumerate(types, 1)]
    return text(ROWS).columns(*columns).subquery(GIVEN)


def compiled(statement: UpdateBase, rows: Subquery, dialect: Dialect) -> Compiled:
    """Compile what is done with the `given` rows. There may be no parameters besides."""
    assert isinstance(dialect, DefaultDialect)
    types = [each.type for each in rows.c]
    before, after = str(statement.compile(dialect=dialect)).split(ROWS)
    return Compiled(
        before,
        after,
        tuple(_type_name(type_, dialect) for type_ in types),
        tuple(type_.dialect_impl(dialect).bind_processor(dialect) for type_ in types),
        dialect.name == "postgresql",
    )


def _chunks(keys: list[Key], size: int) -> Iterator[list[Key]]:
    for start in range(0, len(keys), size):
        yield keys[start : start + size]


def _updates(target: Table, rows: Rows, dialect: Dialect) -> Iterator[Statement]:
    by_columns: defaultdict[tuple[Names, Names], list[tuple[Key, RowChange]]] = defaultdict(list)
    for row in rows:
        sets, adds = row[1].sets, row[1].adds
        if sets or adds:
            by_columns[tuple(sets), tuple(adds)].append(row)
    for (set_names, added_names), changed in by_columns.items():
        columns = _key_columns(target, [key for key, _ in changed])
        columns += [[change.sets[name] for _, change in changed] for name in set_names]
        columns += [[change.adds[name] for _, change in changed] for name in added_names]
        yield from _update(target, set_names, added_names, dialect).with_columns(columns)


def _increments(target: Table, sums: Sums, dialect: Dialect) -> Iterator[Statement]:
    by_columns: dict[Names, Sums] = {}
    for each in sums:
        by_columns.setdefault(tuple(each[1]), []).append(each)
    rest = default_values(target)
    for names, changed in by_columns.items():
        columns = _key_columns(target, [key for key, _ in changed])
        columns += [[amounts[name] for _, amounts in changed] for name in names]
        others = tuple(name for name in rest if name not in names)
        columns += [[rest[name]] * len(changed) for name in others]
        yield from _increment(target, names, others, dialect).with_columns(columns)


def _key_columns(target: Table, keys: list[Key]) -> list[list[Any]]:
    count = len(target.primary_key)
    return [keys] if count == 1 else [[key[place] for key in keys] for place in range(count)]


@lru_cache(maxsize=256)
def _delete(target: Table, dialect: Dialect) -> Compiled:
    keys = list(target.primary_key)
    rows = given([key.type for key in keys])
    return compiled(delete(target).where(tuple_(*keys).in_(select(*rows.c))), rows, dialect)


@lru_cache(maxsize=256)
def _insert(target: Table, dialect: Dialect) -> Compiled:
    rows = given([each.type for each in target.columns])
    return compiled(insert(target).from_select(list(target.columns), select(*rows.c)), rows, dialect)


@lru_cache(maxsize=256)
def _update(target: Table, sets: Names, adds: Names, dialect: Dialect) -> Compiled:
    keys, changed = list(target.primary_key), [target.c[name] for name in (*sets, *adds)]
    rows = given([each.type for each in (*keys, *changed)])
    found = [key == value for key, value in zip(keys, rows.c, strict=False)]
    values: dict[Any, ColumnElement[Any]] = dict(zip(changed, list(rows.c)[len(keys) :], strict=True))
    for name in adds:
        old, amount = target.c[name], values[target.c[name]]
        values[old] = func.coalesce(old + amount, amount)
    return compiled(update(target).where(*found).values(values), rows, dialect)


@lru_cache(maxsize=256)
def _increment(target: Table, names: Names, others: Names, dialect: Dialect) -> Compiled:
    keys = list(target.primary_key)
    filled = [*keys, *(target.c[name] for name in (*names, *others))]
    rows = given([each.type for each in filled])
    insert_into = postgresql.insert if dialect.name == "postgresql" else sqlite.insert
    # An upsert from a SELECT needs a WHERE on SQLite, which would take ON CONFLICT for a join's condition.
    inserted = insert_into(target).from_select(filled, select(*rows.c).where(true()))
    added = inserted.excluded
    increased = {name: func.coalesce(target.c[name] + added[name], added[name]) for name in names}
    return compiled(inserted.on_conflict_do_update(index_elements=keys, set_=increased), rows, dialect)


@lru_cache(maxsize=1024)
def _with_values(statement: Compiled, count: int) -> str:
    row = f"({', '.join('?' * len(statement.types))})"
    return f"{statement.before}VALUES {', '.join([row] * count)}{statement.after}"


@lru_cache(maxsize=1024)
def _with_arrays(statement: Compiled) -> str:
    arrays = ", ".join(f"${place}::{type_}[]" for place, type_ in enumerate(statement.types, 1))
    names = ", ".join(f"column{place}" for place in range(1, len(statement.types) + 1))
    return f"{statement.before}SELECT * FROM unnest({arrays}) AS row ({names}){statement.after}"  # noqa: S608


def _type_name(type_: TypeEngine[Any], dialect: DefaultDialect) -> str:
    """Return the type to give values in. Text has no length here, since a cast would cut it without a word."""
    impl = type_.dialect_impl(dialect)
    inner = getattr(impl, "impl_instance", impl)
    if isinstance(inner, String) and not isinstance(inner, ENUM):
        return "TEXT"
    return dialect.type_compiler_instance.process(type_)
