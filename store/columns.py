"""Stored events as a database hands them over fastest: column by column. A row is made where somebody asks for one.

Folding looks at five of an event's thirteen columns; the others stay as they came until an event is asked for its id,
its time or its metadata. Not here: how columns come out of a database (`sqlite_rows.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import repeat
from operator import itemgetter
from typing import Any, overload

from store.records import EventRecord

Column = Sequence[Any] | Callable[[], Sequence[Any]]
"""The values, one an event; or what makes them, called when they are first asked for."""

PLACES = {name: place for place, name in enumerate(EventRecord._fields)}
_RECORD = partial(tuple.__new__, EventRecord)


class EventColumns(Sequence[EventRecord]):
    """Stored events, in order: a sequence of records as a list is one, whose columns may be had alone."""

    __slots__ = ("_columns", "_records", "_size")

    def __init__(self, columns: Iterable[Column], size: int) -> None:
        """`columns` are in the order of `EventRecord`, each of `size` values."""
        self._columns = list(columns)
        self._size = size
        self._records: list[EventRecord] | None = None

    def column(self, name: str) -> Sequence[Any]:
        """Return one column."""
        return self._column(PLACES[name])

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, index: int) -> EventRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[EventRecord]: ...
    def __getitem__(self, index: int | slice) -> EventRecord | list[EventRecord]:
        return self._rows()[index]

    def __iter__(self) -> Iterator[EventRecord]:
        return iter(self._rows())

    def __eq__(self, other: object) -> bool:
        return self._rows() == list(other) if isinstance(other, Sequence) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # as a list has none

    def __repr__(self) -> str:
        return repr(self._rows())

    def _column(self, place: int) -> Sequence[Any]:
        column = self._columns[place]
        if callable(column):
            column = self._columns[place] = column()
        return column

    def _rows(self) -> list[EventRecord]:
        if self._records is None:
            self._records = records_of(zip(*map(self._column, range(len(self._columns))), strict=True))
        return self._records


def records_of(rows: Iterable[tuple[Any, ...]]) -> list[EventRecord]:
    """Make records of rows that hold all of their fields, unchecked."""
    return list(map(_RECORD, rows))


def column(records: Sequence[EventRecord], name: str) -> Sequence[Any]:
    """Return one column of some records, whoever keeps them."""
    if isinstance(records, EventColumns):
        return records.column(name)
    return list(map(itemgetter(PLACES[name]), records))


def envelopes(records: Sequence[EventRecord]) -> Iterable[EventRecord | tuple[EventColumns, int]]:
    """Return each record, or where it is to be had."""
    return zip(repeat(records), range(len(records))) if isinstance(records, EventColumns) else records
