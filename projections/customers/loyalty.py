"""The loyalty programme: who has ordered for 500 dollars or more becomes a VIP.

A customer's orders are all in the customer's shard, so one shard feeds a row.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import ClassVar

from sqlalchemy import CheckConstraint, Column, MetaData, Table, Text

from actors.customers import OrderCreated, PromoteToVip
from projections.changes import Changes, Key
from projections.columns import Money
from projections.process_manager import ProcessManager
from store.events import Event

VIP_SPENT_MIN = Decimal(500)
"""Dollars."""

loyalty = Table(
    "loyalty",
    MetaData(),
    Column("customer_id", Text, primary_key=True),
    Column("spent", Money, nullable=False),
    CheckConstraint("typeof(spent) = 'integer'", name="loyalty_spent_exact").ddl_if(dialect="sqlite"),
)


class LoyaltyProgramme(ProcessManager, start="beginning"):
    """Promotes each customer with the order that brings the sum of their orders to 500 dollars.

    It begins with the log's first event: who had reached the sum before it was there is promoted too. One who is a VIP
    already, or deactivated, is refused by the customer, which is final.
    """

    tables: ClassVar = [loyalty]

    def reads(self, event: Event) -> Iterable[tuple[Table, Key]]:
        if isinstance(event, OrderCreated):
            yield loyalty, event.customer_id

    def on_orders(
        self, events: Sequence[OrderCreated], changes: Changes
    ) -> Iterator[tuple[OrderCreated, PromoteToVip]]:
        for event in events:
            row = changes.row(loyalty, event.customer_id)
            before: Decimal = row["spent"] if row else Decimal(0)
            if row is None:
                changes.insert(loyalty, customer_id=event.customer_id, spent=event.total_amount)
            else:
                changes.add(loyalty, event.customer_id, spent=event.total_amount)
            if before < VIP_SPENT_MIN <= before + event.total_amount:
                reason = f"ordered for {VIP_SPENT_MIN} dollars or more"
                yield event, PromoteToVip(customer_id=event.customer_id, reason=reason)
