"""The demo's input: purchases read from the file, the commands they make, and what must come out of them.

Pure but for reading the file. What must come out is computed from the purchases alone, so that it can judge the
event store and the read model. Not here: submitting (`driver.py`) and comparing (`checking.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib.resources import files
from typing import NamedTuple

from actors import Command
from actors.customers import CreateCustomer, CreateOrder

VIP_SPENT_MIN = Decimal(500)
"""Who has spent this many dollars or more is to be a VIP in the end."""


class Purchase(NamedTuple):
    """One line of the input."""

    customer_id: str
    order_id: str
    """The customer's id and the purchase's number among theirs: 1-based, in file order."""
    day: datetime
    """UTC midnight."""
    amount: Decimal
    """Dollars."""


class Step(NamedTuple):
    """One command of the demo. Its id derives from the input, so a second run submits the same."""

    command: Command
    command_id: str
    occurred_at: datetime


@dataclass(slots=True)
class CustomerFacts:
    """What must be known of a customer after all of their purchases. Fields as the read model names them."""

    id: str
    name: str
    email: str
    created_at: datetime
    type: str = "Regular"
    status: str = "Active"
    last_promoted_at: datetime | None = None
    total_orders: int = 0
    total_spent: Decimal = Decimal(0)


def read_purchases(customers_max: int | None = None) -> list[Purchase]:
    """Return the purchases in date order, in file order within a day; of the file's first customers only, if asked."""
    numbers: dict[str, int] = {}
    purchases = []
    for line in files("cluster").joinpath("data/cdnow_sample.txt").read_text().splitlines():
        customer_id, _, day, _, dollars = line.split()
        if customer_id not in numbers and len(numbers) == customers_max:
            break
        number = numbers[customer_id] = numbers.get(customer_id, 0) + 1
        moment = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
        purchases.append(Purchase(customer_id, f"{customer_id}-{number}", moment, Decimal(dollars)))
    return sorted(purchases, key=lambda purchase: purchase.day)


def name_of(customer_id: str) -> str:
    """Make up a name: the input holds none."""
    return f"Customer {customer_id}"


def email_of(customer_id: str) -> str:
    """Make up an e-mail address: the input holds none."""
    return f"customer-{customer_id}@example.com"


def steps(purchases: Iterable[Purchase]) -> Iterator[Step]:
    """Return the commands: the orders, each customer created before the first. Promoting is not the driver's work."""
    known: set[str] = set()
    for customer_id, order_id, day, amount in purchases:
        if customer_id not in known:
            known.add(customer_id)
            create = CreateCustomer(customer_id=customer_id, name=name_of(customer_id), email=email_of(customer_id))
            yield Step(create, f"cdnow-customer-{customer_id}", day)
        order = CreateOrder(order_id=order_id, customer_id=customer_id, total_amount=amount)
        yield Step(order, f"cdnow-order-{order_id}", day)


def expected(purchases: Iterable[Purchase]) -> dict[str, CustomerFacts]:
    """Return what must be known of each customer in the end, by id."""
    customers: dict[str, CustomerFacts] = {}
    for customer_id, _, day, amount in purchases:
        facts = customers.get(customer_id)
        if facts is None:
            facts = CustomerFacts(customer_id, name_of(customer_id), email_of(customer_id), created_at=day)
            customers[customer_id] = facts
        facts.total_orders += 1
        facts.total_spent += amount
        if facts.type == "Regular" and facts.total_spent >= VIP_SPENT_MIN:
            facts.type, facts.last_promoted_at = "Vip", day
    return customers
