"""What is remembered: events, and the stores that keep them.

The lowest package: it imports none of the others, and no Ray.
"""

from store.codec import EventRegistry
from store.errors import (
    ConcurrencyError,
    EventrayError,
    InvalidValue,
    NewerSchema,
    NotAStore,
    OtherSchema,
    OutcomeUnknown,
    ShardCountMismatch,
    StoreDamaged,
    StoreHeld,
    StoreRejected,
    StoreUnavailable,
    Superseded,
    UndecodableEvent,
    UnknownEventType,
)
from store.events import Event
from store.opening import open_store
from store.ports import EventStore
from store.records import EventRecord
from store.upcasting import Upcaster

__all__ = [
    "ConcurrencyError",
    "Event",
    "EventRecord",
    "EventRegistry",
    "EventStore",
    "EventrayError",
    "InvalidValue",
    "NewerSchema",
    "NotAStore",
    "OtherSchema",
    "OutcomeUnknown",
    "ShardCountMismatch",
    "StoreDamaged",
    "StoreHeld",
    "StoreRejected",
    "StoreUnavailable",
    "Superseded",
    "UndecodableEvent",
    "UnknownEventType",
    "Upcaster",
    "open_store",
]
