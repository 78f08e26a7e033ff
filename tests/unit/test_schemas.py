"""Frozen event schemas: which change of a class breaks stored rows, and what the verb says of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, create_model
from typer.testing import CliRunner

from cluster.application import default_application
from cluster.cli.verbs import verbs
from store import Event, EventRegistry, InvalidValue, Upcaster
from store.event_schemas import (
    BreakingChange,
    Frozen,
    SchemaChange,
    changes_since,
    frozen_anew,
    read_frozen,
    schema_of,
    write_frozen,
)

SHIPPED = Path(__file__).parents[2] / "schemas.json"


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class OneColour(StrEnum):
    RED = "red"


class Item(BaseModel):
    sku: str
    count: int = 1


class StrictItem(BaseModel):
    sku: str
    count: Annotated[int, Field(le=10)] = 1


class Tree(BaseModel):
    children: list[Tree] = []


class ShyTree(BaseModel):
    children: Annotated[list[ShyTree], Field(max_length=2)] = []


def filled(**fields: Any) -> type[Event]:
    return create_model("Filled", __base__=Event, **fields)


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[SchemaChange]:
    frozen = frozen_anew({}, EventRegistry([filled(**old)]))
    through_json: Frozen = json.loads(json.dumps(frozen))
    return changes_since(through_json, EventRegistry([filled(**new)]))


def kept(kind: Any) -> tuple[Any, Any]:
    """A field without a default."""
    return (kind, ...)


TEXT = {"a": kept(str)}

BREAKING = [
    (TEXT, {}, "a", "it was removed"),
    ({}, TEXT, "a", "it was added without a default"),
    (TEXT, {"b": kept(str)}, "a", "it was renamed to b"),
    ({"a": (str, "x")}, TEXT, "a", "its default was taken away"),
    (TEXT, {"a": kept(int)}, "a", "its type changed from string to integer"),
    ({"a": kept(float)}, {"a": kept(int)}, "a", "its type changed from number to integer"),
    ({"a": kept(Any)}, TEXT, "a", "its type changed from any to string"),
    ({"a": kept(str | None)}, TEXT, "a", "it no longer takes null"),
    ({"a": kept(int | str)}, {"a": kept(str | None)}, "a", "it no longer takes integer"),
    (TEXT, {"a": kept(Annotated[str, Field(max_length=9)])}, "a", "it was narrowed to maxLength 9"),
    (
        {"a": kept(Annotated[int, Field(ge=0)])},
        {"a": kept(Annotated[int, Field(ge=1)])},
        "a",
        "it was narrowed to minimum 1 (it was 0)",
    ),
    (TEXT, {"a": kept(Annotated[str, Field(pattern="x")])}, "a", "it was narrowed to pattern x"),
    (
        {"a": kept(str | None)},
        {"a": kept(Annotated[str, Field(min_length=1)] | None)},
        "a",
        "it was narrowed to minLength 1",
    ),
    ({"a": kept(Decimal)}, {"a": kept(Annotated[Decimal, Field(max_digits=4)])}, "a", "it was narrowed to maxDigits 4"),
    (
        {"a": kept(Annotated[Decimal, Field(ge=Decimal("0.5"))])},
        {"a": kept(Annotated[Decimal, Field(ge=Decimal("0.75"))])},
        "a",
        "it was narrowed to minimum 0.75 (it was 0.5)",
    ),
    (TEXT, {"a": kept(Decimal)}, "a", "it was narrowed to format decimal"),
    ({"a": kept(Colour)}, {"a": kept(OneColour)}, "a", "it no longer takes blue"),
    (TEXT, {"a": kept(Colour)}, "a", "it takes only red, blue now"),
    ({"a": kept(Literal["x", "y"])}, {"a": kept(Literal["x"])}, "a", "it no longer takes y"),
    ({"a": kept(list[Item])}, {"a": kept(list[StrictItem])}, "a[].count", "it was narrowed to maximum 10"),
    ({"a": kept(dict[str, int])}, {"a": kept(dict[str, str])}, "a{}", "its type changed from integer to string"),
    ({"a": kept(tuple[int, str])}, {"a": kept(tuple[int, int])}, "a[1]", "its type changed from string to integer"),
    ({"a": kept(list[int])}, {"a": kept(set[int])}, "a", "it was narrowed to uniqueItems True"),
    ({"a": kept(Tree)}, {"a": kept(ShyTree)}, "a.children", "it was narrowed to maxItems 2"),
    ({"a": kept(Item)}, {"a": kept(OneColour)}, "a", "its type changed from object to string"),
]

COMPATIBLE = [
    (TEXT, {**TEXT, "b": (int, 0)}),
    (TEXT, {"a": (str, "now with a default")}),
    ({"a": kept(int)}, {"a": kept(float)}),
    (TEXT, {"a": kept(str | None)}),
    (TEXT, {"a": kept(Any)}),
    ({"a": kept(OneColour)}, {"a": kept(Colour)}),
    ({"a": kept(Colour)}, TEXT),
    ({"a": kept(Annotated[str, Field(max_length=9)])}, {"a": kept(Annotated[str, Field(max_length=10)])}),
    ({"a": kept(Annotated[int, Field(ge=2)])}, {"a": kept(Annotated[int, Field(ge=1)])}),
    ({"a": kept(Annotated[int, Field(ge=2)])}, {"a": kept(int)}),
    ({"a": kept(list[StrictItem])}, {"a": kept(list[Item])}),
    ({"a": kept(ShyTree)}, {"a": kept(Tree)}),
    ({"a": kept(tuple[int, int])}, {"a": kept(Annotated[list[int], Field(max_length=2)])}),
]

SAME: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (TEXT, TEXT),
    ({"a": (str, "one")}, {"a": (str, "another default")}),
    (TEXT, {"a": kept(Annotated[str, Field(title="A", description="the first letter", examples=["x"])])}),
    ({"title": kept(str), "b": kept(str)}, {"b": kept(str), "title": kept(str)}),
    ({"a": kept(Tree)}, {"a": kept(Tree)}),
]


@pytest.mark.parametrize(("old", "new", "field", "what"), BREAKING)
def test_a_breaking_change_names_type_version_and_field(
    old: dict[str, Any], new: dict[str, Any], field: str, what: str
) -> None:
    first = changes(old, new)[0]
    assert (first.event_type, first.version, first.field, first.breaking) == ("Filled", 1, field, True)
    assert first.what == f"{what}: raise schema_version and add an upcaster"
    assert str(first) == f"Filled version 1, field {field}: {first.what}"


@pytest.mark.parametrize(("old", "new"), COMPATIBLE)
def test_a_change_that_takes_all_old_rows_only_asks_to_be_frozen(old: dict[str, Any], new: dict[str, Any]) -> None:
    (change,) = changes(old, new)
    assert (change.event_type, change.version, change.breaking) == ("Filled", 1, False)


@pytest.mark.parametrize(("old", "new"), SAME)
def test_what_stored_rows_do_not_feel_is_no_change(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert changes(old, new) == []


class Paid(Event, event_type="InvoicePaid"):
    cents: int


class PaidInDecimals(Event, event_type="InvoicePaid", schema_version=2, upcasters=[Upcaster(1, 2, dict)]):
    amount: Decimal


def test_a_new_version_with_its_upcaster_may_be_anything_and_the_old_schema_stays() -> None:
    frozen = frozen_anew({}, EventRegistry([Paid]))
    registry = EventRegistry([PaidInDecimals])
    assert [(change.version, change.breaking) for change in changes_since(frozen, registry)] == [(2, False)]
    renewed = frozen_anew(frozen, registry)
    assert renewed == {"InvoicePaid": {"1": schema_of(Paid), "2": schema_of(PaidInDecimals)}}
    assert changes_since(renewed, registry) == []


def test_a_version_that_went_back_and_a_type_that_is_gone_break() -> None:
    frozen = frozen_anew({}, EventRegistry([PaidInDecimals]))
    (back,) = changes_since(frozen, EventRegistry([Paid]))
    assert back.breaking
    assert "version 2 is frozen already" in back.what
    (gone,) = changes_since(frozen, EventRegistry([]))
    assert (gone.event_type, gone.version, gone.breaking) == ("InvoicePaid", 2, True)


def test_a_breaking_change_is_not_frozen() -> None:
    frozen = frozen_anew({}, EventRegistry([filled(**TEXT)]))
    with pytest.raises(BreakingChange, match="Filled version 1, field a: it was removed"):
        frozen_anew(frozen, EventRegistry([filled()]))


def test_the_file_is_stable_and_read_back_as_it_was(tmp_path: Path) -> None:
    frozen: Frozen = {"B": {"10": {"type": "object"}, "9": {"z": 1, "a": [{"y": 1, "b": 2}]}}, "A": {"1": {}}}
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    write_frozen(one, frozen)
    write_frozen(other, dict(reversed(frozen.items())))
    assert one.read_bytes() == other.read_bytes()
    assert read_frozen(one) == frozen
    assert [*json.loads(one.read_text())["B"]] == ["9", "10"]
    assert read_frozen(tmp_path / "none.json") == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"A":1}', '{"A":{"first":{}}}', '{"A":{"1":7}}', "\udcff"])
def test_a_file_that_holds_no_schemas_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schemas.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InvalidValue, match=r"schemas\.json"):
        read_frozen(path)


def test_a_type_that_json_schema_cannot_describe_is_named() -> None:
    with pytest.raises(InvalidValue, match="Filled"):
        schema_of(filled(a=kept(Callable[[], int])))


def test_the_shipped_events_are_frozen_with_every_version() -> None:
    frozen = read_frozen(SHIPPED)
    assert changes_since(frozen, default_application().registry.events) == []
    assert [*frozen["CustomerCreated"]] == ["1", "2"]
    assert "type" not in frozen["CustomerCreated"]["1"]["properties"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(verbs, ["schema", *arguments])
    return result.exit_code, result.output


def test_the_verb_freezes_checks_and_fails_on_a_breaking_change(tmp_path: Path) -> None:
    path = tmp_path / "schemas.json"
    code, output = run("check", "--file", str(path))
    assert (code, "no such file" in output) == (1, True)
    code, output = run("freeze", "--file", str(path))
    assert (code, "5 event types, 5 changed" in output) == (0, True)
    assert run("check", "--file", str(path))[0] == 0

    frozen = json.loads(path.read_text())
    frozen["OrderCreated"]["1"]["properties"]["note"] = {"type": "string"}
    del frozen["CustomerDeactivated"]["1"]["properties"]["reason"]
    frozen["CustomerDeactivated"]["1"]["required"].remove("reason")
    del frozen["CustomerPromoted"]
    path.write_text(json.dumps(frozen))
    code, output = run("check", "--file", str(path))
    assert code == 1
    assert "BREAKING: OrderCreated version 1, field note: it was removed" in output
    assert "BREAKING: CustomerDeactivated version 1, field reason: it was added without a default" in output
    assert "compatible: CustomerPromoted version 1: this type is new" in output
    code, output = run("check", "--json", "--file", str(path))
    assert code == 1
    assert [change["field"] for change in json.loads(output)["breaking"]] == ["reason", "note"]
    before = path.read_bytes()
    code, output = run("freeze", "--file", str(path))
    assert (code, "OrderCreated version 1, field note" in output) == (1, True)
    assert path.read_bytes() == before


def test_a_compatible_change_passes_and_asks_to_be_frozen(tmp_path: Path) -> None:
    path = tmp_path / "schemas.json"
    run("freeze", "--file", str(path))
    frozen = json.loads(path.read_text())
    del frozen["CustomerPromoted"]
    path.write_text(json.dumps(frozen))
    code, output = run("check", "--file", str(path))
    assert code == 0
    assert "eventray schema freeze" in output
