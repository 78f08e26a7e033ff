"""Values as texts: equal ones have one text, whatever they were read from, and others have another."""

from __future__ import annotations

import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from projections.columns import Moment, Money
from projections.row_texts import RowTexts, differing, named, text_of

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Colour(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Decimal(42), Decimal("42.00")),
        (Decimal("4.2E+3"), 4200),
        (Decimal("-0.0"), 0),
        (True, 1),
        (NOON, NOON.astimezone(timezone(timedelta(hours=2)))),
        (NOON, NOON.replace(tzinfo=None)),
        (0.1 + 0.2, 0.3),
        (Size.BIG, "big"),
        (Colour.RED, "red"),
        (b"x", memoryview(b"x")),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    ],
)
def test_equal_values_have_one_text(one: Any, other: Any) -> None:
    assert text_of(one) == text_of(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (None, "None"),
        (None, ""),
        (Decimal("0.01"), Decimal("0.02")),
        (Decimal("12345678901234.0001"), Decimal("12345678901234.0002")),
        (10**18, 10**18 + 1),
        (NOON, NOON + timedelta(microseconds=1)),
        (date(2026, 3, 1), date(2026, 3, 2)),
        (1.0, 1.0001),
        (" a", "a"),
        (uuid.UUID(int=1), uuid.UUID(int=2)),
        ([1, 2], [2, 1]),
    ],
)
def test_others_have_another(one: Any, other: Any) -> None:
    assert text_of(one) != text_of(other)


def test_a_row_that_events_made_has_the_texts_of_one_that_was_read() -> None:
    table = Table(
        "rows",
        MetaData(),
        Column("name", Text, primary_key=True),
        Column("number", Integer, primary_key=True),
        Column("amount", Money),
        Column("at", Moment),
    )
    texts = RowTexts(table)
    made = {"name": "a", "number": 1, "amount": 42, "at": NOON.astimezone(timezone(timedelta(hours=-3)))}
    read = {"name": "a", "number": 1, "amount": Decimal("42.00"), "at": NOON}
    assert texts.of_made(made) == texts.of_read(read)
    assert texts.as_json(texts.of_read(read))[0] == '["a", "1"]'
    other = texts.of_read({**read, "amount": Decimal("41.99"), "at": None})
    column, said = differing(table, other, texts.of_made(made))
    assert column == "amount"
    assert said == "amount is 41.99, and the log says 42; at is NULL, and the log says 2026-03-01T12:00:00+00:00"
    assert named(table, other) == "name a, number 1, amount 41.99, at NULL"
    with pytest.raises(ValueError, match="no amount of at most 4 decimals"):
        texts.of_made({**made, "amount": Decimal("0.00001")})
