"""The shop's rules: who may be created, promoted, deactivated, and who may order what."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors import AggregateRegistry, InvalidCommand
from actors.customers import (
    ChangeEmail,
    CreateCustomer,
    CreateOrder,
    Customer,
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerStatus,
    CustomerType,
    DeactivateCustomer,
    Order,
    OrderCreated,
    PromoteToVip,
)
from actors.testing import Scenario

REGISTRY = AggregateRegistry([Customer, Order])
ADA = CustomerCreated(customer_id="c-1", name="Ada", email="ada@example.com", type=CustomerType.REGULAR)
PROMOTED = CustomerPromoted(customer_id="c-1", from_type=CustomerType.REGULAR, to_type=CustomerType.VIP, reason="loyal")
LEFT = CustomerDeactivated(customer_id="c-1", reason="moved")
ORDERED = OrderCreated(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00"))
CREATE = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
PROMOTE = PromoteToVip(customer_id="c-1", reason="loyal")
MOVE = ChangeEmail(customer_id="c-1", email="ada@example.org")
LEAVE = DeactivateCustomer(customer_id="c-1")
ORDER = CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00"))


def test_a_customer_is_created_once() -> None:
    story = Scenario(Customer).when(CREATE).then(ADA)
    story.when(CREATE).then_refused(containing="Customer c-1 exists already")
    customer = story.aggregate
    assert isinstance(customer, Customer)
    assert (customer.name, customer.email, customer.type) == ("Ada", "ada@example.com", "Regular")
    assert customer.status is CustomerStatus.ACTIVE


def test_a_customer_is_promoted_once() -> None:
    story = Scenario(Customer).given(ADA).when(PROMOTE).then(PROMOTED)
    assert story.aggregate.type == "Vip"  # type: ignore[attr-defined]
    story.when(PROMOTE).then_refused(containing="is a VIP already")


def test_an_email_is_changed_if_it_is_another() -> None:
    changed = CustomerEmailChanged(customer_id="c-1", old_email="ada@example.com", new_email="ada@example.org")
    story = Scenario(Customer).given(ADA).when(MOVE).then(changed)
    assert story.aggregate.email == "ada@example.org"  # type: ignore[attr-defined]
    story.when(MOVE).then()


def test_a_customer_leaves() -> None:
    story = Scenario(Customer).given(ADA).when(LEAVE).then(CustomerDeactivated(customer_id="c-1", reason=""))
    assert story.aggregate.status == "Deactivated"  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", [PROMOTE, MOVE, LEAVE, ORDER], ids=lambda command: command.command_type)
def test_nothing_is_done_for_an_unknown_or_deactivated_customer(command: Any) -> None:
    Scenario(Order).when(command).then_refused(containing="Customer c-1 does not exist")
    Scenario(Order).given(ADA, LEFT).when(command).then_refused(containing="Customer c-1 is deactivated")


def test_an_order_is_placed_once() -> None:
    story = Scenario(Order).given(ADA).when(ORDER).then(ORDERED)
    story.when(ORDER).then_refused(containing="Order o-1 exists already")
    other = ORDER.model_copy(update={"customer_id": "c-2"})
    story.given(ADA.model_copy(update={"customer_id": "c-2"})).when(other).then_refused(containing="belongs to")


@pytest.mark.parametrize(
    ("amount", "stored"),
    [
        ('"0"', "0"),
        ('"42.00"', "42.00"),
        ("42.10", "42.1"),
        ("7", "7"),
        ('"999999999999.9999"', "999999999999.9999"),
        ("99999999999.9999", "99999999999.9999"),
        ('"1E+3"', "1000"),
        ('"-0"', "0"),
    ],
)
def test_amounts_are_exact(amount: str, stored: str) -> None:
    data = f'{{"order_id":"o","customer_id":"c","total_amount":{amount}}}'
    _, command = REGISTRY.decode_command("CreateOrder", data)
    assert isinstance(command, CreateOrder)
    assert json.loads(command.model_dump_json())["total_amount"] == stored


@pytest.mark.parametrize(
    "amount",
    [
        *('"-0.01"', "-1", "NaN", '"NaN"', "Infinity", '"sNaN"', '"1.23456"', '"1000000000000"', "1e400", '"1e400"'),
        *("100000000000.25", '""', '"ten"', "null", "true", "[]", "12345678901234567890", '"1,5"'),
    ],
)
def test_an_amount_that_is_none_is_refused(amount: str) -> None:
    data = f'{{"order_id":"o","customer_id":"c","total_amount":{amount}}}'
    with pytest.raises(InvalidCommand, match=r"^total_amount = "):
        REGISTRY.decode_command("CreateOrder", data)


@given(st.decimals(min_value=0, max_value=10**12 - 1, places=4, allow_nan=False, allow_infinity=False))
def test_an_amount_keeps_every_digit_from_json_to_event(amount: Decimal) -> None:
    _, command = REGISTRY.decode_command(
        "CreateOrder", json.dumps({"order_id": "o", "customer_id": "c", "total_amount": str(amount)})
    )
    assert isinstance(command, CreateOrder)
    event = OrderCreated(order_id="o", customer_id="c", total_amount=command.total_amount)
    again = OrderCreated.model_validate_json(REGISTRY.events.encode(event))
    assert str(again.total_amount) == str(amount)


@given(st.integers(0, 10**15 - 1))
def test_an_amount_given_as_a_json_number_is_exact_too(ten_thousandths: int) -> None:
    amount = Decimal(ten_thousandths) / 10_000
    _, command = REGISTRY.decode_command(
        "CreateOrder", f'{{"order_id":"o","customer_id":"c","total_amount":{amount:f}}}'
    )
    assert isinstance(command, CreateOrder)
    assert command.total_amount == amount


@pytest.mark.parametrize(
    "email", ["a@b.c", "ada.lovelace+x@mail.example.com", "é@exämple.com", "a" * 240 + "@example.com"]
)
def test_an_email_that_is_one(email: str) -> None:
    assert ChangeEmail(customer_id="c", email=email).email == email


@pytest.mark.parametrize(
    "email",
    [
        *("", "ada", "ada@", "@example.com", "ada@example", "a@b@c.d", "a b@c.d", "a@c .d", "a@c.d ", "a@.d", "a@c."),
        *("a@c..d", "a\n@c.d", "a@c.d\n", "a\x00@c.d", "a\x7f@c.d", "a\x85b@c.d", "a" * 243 + "@example.com"),
    ],
)
def test_an_email_that_is_none(email: str) -> None:
    with pytest.raises(InvalidCommand, match=r"^email = "):
        REGISTRY.decode_command("ChangeEmail", json.dumps({"customer_id": "c", "email": email}))


@pytest.mark.parametrize("name", ["Ada", "Ædå Ŀövelace", "李", "O'Neil\u00a0", "x" * 200, "👩\u200d💻"])
def test_a_name_that_is_one(name: str) -> None:
    assert CreateCustomer(customer_id="c", name=name, email="a@b.c").name == name


@pytest.mark.parametrize("name", ["", " ", "A\tda", "A\nda", "\x00", "\x7f", "A\x9fda", "x" * 201])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(InvalidCommand, match=r"^name = "):
        REGISTRY.decode_command("CreateCustomer", json.dumps({"customer_id": "c", "name": name, "email": "a@b.c"}))


def test_stored_names_and_fields_are_a_format() -> None:
    stored = {name: json.loads(REGISTRY.events.encode(event)) for name, event in _one_of_each().items()}
    assert stored == {
        "CustomerCreated": {"customer_id": "c-1", "name": "Ada", "email": "ada@example.com", "type": "Regular"},
        "CustomerPromoted": {"customer_id": "c-1", "from_type": "Regular", "to_type": "Vip", "reason": "loyal"},
        "CustomerEmailChanged": {"customer_id": "c-1", "old_email": "a@b.c", "new_email": "d@e.f"},
        "CustomerDeactivated": {"customer_id": "c-1", "reason": "moved"},
        "OrderCreated": {"order_id": "o-1", "customer_id": "c-1", "total_amount": "42.00"},
    }
    assert set(stored) == set(REGISTRY.events.types)


def _one_of_each() -> dict[str, Any]:
    moved = CustomerEmailChanged(customer_id="c-1", old_email="a@b.c", new_email="d@e.f")
    return {event.event_type: event for event in (ADA, PROMOTED, moved, LEFT, ORDERED)}
