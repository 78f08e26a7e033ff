"""Rows of older schema versions: brought up to date on reading, and errors at start-up where that can't work."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from actors import AggregateRegistry
from actors.customers import Customer, CustomerCreated, CustomerType, Order
from projections.customers import CustomerProjection
from projections.folding import Folder
from store import Event, EventRecord, EventRegistry, InvalidValue, NewerSchema, UndecodableEvent
from store.upcasting import Json, Upcaster

FIXTURE = Path(__file__).parents[1] / "fixtures" / "customer_created_v1.jsonl"
REGISTRY = AggregateRegistry([Customer, Order])


def version_1_rows() -> list[EventRecord]:
    rows = [json.loads(line) for line in FIXTURE.read_text("utf-8").splitlines()]
    return [EventRecord(**{**row, "event_id": uuid.UUID(row["event_id"]).bytes}) for row in rows]


def record(event_type: str, schema_version: int, data: str) -> EventRecord:
    return EventRecord(0, 1, "note-1", 1, "1", bytes(16), event_type, schema_version, data, "{}", None, None, 0)


def add_tags(data: Json) -> Json:
    return {**data, "tags": []}


def join_lines(data: Json) -> Json:
    data["text"] = "\n".join(data.pop("lines"))
    return data


STEPS = [Upcaster(2, 3, add_tags), Upcaster(1, 2, join_lines)]


def note(schema_version: int, upcasters: list[Upcaster]) -> type[Event]:
    class Note(Event, event_type="NoteWritten", schema_version=schema_version, upcasters=upcasters):
        text: str
        tags: list[str]

    return Note


def test_rows_of_version_1_fold_to_customers() -> None:
    rows = version_1_rows()
    assert [row.schema_version for row in rows] == [1, 1, 1]
    for row in rows:
        assert "type" not in json.loads(row.data)
        event = REGISTRY.events.decode(row)
        assert isinstance(event, CustomerCreated)
        customer = Customer(row.partition_key)
        customer.load_from_history([event])
        assert (customer.version, customer.type, customer.name) == (1, CustomerType.REGULAR, event.name)
        assert (event.id, event.metadata.command_id) == (uuid.UUID(bytes=row.event_id), row.command_key)
    assert rows[1].data.count("Ångström") == 1


def test_a_step_is_taken_from_each_older_version_in_order() -> None:
    registry = EventRegistry([note(3, STEPS)])
    first = registry.decode(record("NoteWritten", 1, '{"lines":["a","b"]}'))
    second = registry.decode(record("NoteWritten", 2, '{"text":"a\\nb"}'))
    third = registry.decode(record("NoteWritten", 3, '{"text":"a\\nb","tags":[]}'))
    assert first == second == third


def test_rows_of_the_present_version_meet_no_upcaster() -> None:
    def broken(_data: Json) -> Json:
        raise AssertionError("called for a row that is up to date")

    registry = EventRegistry([note(2, [Upcaster(1, 2, broken)])])
    decoded: Any = registry.decode(record("NoteWritten", 2, '{"text":"a","tags":["b"]}'))
    assert decoded.tags == ["b"]


@pytest.mark.parametrize(
    ("schema_version", "steps", "step", "remedy"),
    [
        (3, [(2, 3)], "1 -> 2", "missing"),
        (3, [(1, 2)], "2 -> 3", "missing"),
        (2, [], "1 -> 2", "missing"),
        (3, [(1, 2), (2, 3), (1, 2)], "1 -> 2", "two upcasters claim this step"),
        (3, [(1, 2), (2, 3), (3, 1)], "3 -> 1", "loop"),
        (2, [(1, 2), (2, 2)], "2 -> 2", "loop"),
        (2, [(1, 2), (2, 3)], "2 -> 3", "beyond the class's version 2"),
        (3, [(1, 3), (2, 3)], "1 -> 3", "leaps"),
        (2, [(0, 1), (1, 2)], "0 -> 1", "count from 1"),
    ],
)
def test_steps_that_are_no_chain_are_an_error_at_start_up(
    schema_version: int, steps: list[tuple[int, int]], step: str, remedy: str
) -> None:
    upcasters = [Upcaster(first, last, add_tags) for first, last in steps]
    with pytest.raises(InvalidValue) as caught:
        EventRegistry([note(schema_version, upcasters)])
    assert (caught.value.field, caught.value.value) == ("NoteWritten.upcasters", step)
    assert remedy in caught.value.remedy


def test_versions_count_from_1() -> None:
    with pytest.raises(InvalidValue, match=r"NoteWritten\.schema_version = 0: count versions from 1"):
        EventRegistry([note(0, [])])


def test_a_row_of_a_newer_version_is_named() -> None:
    registry = EventRegistry([note(1, [])])
    with pytest.raises(NewerSchema) as caught:
        registry.decode(record("NoteWritten", 2, "{}"))
    message = "Event note-1 version 1 of type NoteWritten has schema version 2, this code knows 1 at most"
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ('{"line":[]}', "upcaster 1 -> 2: KeyError: 'lines'"),
        ('{"lines":7}', "upcaster 1 -> 2: TypeError"),
        ('{"lines":["a"],"more":1}', "more: Extra inputs are not permitted"),
        ("[]", "its JSON: TypeError: a JSON object was expected"),
        ("{", "its JSON: ValueError: EOF"),
        ('{"lines":NaN}', "its JSON: ValueError"),
    ],
)
def test_what_an_upcaster_cannot_bring_up_to_date_names_event_and_step(data: str, reason: str) -> None:
    registry = EventRegistry([note(3, STEPS)])
    with pytest.raises(UndecodableEvent) as caught:
        registry.decode(record("NoteWritten", 1, data))
    assert "Event note-1 version 1 of type NoteWritten can't be decoded: " + reason in str(caught.value)


@pytest.mark.parametrize(("made", "reason"), [(None, "1 -> 2: TypeError"), ({"text": object()}, "made of it")])
def test_an_upcaster_that_makes_no_json_is_named(made: Any, reason: str) -> None:
    registry = EventRegistry([note(3, [Upcaster(1, 2, lambda _data: made), Upcaster(2, 3, lambda data: data)])])
    with pytest.raises(UndecodableEvent, match=reason):
        registry.decode(record("NoteWritten", 1, "{}"))


def test_a_renamed_or_moved_class_reads_the_rows_of_its_stored_name() -> None:
    class NoteWritten(Event):
        text: str

    data = EventRegistry([NoteWritten]).encode(NoteWritten(text="a"))

    class Jotted(Event, event_type="NoteWritten"):
        text: str

    assert (NoteWritten.__module__, Jotted.event_type) == (__name__, "NoteWritten")
    decoded = EventRegistry([Jotted]).decode(record("NoteWritten", 1, data))
    assert decoded == Jotted(text="a")
    assert __name__ not in data


def test_a_subclass_begins_at_version_1_without_steps() -> None:
    class Note(note(2, [Upcaster(1, 2, add_tags)])):  # type: ignore[misc]
        pass

    assert (Note.event_type, Note.schema_version, Note.upcasters) == ("Note", 1, ())


def test_a_projection_skips_types_that_nobody_knows_and_reads_older_rows() -> None:
    rows = version_1_rows()
    unknown = rows[0]._replace(type="CustomerTeleported", data="{")
    known = [row[0] for row in folded(rows)]
    assert known == ["c-1", "c-2", "c-3"]
    assert [row[0] for row in folded([unknown, *rows])] == known
    assert folded([unknown]) == []


def folded(rows: list[EventRecord]) -> list[Any]:
    """The keys and changes that the records cause."""
    folder = Folder(CustomerProjection, REGISTRY.events)
    changes = folder.fold(folder.decode(rows))
    return [(key, change.insert) for _, changed in changes.items() for key, change in changed]
