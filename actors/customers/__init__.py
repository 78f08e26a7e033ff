"""A shop's customers and their orders: the example that ships with Eventray, and what its demo runs."""

from actors.customers.commands import ChangeEmail, CreateCustomer, CreateOrder, DeactivateCustomer, PromoteToVip
from actors.customers.customer import Customer
from actors.customers.events import (
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerStatus,
    CustomerType,
    OrderCreated,
)
from actors.customers.order import Order

__all__ = [
    "ChangeEmail",
    "CreateCustomer",
    "CreateOrder",
    "Customer",
    "CustomerCreated",
    "CustomerDeactivated",
    "CustomerEmailChanged",
    "CustomerPromoted",
    "CustomerStatus",
    "CustomerType",
    "DeactivateCustomer",
    "Order",
    "OrderCreated",
    "PromoteToVip",
]
