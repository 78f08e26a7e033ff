"""What makes an application the same as another: its names, versions and schemas, as two processes can compare them.

What its methods do is not part of it: that is decided where the hosts run. Not here: who compares (`runtime.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from sqlalchemy import Table

from cluster.application import Application
from store.errors import EventrayError
from store.event_schemas import digest_of

SHOWN_MAX = 3
MISSING = "none"

Signature = Mapping[str, str]
"""What an application's parts are like, by part: `event OrderCreated` is `version 1, schema 0d83a1b2c3d4`."""


class OtherApplication(EventrayError):
    """The runtime's processes have another application than this one: {0}. Give both the same code.

    To change a runtime's code, stop it with `eventray down` and start it with the new one.
    """

    def __init__(self, differences: str) -> None:
        super().__init__(differences)


def signature_of(application: Application) -> dict[str, str]:
    """Return what the application's parts are like."""
    registry = application.registry
    parts = {
        f"aggregate {aggregate.category}": f"id {aggregate.id_field}, partition key {aggregate.partition_key_field}"
        for aggregate in application.aggregates
    }
    for name, binding in registry.bindings.items():
        parts[f"command {name}"] = f"for {binding.aggregate_class.category}, schema {digest_of(binding.command_class)}"
    for name, event_class in registry.events.types.items():
        parts[f"event {name}"] = f"version {event_class.schema_version}, schema {digest_of(event_class)}"
    for projection in application.projections:
        parts[f"projection {projection.name}"] = f"version {projection.version}, tables {_columns(projection.tables)}"
    for manager in application.process_managers:
        tables = _columns(manager.tables)
        parts[f"process manager {manager.name}"] = f"version {manager.version}, starts {manager.start}, tables {tables}"
    for handler in application.handlers:
        parts[f"handler {handler.name}"] = f"starts {handler.start}"
    return parts


def check_same(ours: Signature, theirs: Signature) -> None:
    """Raise OtherApplication, naming what differs, unless both are the same."""
    differing = sorted(part for part in ours.keys() | theirs.keys() if ours.get(part) != theirs.get(part))
    if not differing:
        return
    shown = [f"{part}: {ours.get(part, MISSING)} here, {theirs.get(part, MISSING)} there" for part in differing]
    more = [f"and {len(shown) - SHOWN_MAX} more"] if len(shown) > SHOWN_MAX else []
    raise OtherApplication("; ".join(shown[:SHOWN_MAX] + more))


def _columns(tables: Iterable[Table]) -> str:
    words = [f"{table.name}.{column.name} {column.type!r}" for table in tables for column in table.columns]
    return hashlib.blake2b("\n".join(words).encode(), digest_size=6).hexdigest()
