"""The shop's rules once more, folded and decided by code of the tests' own: what a model recomputes answers with.

It shares nothing with the runtime: commands and events are names and plain fields. Not here: the log, and who may write
it (`protocol_model.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple


class Wish(NamedTuple):
    """A command: its type's name and its fields."""

    kind: str
    fields: tuple[tuple[str, str], ...]

    def get(self, name: str) -> str:
        return dict(self.fields)[name]

    @property
    def key(self) -> str:
        return self.get("customer_id")

    @property
    def stream(self) -> str:
        return f"order-{self.get('order_id')}" if self.kind == "CreateOrder" else f"customer-{self.key}"


class StreamState(NamedTuple):
    """What one stream's events come to. Version 0: there are none."""

    version: int = 0
    key: str = ""
    email: str = ""
    vip: bool = False
    active: bool = False


NOTHING = StreamState()
States = Mapping[str, StreamState]
Happening = tuple[str, dict[str, str]]
"""An event's type and fields, as text."""


def decided(states: States, wish: Wish) -> list[Happening] | str:
    """Return the events that a command causes in that state, or the words with which it is refused."""
    own = states.get(wish.stream, NOTHING)
    if wish.kind == "CreateOrder":
        return _ordered(own, states.get(f"customer-{wish.key}", NOTHING), wish)
    customer = wish.key
    if wish.kind == "CreateCustomer":
        if own.version:
            return f"Customer {customer} exists already."
        return [("CustomerCreated", {**dict(wish.fields), "type": "Regular"})]
    if refusal := _inactive(own, customer):
        return refusal
    if wish.kind == "ChangeEmail":
        email = wish.get("email")
        change = {"customer_id": customer, "old_email": own.email, "new_email": email}
        return [] if email == own.email else [("CustomerEmailChanged", change)]
    if wish.kind == "PromoteToVip":
        if own.vip:
            return f"Customer {customer} is a VIP already."
        return [("CustomerPromoted", {**dict(wish.fields), "from_type": "Regular", "to_type": "Vip"})]
    assert wish.kind == "DeactivateCustomer", wish
    return [("CustomerDeactivated", dict(wish.fields))]


def folded(state: StreamState, kind: str, key: str, fields: Mapping[str, str]) -> StreamState:
    """Return a stream's state after one more event."""
    after = state._replace(version=state.version + 1, key=key)
    match kind:
        case "CustomerCreated":
            return after._replace(email=fields["email"], vip=fields["type"] == "Vip", active=True)
        case "CustomerEmailChanged":
            return after._replace(email=fields["new_email"])
        case "CustomerPromoted":
            return after._replace(vip=True)
        case "CustomerDeactivated":
            return after._replace(active=False)
        case "OrderCreated":
            return after
    raise AssertionError(f"an event of an unknown type: {kind}")


def remembered(stream: str, data: str) -> StreamState:
    """Return what a snapshot's data says of its stream. An order's state is of no matter to any command."""
    content = json.loads(data)
    state = StreamState(content["version"], content["partition_key"])
    if not stream.startswith("customer-"):
        return state
    customer = content["state"]
    return state._replace(email=customer["email"], vip=customer["type"] == "Vip", active=customer["status"] == "Active")


def plain(data: str) -> dict[str, str]:
    """Return a stored event's fields; amounts in one form, whatever their zeros."""
    fields: dict[str, Any] = json.loads(data)
    return {name: _amount(value) if name == "total_amount" else value for name, value in fields.items()}


def _ordered(own: StreamState, customer: StreamState, wish: Wish) -> list[Happening] | str:
    if own.version and own.key != wish.key:
        return f"{wish.stream} belongs to customer_id '{own.key}', not to the one given."
    if own.version:
        return f"Order {wish.get('order_id')} exists already."
    if refusal := _inactive(customer, wish.key):
        return refusal
    return [("OrderCreated", {**dict(wish.fields), "total_amount": _amount(wish.get("total_amount"))})]


def _inactive(customer: StreamState, customer_id: str) -> str | None:
    if not customer.version:
        return f"Customer {customer_id} does not exist."
    return None if customer.active else f"Customer {customer_id} is deactivated."


def _amount(text: object) -> str:
    return str(Decimal(str(text)).normalize())
