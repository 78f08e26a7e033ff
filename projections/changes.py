"""What a batch of events changes in a read model, merged per row before any SQL is made.

However many events touch a row, it costs one row of one statement: this is what makes projections fast. Pure; not
here: the SQL (`read_models.py`), and which event causes what (a `Projection` says it).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Table

if TYPE_CHECKING:
    from projections.issuing import Issued

Key = Any
"""The primary key of a row: its value, or a tuple where the key has several columns."""


Row = Mapping[str, Any]
Rows = Mapping[Table, Mapping[Key, Row]]
"""Rows as they were before, by table and key."""


NOTHING: dict[str, Any] = {}
"""Most rows are changed in one way only; never filled."""


class RowChange:
    """What happens to one row. `insert`: the whole new row; `delete`: the old row goes first."""

    __slots__ = ("adds", "delete", "insert", "sets")

    def __init__(
        self,
        insert: dict[str, Any] | None = None,
        delete: bool = False,
        sets: dict[str, Any] = NOTHING,
        adds: dict[str, Any] = NOTHING,
    ) -> None:
        self.insert, self.delete, self.sets, self.adds = insert, delete, sets, adds


NO_ROWS: Rows = {}


class Changes:
    """The changes that a batch of events makes, in the order of the events, merged per row.

    As in SQL, changing a row that isn't there does nothing, and nothing plus an amount is the amount.
    """

    def __init__(self, rows: Rows = NO_ROWS) -> None:
        """`rows`: those that the projection said it looks at, as far as they are there."""
        self._tables: dict[Table, dict[Key, RowChange]] = {}
        self._sums: dict[Table, dict[Key, dict[str, Any]]] = {}
        self._before = rows
        self.issued: list[Issued] = []
        """The commands that a process manager's methods have returned, as its outbox keeps them."""

    def row(self, table: Table, key: Key) -> Row | None:
        """Return a row as it is after the changes so far; None if there is none.

        Only rows that the projection's `reads` has named, and that one shard feeds; for others it says what this
        batch has made of them.
        """
        change = self._tables.get(table, {}).get(key)
        before = self._before.get(table, {}).get(key)
        if change is None:
            return before
        if change.insert is not None:
            return dict(change.insert)
        if change.delete or before is None:
            return None
        row = {**before, **change.sets}
        _increase(row, change.adds)
        return row

    def insert(self, table: Table, **row: Any) -> None:
        """Add a row; columns left out get their default, or NULL. Raises ValueError if this batch already holds it."""
        rows = self._rows(table)
        key = _key(table, row)
        change = rows.get(key)
        if change is not None and change.insert is not None:
            raise ValueError(f"{table.name} already has a row {key!r}")
        rows[key] = RowChange(_complete(table, row), delete=change is not None and change.delete)

    def set(self, table: Table, key: Key, **values: Any) -> None:
        """Give columns of a row new values. Only for rows that events of one shard feed."""
        rows = self._rows(table)
        change = rows.get(key)
        if change is None:
            rows[key] = RowChange(sets=values)
        elif change.insert is not None:
            change.insert.update(values)
        elif not change.delete:
            change.adds = {column: amount for column, amount in change.adds.items() if column not in values}
            change.sets = change.sets | values

    def add(self, table: Table, key: Key, **amounts: Any) -> None:
        """Increase columns of a row (or decrease them, by negative amounts). Right for rows fed by several shards."""
        rows = self._rows(table)
        change = rows.get(key)
        if change is None:
            rows[key] = RowChange(adds=amounts)
        elif change.insert is not None:
            _increase(change.insert, amounts)
        elif not change.delete:
            _increase(change.sets, {column: amounts.pop(column) for column in change.sets.keys() & amounts.keys()})
            change.adds = {**change.adds}
            _increase(change.adds, amounts)

    def accumulate(self, table: Table, key: Key, **amounts: Any) -> None:
        """Increase columns of a row that is made if it isn't there, its other columns at their defaults.

        For rows that several shards feed: increments commute, so no order between shards matters. Raises ValueError
        if this batch changes rows of this table in another way too.
        """
        if table in self._tables:
            raise ValueError(f"{table.name}: accumulate in all its rows, or in none")
        if table not in self._sums:
            self._sums[table] = {}
            _complete(table, amounts)
        _increase(self._sums[table].setdefault(key, {}), amounts)

    def delete(self, table: Table, key: Key) -> None:
        """Remove a row."""
        rows = self._rows(table)
        change = rows.get(key)
        if change is not None and change.insert is not None and not change.delete:
            del rows[key]
        else:
            rows[key] = RowChange(delete=True)

    def items(self) -> Iterator[tuple[Table, list[tuple[Key, RowChange]]]]:
        """Yield each changed table with its rows in key order, so that two writers lock rows in one order."""
        for table, rows in self._tables.items():
            yield table, sorted(rows.items(), key=itemgetter(0))

    def sums(self) -> Iterator[tuple[Table, list[tuple[Key, dict[str, Any]]]]]:
        """Yield each accumulated table with its rows' amounts, in key order."""
        for table, rows in self._sums.items():
            yield table, sorted(rows.items(), key=itemgetter(0))

    def _rows(self, table: Table) -> dict[Key, RowChange]:
        rows = self._tables.get(table)
        if rows is None:
            if table in self._sums:
                raise ValueError(f"{table.name}: accumulate in all its rows, or in none")
            rows = self._tables[table] = {}
        return rows


def _increase(row: dict[str, Any], amounts: Mapping[str, Any]) -> None:
    for column, amount in amounts.items():
        row[column] = (row.get(column) or 0) + amount


def _key(table: Table, row: dict[str, Any]) -> Key:
    names = _shape(table).key
    try:
        return row[names[0]] if len(names) == 1 else tuple([row[name] for name in names])
    except KeyError as error:
        raise ValueError(f"a row of {table.name} needs its key column {error.args[0]}") from error


def _complete(table: Table, row: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _shape(table).defaults
    whole = {**defaults, **row}
    if len(whole) > len(defaults):
        unknown = row.keys() - defaults.keys()
        raise ValueError(f"{table.name} has no column {', '.join(sorted(unknown))}")
    return whole


def default_values(table: Table) -> dict[str, Any]:
    """Return what a row's columns but its key hold where nothing is said of them."""
    shape = _shape(table)
    return {name: value for name, value in shape.defaults.items() if name not in shape.key}


class _Shape(NamedTuple):
    """What a table's rows look like, looked at once: a projection's tables don't change, and SQLAlchemy takes long."""

    key: tuple[str, ...]
    defaults: dict[str, Any]
    """Of all columns, in their order."""


@lru_cache(maxsize=256)
def _shape(table: Table) -> _Shape:
    key = tuple(column.name for column in table.primary_key)
    return _Shape(key, {column.name: _default(column) for column in table.columns})


def _default(column: Any) -> Any:
    return column.default.arg if column.default is not None and column.default.is_scalar else None
