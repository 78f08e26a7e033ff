"""Rows as one event after the other makes them, in plain dicts: what a read model should hold.

Says by itself what `Changes` and its SQL say: no merging of a batch, no statements, no database. Not here: comparing
(`auditing.py`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Table

from projections.changes import Changes, Key, Row
from projections.errors import ProjectionFailed
from projections.event_methods import by_stored_name
from projections.projection import Projection
from store.codec import EventRegistry
from store.errors import told
from store.records import EventRecord


class PlainRows(Changes):
    """A projection's rows, changed at once by each call."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Table, dict[Key, dict[str, Any]]] = {}
        self.gone: dict[Table, set[Key]] = {}
        """Keys of rows that were deleted."""
        self.amounts: dict[Table, dict[Key, dict[str, Any]]] = {}
        """What was accumulated: with what other shards have, that is the row."""

    @property
    def count(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows.values()))

    def row(self, table: Table, key: Key) -> Row | None:
        found = self.rows.get(table, {}).get(key)
        return None if found is None else dict(found)

    def insert(self, table: Table, **row: Any) -> None:
        _check_columns(table, row)
        whole = {column.name: row.get(column.name, _default_of(column)) for column in table.columns}
        key = key_of(table, whole)
        if key in self.rows.setdefault(table, {}):
            raise ValueError(f"{table.name} already has a row {key!r}")
        self.rows[table][key] = whole
        self.gone.get(table, set()).discard(key)

    def set(self, table: Table, key: Key, **values: Any) -> None:
        _check_columns(table, values)
        if (found := self.rows.get(table, {}).get(key)) is not None:
            found.update(values)

    def add(self, table: Table, key: Key, **amounts: Any) -> None:
        _check_columns(table, amounts)
        if (found := self.rows.get(table, {}).get(key)) is not None:
            add_to(found, amounts)

    def accumulate(self, table: Table, key: Key, **amounts: Any) -> None:
        _check_columns(table, amounts)
        add_to(self.amounts.setdefault(table, {}).setdefault(key, {}), amounts)

    def delete(self, table: Table, key: Key) -> None:
        if self.rows.get(table, {}).pop(key, None) is not None:
            self.gone.setdefault(table, set()).add(key)


class PlainFold:
    """A projection's methods, which get one event after the other."""

    def __init__(self, projection: type[Projection], events: EventRegistry) -> None:
        """Raises InvalidValue where a method of the projection is none for its type."""
        self.projection = projection
        self._instance = projection()
        self._events, self._methods = by_stored_name(events, projection.event_methods())

    def apply(self, record: EventRecord, rows: PlainRows) -> None:
        """Let one event change the rows. Raises ProjectionFailed, whatever it is that can't be done with the event."""
        method = self._methods.get(record.type)
        if method is None:
            return
        try:
            event = self._events.decode(record)
            returned = method.function(self._instance, [event] if method.takes_many else event, rows)
            if isinstance(returned, Iterator):  # what it yields is none of our business, only that it runs to its end
                deque(returned, maxlen=0)
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            name = self.projection.name
            raise ProjectionFailed(name, record.stream, record.version, record.type, told(error)) from error


def key_of(table: Table, row: Row) -> Key:
    """Return a row's primary key, as `Changes` has it: a tuple where it has several columns."""
    values = tuple(row[column.name] for column in table.primary_key)
    return values[0] if len(values) == 1 else values


def add_to(row: dict[str, Any], amounts: Row) -> None:
    """Add amounts to a row, in place; nothing plus an amount is the amount."""
    for column, amount in amounts.items():
        before = row.get(column)
        row[column] = amount if before is None else before + amount


def accumulated_row(table: Table, key: Key, amounts: Row) -> dict[str, Any]:
    """Return the whole row that amounts of all shards make."""
    names = [column.name for column in table.primary_key]
    keys = dict(zip(names, key if len(names) > 1 else (key,), strict=True))
    rest = {column.name: _default_of(column) for column in table.columns if column.name not in keys}
    return {**rest, **keys, **amounts}


def _check_columns(table: Table, row: Row) -> None:
    for name in row:
        if name not in table.columns:
            raise ValueError(f"{table.name} has no column {name}")


def _default_of(column: Any) -> Any:
    return column.default.arg if column.default is not None and column.default.is_scalar else None
