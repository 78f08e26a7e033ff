"""What each event of an aggregate changed in its state: the fold, told step by step.

Not here: the state itself (`repository.py`), the events as they are stored (`store/`).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from actors.aggregate import Aggregate
from actors.repository import check_moment, pages
from actors.snapshots import OWN_ATTRIBUTES
from store.codec import EventRegistry
from store.ports import EventReader
from store.records import micros


class FieldChange(NamedTuple):
    """One value of the state that an event set, changed or took away."""

    field: str
    """The attribute; within a dict its keys follow, with dots between."""
    was_there: bool
    before: Any
    """None where it was not there."""
    is_there: bool
    after: Any
    """None where it is not there any more."""


class EventChanges(NamedTuple):
    """What one event of a stream changed."""

    version: int
    event_type: str
    occurred_at: datetime
    changes: list[FieldChange]
    """In the order of the state's attributes; none where the event left the state as it was."""


async def changes_of(
    store: EventReader,
    events: EventRegistry,
    aggregate_class: type[Aggregate],
    aggregate_id: str,
    version: int | None = None,
    as_of: datetime | None = None,
) -> list[EventChanges]:
    """Return what each event changed, from the first one up to `version`, or to the last recorded until `as_of`.

    All events are folded, without a snapshot; attributes whose names begin with _ are left out. Raises what
    `load_aggregate` does.
    """
    check_moment(aggregate_class, aggregate_id, version, as_of)
    aggregate = aggregate_class(aggregate_id)
    told: list[EventChanges] = []
    before = _state_of(aggregate)
    async for history in pages(store, aggregate.stream, 0, version, None if as_of is None else micros(as_of)):
        for event in events.decode_many(history):
            aggregate.load_from_history([event])
            after = _state_of(aggregate)
            told.append(
                EventChanges(event.version, event.event_type, event.occurred_at, list(_differences(before, after)))
            )
            before = after
    return told


def _state_of(aggregate: Aggregate) -> dict[str, Any]:
    """A copy, since event methods may change a list or a dict in its place."""
    state = vars(aggregate).items()
    return {name: copy.deepcopy(v) for name, v in state if name not in OWN_ATTRIBUTES and not name.startswith("_")}


def _differences(before: Mapping[Any, Any], after: Mapping[Any, Any], place: str = "") -> Iterator[FieldChange]:
    for key in {**before, **after}:
        field = f"{place}{key}"
        old, new = before.get(key), after.get(key)
        if key in before and key in after:
            if isinstance(old, dict) and isinstance(new, dict):
                yield from _differences(old, new, f"{field}.")
                continue
            if type(old) is type(new) and old == new:
                continue
        yield FieldChange(field, key in before, old, key in after, new)
