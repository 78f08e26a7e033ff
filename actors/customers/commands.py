"""What one may ask of customers and orders, and which values are such at all.

Not here: whether the wish is granted (`customer.py`, `order.py`), and the ids (`registry.py` checks all of them).
"""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from actors.commands import Command

NAME_SIZE_MAX = 200
EMAIL_SIZE_MAX = 254
REASON_SIZE_MAX = 1000
FLOAT_EXACT_BELOW = 10**11
"""A float below this holds each amount of at most four decimals exactly enough to give it back."""

_EMAIL = re.compile(r"[^@\s]+@[^@\s.]+(\.[^@\s.]+)+")


def _name(value: str) -> str:
    if not value.isprintable() and any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("a name without control characters was expected")
    if not value.strip():
        raise ValueError("a name that is not blank was expected")
    return value


def _email(value: str) -> str:
    if not (_EMAIL.fullmatch(value) and value.isprintable()):
        raise ValueError("an e-mail address such as ada@example.com was expected")
    return value


def _exact(value: object) -> object:
    if isinstance(value, float) and FLOAT_EXACT_BELOW <= abs(value) < float("inf"):
        raise ValueError("a number this large is not exact in JSON: write it as a string")
    return value


def _plain(value: Decimal) -> Decimal:
    return value + 0  # -0 becomes 0 and 1E+3 becomes 1000; the digits that were given stay


Name = Annotated[str, Field(min_length=1, max_length=NAME_SIZE_MAX), AfterValidator(_name)]
Email = Annotated[str, Field(max_length=EMAIL_SIZE_MAX), AfterValidator(_email)]
Reason = Annotated[str, Field(max_length=REASON_SIZE_MAX)]
Amount = Annotated[
    Decimal,
    Field(ge=0, max_digits=16, decimal_places=4),  # first: behind a function, pydantic checks it in Python, slowly
    BeforeValidator(_exact),
    AfterValidator(_plain),
]
"""Exact: 12 digits before the point and 4 after it at most, not negative. In JSON a string or a number."""


class CreateCustomer(Command):
    """Sign up a customer."""

    customer_id: str
    name: Name
    email: Email


class ChangeEmail(Command):
    """Reach a customer at another address."""

    customer_id: str
    email: Email


class PromoteToVip(Command):
    """Make a customer a VIP."""

    customer_id: str
    reason: Reason


class DeactivateCustomer(Command):
    """Let a customer buy no more."""

    customer_id: str
    reason: Reason = ""


class CreateOrder(Command):
    """Place an order of a customer."""

    order_id: str
    customer_id: str
    total_amount: Amount
