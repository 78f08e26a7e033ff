"""Each customer in one row: who they are, and what they have ordered.

Every event of a customer, orders too, is in the customer's shard, so a row is fed by one shard, in order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from typing import ClassVar

from sqlalchemy import CheckConstraint, Column, Integer, MetaData, Table, Text

from actors.customers import (
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerStatus,
    OrderCreated,
)
from projections.changes import Changes
from projections.columns import Moment, Money
from projections.projection import Projection

customers = Table(
    "customers",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False),
    Column("email", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("created_at", Moment, nullable=False),
    Column("last_promoted_at", Moment),
    Column("total_orders", Integer, nullable=False, default=0),
    Column("total_spent", Money, nullable=False, default=0),
    # SQLite turns a sum beyond 64 bits into a float without a word; this makes it an error instead.
    CheckConstraint("typeof(total_spent) = 'integer'", name="total_spent_exact").ddl_if(dialect="sqlite"),
)


class CustomerProjection(Projection):
    """Who the customers are and what they have ordered. Moments are those of the events' `occurred_at`."""

    tables: ClassVar = [customers]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(
            customers,
            id=event.customer_id,
            name=event.name,
            email=event.email,
            type=event.type.value,
            status=CustomerStatus.ACTIVE.value,
            created_at=event.occurred_at,
        )

    def on_email_changed(self, event: CustomerEmailChanged, changes: Changes) -> None:
        changes.set(customers, event.customer_id, email=event.new_email)

    def on_promoted(self, event: CustomerPromoted, changes: Changes) -> None:
        changes.set(customers, event.customer_id, type=event.to_type.value, last_promoted_at=event.occurred_at)

    def on_deactivated(self, event: CustomerDeactivated, changes: Changes) -> None:
        changes.set(customers, event.customer_id, status=CustomerStatus.DEACTIVATED.value)

    def on_ordered(self, events: Sequence[OrderCreated], changes: Changes) -> None:
        amounts: defaultdict[str, list[Decimal]] = defaultdict(list)
        for event in events:
            amounts[event.customer_id].append(event.total_amount)
        for customer_id, spent in amounts.items():
            changes.add(customers, customer_id, total_orders=len(spent), total_spent=sum(spent))
