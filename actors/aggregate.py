"""Aggregates: the base class that users derive theirs from.

An aggregate is its events, folded: deciding on a command raises events, applying an event changes the state. Pure: no
await, clock, random numbers or I/O in it, so that history always folds to the same state. Not here: how its methods
are found (`methods.py`), which command goes to which class (`registry.py`), loading and storing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from actors.errors import ApplyFailed, BrokenHistory, NoEventMethod
from actors.methods import event_methods
from store.errors import InvalidValue, told
from store.events import Draft, Event
from store.identity import checked_id

SNAPSHOT_EVERY_DEFAULT = 100


class Aggregate:
    """A consistency boundary. Derive from it; methods are found by what their first parameter is annotated with:

        class Order(Aggregate, partition_key_field="customer_id"):
            def place(self, command: CreateOrder, customer: Customer) -> None:    # decides: raises events or refuses
                self.raise_event(OrderCreated(...))

            def on_created(self, event: OrderCreated) -> None:                    # applies: changes plain attributes
                self.total_amount = event.total_amount

    A command method may have further parameters annotated with aggregate classes: those of the same partition key
    whose id is that key, to be read only. Class keywords: `category` (default: the class's name in snake_case),
    `id_field` (default: the category and `_id`) and `partition_key_field` (default: `id_field`), the names of the
    commands' fields that hold the id and the partition key; `snapshot_every`, the number of events from snapshot to
    snapshot (default 100; None: none), which need the state in attributes that are annotated in the class body.
    """

    category: ClassVar[str]
    snapshot_every: ClassVar[int] = 0
    """A snapshot is taken each time that the version passes a multiple of it; 0: never."""
    id_field: ClassVar[str]
    partition_key_field: ClassVar[str]
    _event_methods: ClassVar[dict[type[Event], Callable[..., None]] | None] = None
    _appliers: ClassVar[dict[type, Callable[..., None]]] = {}

    def __init_subclass__(
        cls,
        category: str | None = None,
        id_field: str | None = None,
        partition_key_field: str | None = None,
        snapshot_every: int | None = SNAPSHOT_EVERY_DEFAULT,
        **kwargs: Any,
    ) -> None:
        """Raises InvalidValue for a category that can't begin a stream's name, or a number that counts no events."""
        super().__init_subclass__(**kwargs)
        cls.category = checked_id("category", _snake_case(cls.__name__) if category is None else category)
        if "-" in cls.category:
            raise InvalidValue("category", repr(cls.category), "leave out '-', which ends the category in stream names")
        cls.id_field = id_field or f"{cls.category}_id"
        cls.partition_key_field = partition_key_field or cls.id_field
        if snapshot_every is not None and (type(snapshot_every) is not int or snapshot_every < 0):
            raise InvalidValue("snapshot_every", repr(snapshot_every), "give a number of events, or None for never")
        cls.snapshot_every = snapshot_every or 0
        cls._event_methods, cls._appliers = None, {}

    def __init__(self, aggregate_id: str) -> None:
        self.aggregate_id = aggregate_id
        self.version = 0
        """The version of the last event applied; 0: it does not exist yet."""
        self.partition_key: str | None = aggregate_id if self.partition_key_field == self.id_field else None
        """None until an event has told it."""
        self._uncommitted: list[Event] | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.stream} at version {self.version}>"

    @property
    def stream(self) -> str:
        """The name of its stream."""
        return f"{self.category}-{self.aggregate_id}"

    @property
    def uncommitted_events(self) -> tuple[Event, ...]:
        """The events raised since the last `mark_committed`, in order."""
        return tuple(self._uncommitted) if self._uncommitted else ()

    def mark_committed(self) -> None:
        """Say that the uncommitted events are stored, or in other hands; the state stays."""
        self._uncommitted = None

    def raise_event(self, event: Event) -> None:
        """Apply a new event, as the next version, and keep it as uncommitted.

        Raises NoEventMethod. The event is kept before it is applied: an aggregate that holds uncommitted events after
        an error may be half changed, and is to be thrown away.
        """
        version = self.version + 1
        event.within(Draft(version))
        if self._uncommitted is None:
            self._uncommitted = [event]
        else:
            self._uncommitted.append(event)
        self.apply(event)
        self.version = version

    def apply(self, event: Event) -> None:
        """Change the state by one event, through the method for its class or the nearest base class.

        Leaves the version alone. Raises NoEventMethod.
        """
        try:
            method = self._appliers[type(event)]
        except KeyError:
            method = self._find_applier(type(event))
        method(self, event)
        if self.partition_key is None:
            self.partition_key = getattr(event, self.partition_key_field, None)

    def load_from_history(self, events: Iterable[Event], versions: Iterable[int] | None = None) -> None:
        """Apply stored events, in order, which go on from the present version without a gap.

        `versions` are theirs; whoever has them at hand spares asking each event. Raises BrokenHistory at the first that
        doesn't go on, NoEventMethod, and ApplyFailed where an event method raises anything; the aggregate is of no use
        then.
        """
        apply, version = self.apply, self.version
        of_version = (
            ((event.version, event) for event in events) if versions is None else zip(versions, events, strict=True)
        )
        for found, event in of_version:
            version += 1
            if found != version:
                raise BrokenHistory(self.stream, version, found)
            if self.partition_key is None and not isinstance(envelope := event.envelope, Draft):
                self.partition_key = envelope.partition_key
            try:
                apply(event)
            except NoEventMethod:
                raise
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                raise ApplyFailed(self.stream, version, event.event_type, told(error)) from error
            self.version = version

    @classmethod
    def event_methods(cls) -> dict[type[Event], Callable[..., None]]:
        """Return its event methods by annotated type. Raises InvalidValue where a method is not one for its type."""
        if cls._event_methods is None:
            cls._event_methods = event_methods(cls, Aggregate)
        return cls._event_methods

    @classmethod
    def _find_applier(cls, event_class: type[Event]) -> Callable[..., None]:
        methods = cls.event_methods()
        for base in event_class.__mro__:
            if base in methods:
                return cls._appliers.setdefault(event_class, methods[base])
        raise NoEventMethod(cls.__name__, event_class.__name__)


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()
