"""The peer that folding is held against: `eventsourcing`, with the same content in the same kind of database."""

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


class Peer:
    """`eventsourcing` with the same content: a customer with as many changes of e-mail address.

    With its own defaults: SQLite in WAL mode, a pool of connections on PostgreSQL. Its cache of aggregates and its
    snapshots stay off, as ours do: they fold nothing.
    """

    def __init__(self, application: Any, ids: list[Any], events_each: int) -> None:
        self._application, self._ids, self._events_each = application, ids, events_each

    @classmethod
    async def filled(cls, place: Place, name: str, streams: int, events_each: int) -> Peer:
        """Make it, with its own tables in the same place."""
        application: Any = Application(env=await _peer_settings(place, name))
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

    def close(self) -> None:
        """Let go of its connections."""
        self._application.close()


async def _peer_settings(place: Place, name: str) -> dict[str, str]:
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
    }
