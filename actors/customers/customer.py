"""The customer: who exists, how they are reached, what they are to the shop."""

from __future__ import annotations

from actors.aggregate import Aggregate
from actors.customers.commands import ChangeEmail, CreateCustomer, DeactivateCustomer, PromoteToVip
from actors.customers.events import (
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerStatus,
    CustomerType,
)
from actors.errors import DomainError


class Customer(Aggregate):
    """A customer of the shop. Its attributes are set once it has been created (`version` above 0)."""

    name: str
    email: str
    type: CustomerType
    status: CustomerStatus

    def create(self, command: CreateCustomer) -> None:
        """Refused if the id is taken."""
        if self.version:
            raise DomainError(f"Customer {self.aggregate_id} exists already.")
        self.raise_event(
            CustomerCreated(
                customer_id=self.aggregate_id, name=command.name, email=command.email, type=CustomerType.REGULAR
            )
        )

    def change_email(self, command: ChangeEmail) -> None:
        """Refused unless active; nothing happens if it is the address already."""
        self.require_active()
        if command.email != self.email:
            self.raise_event(
                CustomerEmailChanged(customer_id=self.aggregate_id, old_email=self.email, new_email=command.email)
            )

    def promote(self, command: PromoteToVip) -> None:
        """Refused unless active and not a VIP yet."""
        self.require_active()
        if self.type is CustomerType.VIP:
            raise DomainError(f"Customer {self.aggregate_id} is a VIP already.")
        self.raise_event(
            CustomerPromoted(
                customer_id=self.aggregate_id, from_type=self.type, to_type=CustomerType.VIP, reason=command.reason
            )
        )

    def deactivate(self, command: DeactivateCustomer) -> None:
        """Refused unless active."""
        self.require_active()
        self.raise_event(CustomerDeactivated(customer_id=self.aggregate_id, reason=command.reason))

    def require_active(self) -> None:
        """Raise DomainError unless this customer exists and is active."""
        if not self.version:
            raise DomainError(f"Customer {self.aggregate_id} does not exist.")
        if self.status is not CustomerStatus.ACTIVE:
            raise DomainError(f"Customer {self.aggregate_id} is deactivated.")

    def on_created(self, event: CustomerCreated) -> None:
        self.name = event.name
        self.email = event.email
        self.type = event.type
        self.status = CustomerStatus.ACTIVE

    def on_email_changed(self, event: CustomerEmailChanged) -> None:
        self.email = event.new_email

    def on_promoted(self, event: CustomerPromoted) -> None:
        self.type = event.to_type

    def on_deactivated(self, event: CustomerDeactivated) -> None:
        self.status = CustomerStatus.DEACTIVATED
