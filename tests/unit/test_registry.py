"""The registry: commands find their aggregates, and input that is no command is told apart with the reason."""

import json
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from actors import Aggregate, AggregateRegistry, Command, DecideFailed, DomainError, InvalidCommand
from actors.customers import (
    CreateCustomer,
    CreateOrder,
    Customer,
    CustomerCreated,
    CustomerType,
    Order,
    OrderCreated,
    PromoteToVip,
)
from store.errors import InvalidValue
from store.events import Event


class Item(BaseModel):
    sku: str
    count: int


class ExitingZone(tzinfo):
    def utcoffset(self, _moment: datetime | None) -> timedelta:
        raise SystemExit(3)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment)

    def tzname(self, _moment: datetime | None) -> str:
        return "of its own"


class FillBasket(Command):
    basket_id: str
    items: tuple[Item, ...] = ()
    notes: dict[str, Any] = Field(default_factory=dict)
    weight: float = 0.0
    label: str = ""
    best_before: datetime | None = None

    @field_validator("weight")
    @classmethod
    def _not_666(cls, weight: float) -> float:
        if weight == 666:
            raise KeyError("a bug in a validator")
        return weight

    @field_validator("best_before")
    @classmethod
    def _in_a_zone_of_its_own(cls, moment: datetime) -> datetime:
        return moment.replace(tzinfo=ExitingZone()) if moment.year == 2666 else moment


class Grow(Command):
    basket_id: str


class BasketEvent(Event):
    basket_id: str


class BasketFilled(BasketEvent):
    pass


class BasketGrown(BasketFilled):
    pass


class Basket(Aggregate):
    def fill(self, command: FillBasket, customer: Customer) -> None:
        self.raise_event(BasketFilled(basket_id=command.basket_id))
        if command.notes.get("meddle"):
            customer.raise_event(CustomerCreated(customer_id="x", name="x", email="x@x.xx", type=CustomerType.REGULAR))

    def grow(self, command: Grow) -> None:
        raise ZeroDivisionError("a bug\nover two lines")

    def on_any(self, event: BasketEvent) -> None:
        self.seen = event


REGISTRY = AggregateRegistry([Customer, Order, Basket])
ORDER = {"order_id": "o-1", "customer_id": "c-1", "total_amount": "42.00"}


def refused(command_type: str, data: str) -> InvalidCommand:
    with pytest.raises(InvalidCommand) as caught:
        REGISTRY.decode_command(command_type, data)
    assert str(caught.value).isascii()
    return caught.value


def test_a_command_finds_its_streams() -> None:
    binding, command = REGISTRY.decode_command("CreateOrder", json.dumps(ORDER))
    assert command == CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00"))
    assert (binding.command_class, binding.aggregate_class, binding.reads) == (CreateOrder, Order, (Customer,))
    assert (binding.stream(command), binding.aggregate_id(command)) == ("order-o-1", "o-1")
    assert binding.partition_key(command) == "c-1"
    assert binding.read_streams("c-1") == ("customer-c-1",)
    assert REGISTRY.bindings["CreateCustomer"].read_streams("c-1") == ()
    assert REGISTRY.check_command(command) is binding


def test_streams_find_their_aggregates() -> None:
    assert REGISTRY.aggregate_of("order-00004-1") is Order
    assert REGISTRY.aggregate_of("customer-c") is Customer
    assert REGISTRY.aggregates == (Customer, Order, Basket)
    for stream in ("invoice-1", "order", "order-", "", "-1", "Order-1"):
        with pytest.raises(InvalidValue, match="customer-ID, order-ID"):
            REGISTRY.aggregate_of(stream)


def test_all_events_with_a_method_are_known_and_their_subclasses() -> None:
    assert REGISTRY.events.types["OrderCreated"] is OrderCreated
    assert {"BasketEvent", "BasketFilled", "BasketGrown", "CustomerPromoted"} <= set(REGISTRY.events.types)


@pytest.mark.parametrize(
    ("command_type", "data", "field", "value", "expected"),
    [
        ("CreateOrdr", "{}", "command", "'CreateOrdr'", "did you mean CreateOrder"),
        ("Zzz", "{}", "command", "'Zzz'", "one of ChangeEmail, CreateCustomer"),
        ("", "{}", "command", "''", "one of"),
        ("CreateOrder", "{", "CreateOrder", "'{'", "valid JSON was expected"),
        ("CreateOrder", "", "CreateOrder", "''", "valid JSON was expected"),
        ("CreateOrder", "[1]", "CreateOrder", "[1]", "a JSON object with the fields order_id, customer_id"),
        ("CreateOrder", "null", "CreateOrder", "None", "a JSON object"),
        ("CreateOrder", '{"customer_id":"c","total_amount":1}', "order_id", "(missing)", "CreateOrder needs it"),
        ("PromoteToVip", '{"customer_id":"c","reason":1}', "reason", "1", "valid string"),
        ("PromoteToVip", '{"customer_id":"c","reason":"r","reasn":1}', "reasn", "1", "did you mean reason"),
        ("PromoteToVip", '{"customer_id":7,"raeson":"r"}', "customer_id", "7", "(2 more wrong fields)"),
        ("PromoteToVip", '{"customer_id":7}', "customer_id", "7", "(1 more wrong field)"),
        ("PromoteToVip", '{"customer_id":"","reason":""}', "customer_id", "''", "at least one character"),
        ("PromoteToVip", '{"customer_id":"a\\u0000b","reason":""}', "customer_id", r"'a\x00b'", "NUL"),
        ("PromoteToVip", '{"customer_id":"a\\nb","reason":""}', "customer_id", r"'a\nb'", "control characters"),
        ("PromoteToVip", '{"customer_id":"c","reason":"\\u0000"}', "reason", r"'\x00'", "NUL"),
        ("PromoteToVip", '{"customer_id":"\\ud800","reason":""}', "PromoteToVip", "'{", "valid JSON"),
        ("PromoteToVip", '{"customer_id":"\ud800","reason":""}', "PromoteToVip", "'{", "unicode"),
        ("FillBasket", '{"basket_id":"b","items":[{"sku":"s"}]}', "items.0.count", "(missing)", "required"),
        (
            "FillBasket",
            '{"basket_id":"b","items":[{"sku":"s","count":9223372036854775808}]}',
            "items.0.count",
            "9",
            "64",
        ),
        ("FillBasket", '{"basket_id":"b","notes":{"a":[1,-9223372036854775809]}}', "notes.a.1", "-9", "64 bits"),
        ("FillBasket", '{"basket_id":"b","notes":{"a\\u0000":1}}', "notes (a key)", r"'a\x00'", "NUL"),
        ("FillBasket", '{"basket_id":"b","notes":{"a":NaN}}', "notes.a", "nan", "finite"),
        ("FillBasket", '{"basket_id":"b","best_before":"2026-05-01T12:00:00"}', "best_before", "datetime", "its zone"),
        ("FillBasket", '{"basket_id":"b","weight":NaN}', "weight", "nan", "finite"),
        ("FillBasket", '{"basket_id":"b","weight":Infinity}', "weight", "inf", "finite"),
        ("FillBasket", '{"basket_id":"b","weight":666}', "command", "FillBasket", 'a validator of it broke: "KeyError'),
        ("FillBasket", '{"basket_id":"b","best_before":"2666-01-01"}', "command", "FillBasket", "broke: 'SystemExit"),
    ],
)
def test_bad_input_names_field_value_and_remedy(
    command_type: str, data: str, field: str, value: str, expected: str
) -> None:
    error = refused(command_type, data)
    assert error.field == field
    assert error.value.startswith(value)
    assert expected in error.remedy


def test_a_long_value_is_shortened() -> None:
    error = refused("PromoteToVip", json.dumps({"customer_id": "é" * 101, "reason": ""}))
    assert error.field == "customer_id"
    assert "at most 200 bytes" in error.remedy
    assert len(str(refused("PromoteToVip", json.dumps({"customer_id": "c", "reason": "ü" * 5000})))) < 200
    assert len(str(refused("x" * 5000, "{}"))) < 300


def test_an_id_at_the_limit_is_taken() -> None:
    _, command = REGISTRY.decode_command("PromoteToVip", json.dumps({"customer_id": "é" * 100, "reason": "日本"}))
    assert command == PromoteToVip(customer_id="é" * 100, reason="日本")


@given(
    st.sampled_from([*REGISTRY.bindings, "Other"]) | st.text(),
    st.text()
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner) | st.dictionaries(st.sampled_from([*FillBasket.model_fields, *ORDER]) | st.text(), inner)
        ),
    ).map(json.dumps),
)
def test_whatever_the_input_it_is_a_command_or_an_invalid_one(command_type: str, data: str) -> None:
    try:
        binding, command = REGISTRY.decode_command(command_type, data)
    except InvalidCommand as error:
        message = str(error)
    else:
        message = ""
        assert type(command) is binding.command_class
        assert len(binding.stream(command)) > len(binding.aggregate_class.category)
    assert message.isascii()
    assert len(message) < 1000


def test_an_instance_is_held_to_the_same_rules() -> None:
    class CreateOrderLate(CreateOrder):
        pass

    order = CreateOrder(order_id="o\n1", customer_id="c-1", total_amount=Decimal(1))
    with pytest.raises(InvalidCommand, match="order_id"):
        REGISTRY.check_command(order)
    with pytest.raises(InvalidCommand, match="customer_id"):
        REGISTRY.check_command(order.model_copy(update={"order_id": "o-1", "customer_id": ""}))
    with pytest.raises(InvalidCommand, match="did you mean CreateOrder"):
        REGISTRY.check_command(CreateOrderLate(**ORDER))  # type: ignore[arg-type]


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("fields", "field", "remedy"),
    [
        ({"best_before": datetime(2026, 5, 1)}, "best_before", "a time with its zone"),
        ({"notes": {"a": "\ud800"}}, "notes.a", "lone surrogates"),
        ({"label": "\ud800"}, "label", "lone surrogates"),
        ({"notes": {"a": float("inf")}}, "notes.a", "finite"),
        ({"notes": {"a": nested(99)}}, "notes.a" + ".0" * 26 + ".", "nest lists"),
        ({"notes": {"a": object()}}, "FillBasket", "leave out what JSON can't hold"),
        ({"notes": {"a": "x" * 2**20}}, "FillBasket", "at most 1048576 bytes"),
        ({"basket_id": "\ud800"}, "basket_id", "lone surrogates"),
    ],
)
def test_a_command_built_in_python_is_encoded_or_refused_by_name(
    fields: dict[str, Any], field: str, remedy: str
) -> None:
    with pytest.raises(InvalidCommand) as caught:
        REGISTRY.encode_command(FillBasket(**{"basket_id": "b", **fields}))
    assert caught.value.field == field
    assert remedy in caught.value.remedy


def test_an_encoded_command_is_decoded_to_the_same() -> None:
    command = FillBasket(basket_id="b", notes={"ä": [1, 2**63 - 1]}, best_before=datetime(2026, 5, 1, tzinfo=UTC))
    binding, data = REGISTRY.encode_command(command)
    assert REGISTRY.decode_command("FillBasket", data) == (binding, command)


def test_the_size_of_commands_and_events_is_bounded_in_bytes() -> None:
    registry = AggregateRegistry([Customer, Order, Basket], payload_size_max_bytes=64)
    data = json.dumps({"basket_id": "ä" * 20}, ensure_ascii=False)
    size = len(data.encode())
    assert registry.decode_command("Grow", data)[1] == Grow(basket_id="ä" * 20)
    longer = data[:-2] + "ä" * 5 + data[-2:]
    with pytest.raises(InvalidCommand, match=f"Grow = {size + 10} bytes: a command of at most 64 bytes was expected"):
        registry.decode_command("Grow", longer)
    with pytest.raises(InvalidValue, match=r"BasketFilled = .* bytes: an event of at most 64 bytes"):
        registry.events.encode(BasketFilled(basket_id="b" * 64))


def test_another_class_of_a_known_name_is_refused() -> None:
    impostor: type[Command] = type("Grow", (Command,), {"__annotations__": {"basket_id": str}})
    with pytest.raises(InvalidCommand, match="command = 'Grow'"):
        REGISTRY.check_command(impostor(basket_id="b"))  # type: ignore[call-arg]


def customer_named(customer_id: str) -> Customer:
    customer = Customer(customer_id)
    customer.create(CreateCustomer(customer_id=customer_id, name="Ada", email="ada@example.com"))
    return customer


def test_deciding_raises_events_on_the_aggregate() -> None:
    binding, command = REGISTRY.decode_command("CreateOrder", json.dumps(ORDER))
    order = Order("o-1")
    binding.decide(order, command, [customer_named("c-1")])
    assert order.uncommitted_events == (OrderCreated(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00")),)


def test_a_stream_stays_with_its_partition_key() -> None:
    binding, command = REGISTRY.decode_command("CreateOrder", json.dumps(ORDER | {"customer_id": "c-2"}))
    order = Order("o-1")
    order.raise_event(OrderCreated(order_id="o-1", customer_id="c-1", total_amount=Decimal(1)))
    with pytest.raises(DomainError, match="order-o-1 belongs to customer_id 'c-1'"):
        binding.decide(order, command, [customer_named("c-2")])


def test_a_bug_in_a_method_is_a_failed_decision() -> None:
    with pytest.raises(DecideFailed, match=r"Grow on basket-b broke .* ZeroDivisionError: a bug over two lines"):
        REGISTRY.bindings["Grow"].decide(Basket("b"), Grow(basket_id="b"))


def test_an_aggregate_that_is_read_may_not_be_changed() -> None:
    binding = REGISTRY.bindings["FillBasket"]
    binding.decide(Basket("b"), FillBasket(basket_id="b"), [customer_named("b")])
    with pytest.raises(DecideFailed, match="only read"):
        binding.decide(Basket("b"), FillBasket(basket_id="b", notes={"meddle": 1}), [customer_named("b")])


def one_command_twice() -> list[type[Aggregate]]:
    class Cart(Aggregate, id_field="basket_id"):
        def grow(self, command: Grow) -> None: ...

    return [Customer, Basket, Cart]


def one_category_twice() -> list[type[Aggregate]]:
    class Cart(Aggregate, category="basket"):
        pass

    return [Customer, Basket, Cart]


def no_id_in_the_command() -> list[type[Aggregate]]:
    class Cart(Aggregate):
        def grow(self, command: Grow) -> None: ...

    return [Cart]


def a_read_that_is_no_aggregate() -> list[type[Aggregate]]:
    class Cart(Aggregate, id_field="basket_id"):
        def grow(self, command: Grow, other: int) -> None: ...

    return [Cart]


def a_read_without_a_fixed_id() -> list[type[Aggregate]]:
    class Cart(Aggregate, id_field="basket_id"):
        def grow(self, command: Grow, order: Order) -> None: ...

    return [Customer, Order, Cart]


def one_event_name_twice() -> list[type[Aggregate]]:
    class BasketFilled(Event):
        pass

    class Cart(Aggregate):
        def on_filled(self, event: BasketFilled) -> None: ...

    return [Customer, Basket, Cart]


@pytest.mark.parametrize(
    ("aggregates", "expected"),
    [
        (one_command_twice, r"Basket\.grow and .*Cart\.grow both decide it"),
        (one_category_twice, "both claim it: name another"),
        (no_id_in_the_command, r"Grow\.cart_id: Cart needs it"),
        (lambda: [Order], "reads Customer, which is not registered"),
        (a_read_that_is_no_aggregate, "annotate the parameters after the command"),
        (a_read_without_a_fixed_id, "reads Order, whose id is not its partition key"),
        (one_event_name_twice, "BasketFilled both claim it"),
    ],
)
def test_an_application_that_cannot_work_is_refused_at_once(
    aggregates: Callable[[], list[type[Aggregate]]], expected: str
) -> None:
    with pytest.raises(InvalidValue) as caught:
        AggregateRegistry(aggregates())
    assert re.search(expected, str(caught.value))
