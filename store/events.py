"""Typed events: the base class that users derive theirs from, and its envelope.

An event's own fields are its payload; `id`, `occurred_at`, `event_type` and `version` come from the envelope, which
is the stored record once there is one and is decoded only when asked for. Not here: encoding (`codec.py`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from store.errors import InvalidValue
from store.identity import uuid7
from store.metadata import Metadata
from store.records import EventRecord, moment
from store.upcasting import Upcaster


class Draft:
    """The envelope of an event that is not stored yet: drawn when first asked for, so that deciding stays pure."""

    __slots__ = ("event_id", "occurred_at", "version")

    def __init__(self, version: int = 0) -> None:
        self.version = version
        self.event_id: uuid.UUID | None = None
        self.occurred_at: datetime | None = None


Envelope = EventRecord | Draft | tuple[Sequence[EventRecord], int]
"""What an event keeps of it: the last form is a record that nobody has asked for yet, by its place among others."""


class Event(BaseModel):
    """A fact. Derive from it, with the stored name and the version of its schema:

        class OrderCreated(Event, event_type="OrderCreated", schema_version=1):
            order_id: str

    The stored name defaults to the class's name at the time of writing; give it once the class is renamed or moved.
    A change of the fields that stored rows don't fit takes a higher version, and an upcaster from the one before:

        def _in_euros(data: Json) -> Json:
            return {**data, "currency": "EUR"}

        class OrderCreated(Event, schema_version=2, upcasters=[Upcaster(1, 2, _in_euros)]):
            order_id: str
            currency: str

    Events are immutable values: two are equal when type and own fields are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    __slots__ = ("_envelope",)

    event_type: ClassVar[str] = "Event"
    """The stored name."""
    schema_version: ClassVar[int] = 1
    upcasters: ClassVar[tuple[Upcaster, ...]] = ()
    """The steps from older schema versions to this one, each version to the next; a registry checks them."""

    def __init_subclass__(
        cls,
        event_type: str | None = None,
        schema_version: int = 1,
        upcasters: Iterable[Upcaster] = (),
        **kwargs: Any,
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.event_type = event_type or cls.__name__
        cls.schema_version = schema_version
        cls.upcasters = tuple(upcasters)

    @property
    def envelope(self) -> EventRecord | Draft:
        """The stored record, or the draft of an event that is not stored yet."""
        try:
            kept: Envelope = self._envelope  # type: ignore[attr-defined]
        except AttributeError:
            kept = Draft()
            attach(self, kept)
        if isinstance(kept, EventRecord | Draft):
            return kept
        records, place = kept
        envelope = records[place]
        attach(self, envelope)
        return envelope

    def within(self, envelope: EventRecord | Draft) -> Self:
        """Give this event its envelope, in place; returns the event."""
        attach(self, envelope)
        return self

    @property
    def id(self) -> uuid.UUID:
        """The event's id, unique in the store."""
        envelope = self.envelope
        if isinstance(envelope, EventRecord):
            return uuid.UUID(bytes=envelope.event_id)
        if envelope.event_id is None:
            envelope.event_id = uuid7()
        return envelope.event_id

    @property
    def occurred_at(self) -> datetime:
        """When it happened in the world (UTC): what the command said, else when it was recorded."""
        envelope = self.envelope
        if isinstance(envelope, EventRecord):
            if '"occurred_at"' in envelope.metadata:
                return Metadata.of(envelope).occurred_at
            return moment(envelope.recorded_at)
        if envelope.occurred_at is None:
            envelope.occurred_at = datetime.now(UTC)
        return envelope.occurred_at

    @property
    def version(self) -> int:
        """The event's place in its stream, 1-based; 0 while it has none."""
        return self.envelope.version

    @property
    def metadata(self) -> Metadata:
        """What is known about it besides its fields, decoded at each access; keep it in a variable to read much of it.

        Raises InvalidValue for an event that is not stored yet, UndecodableEvent if the row's metadata are damaged.
        """
        envelope = self.envelope
        if not isinstance(envelope, EventRecord):
            raise InvalidValue("metadata", self.event_type, "the event is not stored yet: ask a stored one")
        return Metadata.of(envelope)


attach: Callable[[Event, Envelope], None] = vars(Event)["_envelope"].__set__
"""Give an event its envelope, in place: the slot itself, since a frozen model refuses the usual way."""
