"""From records to changes: only events of the types that a projection handles are decoded.

Pure. Not here: where records come from and where changes go (`subscriber.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

from projections.changes import Changes
from projections.errors import ProjectionFailed
from projections.projection import EventMethod, Projection
from store.codec import EventRegistry
from store.errors import EventrayError
from store.events import Event
from store.records import EventRecord


class Folder:
    """One projection's methods, by stored event type."""

    def __init__(self, projection: type[Projection], events: EventRegistry) -> None:
        """Raises InvalidValue where a method of the projection is none for its type."""
        methods = projection.event_methods()
        self._projection = projection()
        self._events = EventRegistry({*events.types.values(), *(kind for kind in methods if not kind.__subclasses__())})
        self._methods: dict[str, EventMethod] = {}
        for name, event_class in self._events.types.items():
            method = next((methods[base] for base in event_class.__mro__ if base in methods), None)
            if method is not None:
                self._methods[name] = method

    def fold(self, records: Iterable[EventRecord]) -> Changes:
        """Return what the records change, in their order. Raises ProjectionFailed at the first that can't be applied:
        data that can't be decoded, a schema version that isn't known, or an error in the projection's method.
        """
        methods, changes = self._methods, Changes()
        wanted = [record for record in records if record.type in methods]
        for record, event in zip(wanted, self._decoded(wanted), strict=True):
            try:
                methods[record.type](self._projection, event, changes)
            except Exception as error:
                raise self._failed(record, error) from error
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

    def _failed(self, record: EventRecord, error: Exception) -> ProjectionFailed:
        reason = f"{type(error).__name__}: {error}"
        return ProjectionFailed(self._projection.name, record.stream, record.version, record.type, reason)
