"""The peer that folding is held against: `eventsourcing`, with the same content in the same kind of database.

Not here: its commands (`eventsourcing_shop.py`), its projections (`peer_projection.py`).
"""

from __future__ import annotations

import os
import time
from typing import Any

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from benchmarks.places import Place


class PeerCustomer(Aggregate):
    """A customer as `eventsourcing` has aggregates."""

    @event("CustomerCreated")
    def __init__(self, customer_id: str, name: str, email: str, type: str) -> None:  # noqa: A002
        self.customer_id, self.name, self.email, self.type = customer_id, name, email, type

    @event("CustomerEmailChanged")
    def change_email(self, customer_id: str, old_email: str, new_email: str) -> None:
        """Change it."""
        self.email = new_email


class Snapshotting(Application[Any]):
    """An application that takes snapshots, when asked."""

    is_snapshotting_enabled = True


class Peer:
    """`eventsourcing` with the same content: a customer with as many changes of e-mail address.

    Its cache of aggregates stays off, and so do its snapshots unless asked for: what they serve need not be folded.
    """

    def __init__(self, application: Any, ids: list[Any], events_each: int) -> None:
        self._application, self._ids, self._events_each = application, ids, events_each

    @classmethod
    async def filled(
        cls, place: Place, name: str, streams: int, events_each: int, application_class: type[Any] = Application
    ) -> Peer:
        """Make it, with its own tables in the same place."""
        application: Any = application_class(env=await peer_settings(place, name))
        ids = []
        for number in range(streams):
            customer_id = f"c-{number}"
            customer = PeerCustomer(customer_id, f"Customer {number}", f"{customer_id}.1@example.com", "Regular")
            for version in range(1, events_each):
                old, new = f"{customer_id}.{version}@example.com", f"{customer_id}.{version + 1}@example.com"
                customer.change_email(customer_id, old, new)
            application.save(customer)
            ids.append(customer.id)
        return cls(application, ids, events_each)

    def timed_gets(self) -> float:
        """Get every aggregate, one by one; return the seconds."""
        started_s = time.perf_counter()
        for aggregate_id in self._ids:
            assert self._application.repository.get(aggregate_id).version == self._events_each
        return time.perf_counter() - started_s

    def timed_commands(self, tag: str) -> float:
        """Get every aggregate, change and save it, one by one; return the seconds."""
        started_s = time.perf_counter()
        for number, aggregate_id in enumerate(self._ids):
            customer: PeerCustomer = self._application.repository.get(aggregate_id)
            customer.change_email(customer.customer_id, customer.email, f"{tag}-{number}@example.com")
            self._application.save(customer)
        took_s = time.perf_counter() - started_s
        self._events_each += 1
        return took_s

    def take_snapshots(self) -> None:
        """Take one of every aggregate as it is."""
        for aggregate_id in self._ids:
            self._application.take_snapshot(aggregate_id)

    def close(self) -> None:
        """Let go of its connections."""
        self._application.close()


async def peer_settings(place: Place, name: str) -> dict[str, str]:
    """Return its settings for a new database (a new schema) of this name.

    Those of its own speed runs: on SQLite its defaults (WAL, synchronous=FULL), on PostgreSQL one connection, and
    inserts by a function in the database, without a lock of the table.
    """
    if place.server_url is None:
        return {
            "PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "SQLITE_DBNAME": os.fspath(place.directory / f"{name}.db"),
        }
    await place.new_url(name)
    host = place.server_url.partition("host=")[2].partition("&")[0]
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": host,
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "",
        "POSTGRES_SCHEMA": name,
        "POSTGRES_ENABLE_DB_FUNCTIONS": "y",
        "POSTGRES_POOL_SIZE": "1",
        "POSTGRES_MAX_OVERFLOW": "0",
    }
