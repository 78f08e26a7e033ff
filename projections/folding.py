"""From records to changes: only events of the types that a projection handles are decoded.

Pure. Not here: where records come from and where changes go (`projection_sink.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlalchemy import Table

from projections.changes import NO_ROWS, Changes, Key, Rows
from projections.errors import ProjectionFailed
from projections.event_methods import by_stored_name
from projections.issuing import Issuing
from projections.projection import Projection
from store.codec import EventRegistry
from store.errors import EventrayError, told
from store.events import Event
from store.records import EventRecord


class Decoded(NamedTuple):
    """Records of types that a projection handles, and their events."""

    records: Sequence[EventRecord]
    events: Sequence[Event]


class Folder:
    """One projection's methods, by stored event type."""

    def __init__(self, projection: type[Projection], events: EventRegistry, issuing: Issuing | None = None) -> None:
        """`issuing`: for a process manager. Raises InvalidValue where a method is none for its type."""
        methods = projection.event_methods()
        self._issuing = issuing
        self._projection = projection()
        self._events, self._methods = by_stored_name(events, methods)
        self.reads_rows = type(self._projection).reads is not Projection.reads
        """Whether the projection looks at rows."""

    def decode(self, records: Iterable[EventRecord]) -> Decoded:
        """Return the records that are handled, with their events, in their order.

        Raises ProjectionFailed at the first whose data can't be decoded, or whose schema version isn't known.
        """
        methods = self._methods
        wanted = [record for record in records if record.type in methods]
        return Decoded(wanted, self._decoded(wanted))

    def reads(self, decoded: Decoded) -> Mapping[Table, set[Key]]:
        """Return the keys of the rows that will be looked at, by table. Raises ProjectionFailed."""
        keys: dict[Table, set[Key]] = {}
        for record, event in zip(*decoded, strict=True):
            try:
                for table, key in self._projection.reads(event):
                    keys.setdefault(table, set()).add(key)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._failed(record, error) from error
        return keys

    def fold(self, decoded: Decoded, rows: Rows = NO_ROWS) -> Changes:
        """Return what the events change, in their order; `rows`: those that are looked at, as they are before.

        Raises ProjectionFailed at the first that a method fails at, or of the first of those that it gets at once.
        """
        records, events = decoded
        methods, changes = [self._methods[record.type] for record in records], Changes(rows)
        place, size = 0, len(records)
        while place < size:
            method, first = methods[place], place
            place += 1
            try:
                if method.takes_many:
                    while place < size and methods[place] is method:
                        place += 1
                    returned = method.function(self._projection, events[first:place], changes)
                else:
                    returned = method.function(self._projection, events[first], changes)
                if self._issuing is not None:
                    changes.issued += self._issuing.issue(events[first:place], returned, pairs=method.takes_many)
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise self._failed(records[first], error) from error
        return changes

    def _decoded(self, records: list[EventRecord]) -> list[Event]:
        try:
            return self._events.decode_many(records) if records else []
        except EventrayError:
            for record in records:
                try:
                    self._events.decode(record)
                except EventrayError as error:
                    raise self._failed(record, error) from error
            raise

    def _failed(self, record: EventRecord, error: BaseException) -> ProjectionFailed:
        reason = told(error)
        return ProjectionFailed(self._projection.name, record.stream, record.version, record.type, reason)
