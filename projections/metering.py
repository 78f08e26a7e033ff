"""The port through which a projection host is measured: what is put around its store and its sinks.

Not here: what is counted (`cluster/metrics/`).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from projections.sink import Sink
from store.ports import EventStore
from store.records import EventRecord


class FollowerMeter(Protocol):
    """Measures one projection host. It belongs to its event loop, must not block and must not raise."""

    def around(self, store: EventStore) -> EventStore:
        """Return a store that hands all calls on to this one, and measures them."""
        ...

    def around_sink(self, sink: Sink) -> Sink:
        """Return a sink that hands all calls on to this one, and measures them."""
        ...

    def around_call(self, handler: str, record: EventRecord) -> AbstractContextManager[None]:
        """Return what is to be entered while a handler works on an event; it hears of what the handler raises."""
        ...

    def pushed(self, events: int) -> None:
        """Hear of a push of so many events."""
        ...


class Unmetered:
    """Measures nothing."""

    def around(self, store: EventStore) -> EventStore:
        return store

    def around_sink(self, sink: Sink) -> Sink:
        return sink

    def around_call(self, handler: str, record: EventRecord) -> AbstractContextManager[None]:
        return nullcontext()

    def pushed(self, events: int) -> None:
        return
