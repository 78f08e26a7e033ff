"""The peer that rebuilding is held against: `eventsourcing`'s projection runner, with the same history and table.

Its view is an SQLite file of its own, as a read model of ours is; each event is one transaction, which is how its
runner works. Its log is in memory, since it has no subscriptions on SQLite: that costs it nothing to read. Not here:
our side (`rebuild.py`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from decimal import Decimal
from functools import singledispatchmethod
from pathlib import Path
from typing import Any, ClassVar

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event
from eventsourcing.persistence import Tracking
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteDatastore, SQLiteTrackingRecorder

from actors.customers import CustomerCreated, OrderCreated
from store.events import Event

SAVED_TOGETHER = 1_000


class PeerCustomer(Aggregate):
    """A customer as `eventsourcing` has aggregates."""

    @event("Created")
    def __init__(self, customer_id: str, name: str, email: str) -> None:
        self.customer_id, self.name, self.email = customer_id, name, email


class PeerOrder(Aggregate):
    """An order."""

    @event("Created")
    def __init__(self, order_id: str, customer_id: str, total_amount: Decimal) -> None:
        self.order_id, self.customer_id, self.total_amount = order_id, customer_id, total_amount


class Shop(Application[Any]):
    """The application whose log is projected. All of them in this process have one log."""

    kept: ClassVar[dict[str, Any]] = {}

    def construct_recorder(self) -> Any:
        return self.kept.setdefault("log", super().construct_recorder())


class CustomersView(SQLiteTrackingRecorder):
    """The table of `CustomerProjection`, changed in the transaction that notes what was taken."""

    def __init__(self, datastore: SQLiteDatastore, **options: Any) -> None:
        super().__init__(datastore, **options)
        self.create_table_statements.append(
            "CREATE TABLE IF NOT EXISTS customers (id TEXT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL,"
            " type TEXT NOT NULL, status TEXT NOT NULL, created_at TEXT NOT NULL, last_promoted_at TEXT,"
            " total_orders INTEGER NOT NULL, total_spent INTEGER NOT NULL)"
        )

    def change(self, tracking: Tracking, statement: str, values: tuple[Any, ...]) -> None:
        """Run one statement, and note that the event was taken."""
        with self.datastore.transaction(commit=True) as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(statement, values)


class CustomersProjection(Projection[CustomersView]):
    """Who the customers are and what they have ordered."""

    name = "customers"

    @singledispatchmethod
    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        raise TypeError(f"an event of another type: {domain_event!r}")

    @process_event.register(getattr(PeerCustomer, "Created"))  # noqa: B009 - made by the decorator
    def _created(self, domain_event: Any, tracking: Tracking) -> None:
        values = (domain_event.customer_id, domain_event.name, domain_event.email, domain_event.timestamp.isoformat())
        row = "INSERT INTO customers VALUES (?, ?, ?, 'Regular', 'Active', ?, NULL, 0, 0)"
        self.view.change(tracking, row, values)

    @process_event.register(getattr(PeerOrder, "Created"))  # noqa: B009
    def _ordered(self, domain_event: Any, tracking: Tracking) -> None:
        more = "UPDATE customers SET total_orders = total_orders + 1, total_spent = total_spent + ? WHERE id = ?"
        self.view.change(tracking, more, (int(domain_event.total_amount * 10_000), domain_event.customer_id))


class Peer:
    """A log of `eventsourcing`'s in a directory."""

    def __init__(self, directory: Path, history: Iterable[Event]) -> None:
        """Write the history, each event the first of an aggregate of its own."""
        self._directory = directory
        self.events = 0
        application = Shop(env=self._environment("unused"))
        aggregates: list[Aggregate] = []
        for each in history:
            if isinstance(each, CustomerCreated):
                aggregates.append(PeerCustomer(each.customer_id, each.name, each.email))
            elif isinstance(each, OrderCreated):
                aggregates.append(PeerOrder(each.order_id, each.customer_id, each.total_amount))
            if len(aggregates) == SAVED_TOGETHER:
                self._save(application, aggregates)
        self._save(application, aggregates)
        application.close()

    def projected(self, name: str) -> float:
        """Project the whole log into a new view; return the events in a second."""
        began_s = time.perf_counter()
        runner = ProjectionRunner(
            application_class=Shop,
            projection_class=CustomersProjection,
            view_class=CustomersView,
            env=self._environment(name),
        )
        with runner:
            runner.wait(self.events, timeout=600)
            took_s = time.perf_counter() - began_s
        return self.events / took_s

    def _save(self, application: Shop, aggregates: list[Aggregate]) -> None:
        application.save(*aggregates)
        self.events += len(aggregates)
        aggregates.clear()

    def _environment(self, view: str) -> dict[str, str]:
        return {
            "PERSISTENCE_MODULE": "eventsourcing.popo",
            "CUSTOMERS_PERSISTENCE_MODULE": "eventsourcing.sqlite",
            "CUSTOMERS_SQLITE_DBNAME": os.fspath(self._directory / f"{view}.db"),
        }
