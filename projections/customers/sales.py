"""What was sold on each day, to each type of customer.

A day's row is fed by the customers of many shards, so it changes by increments only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date
from decimal import Decimal
from typing import ClassVar

from sqlalchemy import CheckConstraint, Column, Date, Integer, MetaData, Table, Text

from actors.customers import CustomerCreated, CustomerPromoted, OrderCreated
from projections.changes import Changes, Key
from projections.columns import Money
from projections.projection import Projection
from store.events import Event

daily_sales = Table(
    "daily_sales",
    MetaData(),
    Column("day", Date, primary_key=True),
    Column("customer_type", Text, primary_key=True),
    Column("orders", Integer, nullable=False, default=0),
    Column("amount", Money, nullable=False, default=0),
    CheckConstraint("typeof(amount) = 'integer'", name="daily_sales_amount_exact").ddl_if(dialect="sqlite"),
)
customer_types = Table(
    "daily_sales_customer_types",
    MetaData(),
    Column("customer_id", Text, primary_key=True),
    Column("type", Text, nullable=False),
)


class DailySales(Projection):
    """Orders and amounts by day (UTC, of `occurred_at`) and by what the customer was when the order was placed."""

    tables: ClassVar = [daily_sales, customer_types]

    def reads(self, event: Event) -> Iterable[tuple[Table, Key]]:
        if isinstance(event, OrderCreated):
            yield customer_types, event.customer_id

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(customer_types, customer_id=event.customer_id, type=event.type.value)

    def on_promoted(self, event: CustomerPromoted, changes: Changes) -> None:
        changes.set(customer_types, event.customer_id, type=event.to_type.value)

    def on_orders(self, events: Sequence[OrderCreated], changes: Changes) -> None:
        sold: defaultdict[tuple[date, str], list[Decimal]] = defaultdict(list)
        for event in events:
            customer = changes.row(customer_types, event.customer_id)
            if customer is None:
                raise ValueError(f"customer {event.customer_id} has ordered before being created")
            sold[event.occurred_at.date(), customer["type"]].append(event.total_amount)
        for key, amounts in sold.items():
            changes.accumulate(daily_sales, key, orders=len(amounts), amount=sum(amounts))
