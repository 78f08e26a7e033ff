"""The order: a stream of its own, decided beside its customer."""

from __future__ import annotations

from decimal import Decimal

from actors.aggregate import Aggregate
from actors.customers.commands import CreateOrder
from actors.customers.customer import Customer
from actors.customers.events import OrderCreated
from actors.errors import DomainError


class Order(Aggregate, partition_key_field="customer_id"):
    """An order. Its attributes are set once it has been placed (`version` above 0)."""

    customer_id: str
    total_amount: Decimal

    def place(self, command: CreateOrder, customer: Customer) -> None:
        """Refused if the id is taken, or the customer is unknown or deactivated."""
        if self.version:
            raise DomainError(f"Order {self.aggregate_id} exists already.")
        customer.require_active()
        self.raise_event(
            OrderCreated(order_id=self.aggregate_id, customer_id=command.customer_id, total_amount=command.total_amount)
        )

    def on_created(self, event: OrderCreated) -> None:
        self.customer_id = event.customer_id
        self.total_amount = event.total_amount
