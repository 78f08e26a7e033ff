"""The port through which a host is measured: what is put around its store, and who hears of its calls.

Not here: what is counted (`cluster/metrics/`).
"""

from __future__ import annotations

from typing import Protocol

from actors.mail import OpenCall
from actors.wire import Call
from store.ports import EventStore


class HostMeter(Protocol):
    """Measures one host. It belongs to the host's event loop, must not block and must not raise."""

    def around(self, store: EventStore) -> EventStore:
        """Return a store that hands all calls on to this one, and measures them."""
        ...

    def answered(self, request: Call, call: OpenCall) -> None:
        """Hear of a call whose answers, all there and packed, are about to leave."""
        ...


class Unmetered:
    """Measures nothing."""

    def around(self, store: EventStore) -> EventStore:
        return store

    def answered(self, request: Call, call: OpenCall) -> None:
        return
