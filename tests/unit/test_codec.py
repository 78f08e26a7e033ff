"""Typed events to stored rows and back."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError, field_validator

from store import Event, EventRecord, EventRegistry, InvalidValue, UndecodableEvent, UnknownEventType
from store.records import micros, moment
from store.upcasting import Json, Upcaster


def in_decimals(data: Json) -> Json:
    return {"invoice_id": data["invoice_id"], "amount": str(data["cents"] / 100)}


class Paid(Event, event_type="InvoicePaid", schema_version=2, upcasters=[Upcaster(1, 2, in_decimals)]):
    invoice_id: str
    amount: Decimal


class Sent(Event):
    invoice_id: str


class OtherSent(Event, event_type="Sent"):
    invoice_id: str


class Noted(Event):
    text: str = ""
    value: Any = None

    @field_validator("text")
    @classmethod
    def _check(cls, text: str) -> str:
        if text == "break":
            raise KeyError("a bug in a validator")
        return text


class Point(BaseModel):
    x: float


class Unshown:
    def __repr__(self) -> str:
        raise LookupError("no text")


@dataclass
class Line:
    start: datetime


def record(data: str, event_type: str = "InvoicePaid", schema_version: int = 2, metadata: str = "{}") -> EventRecord:
    event_id = uuid.UUID(int=7).bytes
    return EventRecord(
        3, 9, "invoice-1", 4, "1", event_id, event_type, schema_version, data, metadata, None, None, 1_500_000
    )


def test_an_event_comes_back_equal_with_its_envelope() -> None:
    registry = EventRegistry([Paid, Sent])
    paid = Paid(invoice_id="1", amount=Decimal("10.10"))
    data = registry.encode(paid)
    assert data == '{"invoice_id":"1","amount":"10.10"}'
    decoded = registry.decode(record(data))
    assert decoded == paid
    assert (decoded.id, decoded.version) == (uuid.UUID(int=7), 4)
    assert decoded.occurred_at == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)


def test_the_commands_own_date_is_when_it_occurred() -> None:
    event = EventRegistry([Paid]).decode(
        record('{"invoice_id":"1","amount":"1"}', metadata='{"occurred_at":-86400000000}')
    )
    assert event.occurred_at == datetime(1969, 12, 31, tzinfo=UTC)


def test_stored_names_are_given_or_the_class_name() -> None:
    assert (Paid.event_type, Paid.schema_version) == ("InvoicePaid", 2)
    assert (Sent.event_type, Sent.schema_version) == ("Sent", 1)
    assert EventRegistry([Paid, Sent]).types == {"InvoicePaid": Paid, "Sent": Sent}


def test_two_types_of_one_stored_name_are_refused() -> None:
    with pytest.raises(InvalidValue, match="Sent"):
        EventRegistry([Sent, OtherSent])


@pytest.mark.parametrize(("event_type", "schema_version"), [("InvoiceLost", 2), ("InvoicePaid", 0)])
def test_an_unknown_type_or_version_is_named(event_type: str, schema_version: int) -> None:
    with pytest.raises(UnknownEventType, match=rf"{event_type} \(schema version {schema_version}\)"):
        EventRegistry([Paid]).decode(record("{}", event_type, schema_version))


def test_an_event_of_another_class_is_not_encoded() -> None:
    with pytest.raises(UnknownEventType, match="Sent"):
        EventRegistry([OtherSent]).encode(Sent(invoice_id="1"))


@pytest.mark.parametrize("data", ["", "[]", '{"invoice_id":"1"}', '{"invoice_id":"1","amount":"1","more":1}', "{"])
def test_data_that_do_not_fit_are_an_error_that_names_the_event(data: str) -> None:
    with pytest.raises(UndecodableEvent, match="invoice-1 version 4 of type InvoicePaid"):
        EventRegistry([Paid]).decode(record(data))


def test_a_validator_that_breaks_on_stored_data_is_named() -> None:
    with pytest.raises(UndecodableEvent, match="invoice-1 version 4 of type Noted can't be decoded: KeyError: 'a bug"):
        EventRegistry([Noted]).decode(record('{"text":"break"}', "Noted", 1))


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


@pytest.mark.parametrize(
    ("value", "field", "remedy"),
    [
        (float("nan"), "Noted.value", "a finite number"),
        ({"a": [0.0, float("-inf")]}, "Noted.value.a.1", "a finite number"),
        ([Point(x=1.0), Point(x=float("nan"))], "Noted.value.1.x", "a finite number"),
        (2**63, "Noted.value", "at most 64 bits"),
        ((1, -(2**63) - 1), "Noted.value.1", "at most 64 bits"),
        pytest.param(10**9000, "Noted.value", "at most 64 bits", id="huge"),
        ({2**64: 1}, "Noted.value (a key)", "at most 64 bits"),
        (datetime(2026, 5, 1), "Noted.value", "a time with its zone"),
        (Line(datetime(2026, 5, 1)), "Noted.value.start", "a time with its zone"),
        ("\ud800", "Noted.value", "lone surrogates"),
        ({"\udfff": 1}, "Noted.value (a key)", "lone surrogates"),
        ("a\0b", "Noted.value", "NUL"),
        (nested(100), "Noted.value" + ".0" * 24 + ".", "nest lists and objects at most 100 deep"),
        (object(), "Noted", "leave out what JSON can't hold"),
        (Unshown(), "Noted", "leave out what JSON can't hold"),
        ("x" * 2**20, "Noted", "at most 1048576 bytes"),
        ("\u00e4" * 2**19, "Noted", "at most 1048576 bytes"),
    ],
)
def test_what_no_store_can_give_back_is_refused_by_name(value: Any, field: str, remedy: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        EventRegistry([Noted]).encode(Noted(value=value))
    assert caught.value.field == field
    assert remedy in caught.value.remedy


@pytest.mark.parametrize("text", ["\ud800", "a\0b"])
def test_odd_text_is_refused_in_plain_fields_too(text: str) -> None:
    with pytest.raises(InvalidValue, match="Sent"):
        EventRegistry([Sent]).encode(Sent(invoice_id=text))


@pytest.mark.parametrize(
    "value", [None, True, -(2**63), 1.5, "\\u0000 \u00e4 \U0001f600", nested(99), {"a": {"b": [1]}}]
)
def test_what_is_stored_comes_back_unchanged(value: Any) -> None:
    registry = EventRegistry([Noted])
    decoded = registry.decode(record(registry.encode(Noted(value=value)), "Noted", 1))
    assert decoded == Noted(value=value)


def test_the_size_of_a_payload_is_bounded_in_bytes() -> None:
    registry = EventRegistry([Sent], payload_size_max_bytes=40)
    registry.encode(Sent(invoice_id="x" * 23))
    with pytest.raises(InvalidValue, match="Sent = 41 bytes: an event of at most 40 bytes was expected"):
        registry.encode(Sent(invoice_id="x" * 24))


def test_events_are_values() -> None:
    one, other = Sent(invoice_id="1"), Sent(invoice_id="1")
    assert one == other
    assert one.id != other.id
    assert one.id == one.id
    with pytest.raises(ValidationError):
        one.invoice_id = "2"


def test_moments_are_counted_in_microseconds_exactly() -> None:
    date = datetime(2026, 3, 1, 1, 2, 3, 456_789, tzinfo=timezone(timedelta(hours=2)))
    assert moment(micros(date)) == date
    assert micros(datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)) == -1
