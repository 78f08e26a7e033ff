"""Older rows brought up to date: upcasters turn the JSON of one schema version into that of the next.

An upcaster is a pure function of one dict, written beside the event class and named in its class line; a chain of them
leads from any stored version to the class's own. Not here: parsing rows (`codec.py`), and noticing that a class has
changed (`event_schemas.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from store.errors import InvalidValue

Json = dict[str, Any]
"""An event's own fields as JSON gives them."""


class Upcaster(NamedTuple):
    """One step, from a schema version to the next one."""

    from_version: int
    to_version: int
    """from_version + 1."""
    function: Callable[[Json], Json]
    """Returns the later version's fields; the dict that it gets is its own, to be changed or copied."""


def chain_of(event_type: str, schema_version: int, upcasters: Iterable[Upcaster]) -> tuple[Upcaster, ...]:
    """Return the steps 1 -> 2, 2 -> 3, ... up to the class's own version, in order.

    Raises InvalidValue, naming event type and step, for a step that is missing, there twice, leads back (a loop),
    leaps, or leads beyond the class's version.
    """
    steps: dict[int, Upcaster] = {}
    for upcaster in upcasters:
        step, remedy = f"{upcaster.from_version} -> {upcaster.to_version}", None
        if upcaster.to_version <= upcaster.from_version:
            remedy = "it leads back, so the steps are a loop: lead from each version to the next"
        elif upcaster.to_version > schema_version:
            remedy = f"it leads beyond the class's version {schema_version}: raise schema_version, or take it out"
        elif upcaster.to_version > upcaster.from_version + 1:
            remedy = "it leaps: lead from each version to the next"
        elif upcaster.from_version < 1:
            remedy = "versions count from 1"
        elif upcaster.from_version in steps:
            remedy = "two upcasters claim this step: leave one"
        if remedy is not None:
            raise InvalidValue(f"{event_type}.upcasters", step, remedy)
        steps[upcaster.from_version] = upcaster
    for version in range(1, schema_version):
        if version not in steps:
            remedy = "this step is missing: add its upcaster, so that rows of the older version can be read"
            raise InvalidValue(f"{event_type}.upcasters", f"{version} -> {version + 1}", remedy)
    return tuple(steps[version] for version in range(1, schema_version))
