"""What can happen to customers and orders. The stored names and fields are a format: they never change in place."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum

from store.events import Event
from store.upcasting import Json, Upcaster


class CustomerType(StrEnum):
    """What a customer is to the shop."""

    REGULAR = "Regular"
    VIP = "Vip"


class CustomerStatus(StrEnum):
    """Whether a customer may still buy."""

    ACTIVE = "Active"
    DEACTIVATED = "Deactivated"


def _created_as_regular(data: Json) -> Json:
    """Version 1 had no `type`: everyone began as a regular customer."""
    return {"type": "Regular", **data}


class CustomerCreated(
    Event, event_type="CustomerCreated", schema_version=2, upcasters=[Upcaster(1, 2, _created_as_regular)]
):
    """A customer signed up."""

    customer_id: str
    name: str
    email: str
    type: CustomerType


class CustomerPromoted(Event, event_type="CustomerPromoted", schema_version=1):
    """A customer became a VIP."""

    customer_id: str
    from_type: CustomerType
    to_type: CustomerType
    reason: str


class CustomerEmailChanged(Event, event_type="CustomerEmailChanged", schema_version=1):
    """A customer is reached at another address."""

    customer_id: str
    old_email: str
    new_email: str


class CustomerDeactivated(Event, event_type="CustomerDeactivated", schema_version=1):
    """A customer may no longer buy."""

    customer_id: str
    reason: str


class OrderCreated(Event, event_type="OrderCreated", schema_version=1):
    """A customer ordered. The amount is exact; in JSON it is a decimal string."""

    order_id: str
    customer_id: str
    total_amount: Decimal
