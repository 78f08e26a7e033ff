"""Stored events kept column by column: the same as a list of records, made only where it is asked for."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

from actors.customers import Customer, CustomerCreated, CustomerEmailChanged
from store.codec import EventRegistry
from store.columns import PLACES, EventColumns, column, envelopes
from store.records import EventRecord, Histories, moment

REGISTRY = EventRegistry([CustomerCreated, CustomerEmailChanged])
FOLDED = {"stream", "version", "partition_key", "type", "schema_version", "data"}
CREATED = '{"customer_id":"c-1","name":"Ada","email":"c-1.1@example.com","type":"Regular"}'
CHANGED = '{"customer_id":"c-1","old_email":"c-1.1@example.com","new_email":"c-1.2@example.com"}'


def record(version: int, kind: str, schema_version: int, data: str) -> EventRecord:
    place = (7, 10 + version, "customer-c-1", version, "c-1")
    event_id = uuid.UUID(int=version).bytes
    return EventRecord(
        *place, event_id, kind, schema_version, data, '{"command_id":"k"}', f"k-{version}", None, version
    )


RECORDS = [record(1, "CustomerCreated", 2, CREATED), record(2, "CustomerEmailChanged", 1, CHANGED)]


def columns_of(records: Sequence[EventRecord], asked: list[str]) -> EventColumns:
    """Columns that note which of them are asked for."""

    def made(name: str, values: list[Any]) -> Any:
        def make() -> list[Any]:
            asked.append(name)
            return values

        return make

    of_names = zip(PLACES, map(list, zip(*records, strict=True)), strict=True)
    return EventColumns([made(name, values) for name, values in of_names], len(records))


def test_they_are_a_sequence_of_records_like_any_other() -> None:
    columns = columns_of(RECORDS, [])
    assert columns == RECORDS
    assert Histories({}, RECORDS) == Histories({}, columns)
    assert columns != RECORDS[:1]
    assert (len(columns), list(columns), columns[1], columns[-1:]) == (2, RECORDS, RECORDS[1], RECORDS[1:])
    assert repr(columns) == repr(RECORDS)
    assert list(column(columns, "version")) == list(column(RECORDS, "version")) == [1, 2]
    assert [each if isinstance(each, EventRecord) else each[0][each[1]] for each in envelopes(columns)] == RECORDS


def test_folding_leaves_the_other_columns_as_they_came() -> None:
    asked: list[str] = []
    columns = columns_of(RECORDS, asked)
    customer = Customer("c-1")
    customer.load_from_history(REGISTRY.decode_many(columns), column(columns, "version"))
    assert (customer.version, customer.email) == (2, "c-1.2@example.com")
    assert set(asked) <= FOLDED


def test_an_event_that_is_asked_has_its_record() -> None:
    asked: list[str] = []
    created, changed = REGISTRY.decode_many(columns_of(RECORDS, asked))
    assert set(asked) <= FOLDED
    assert (changed.version, changed.id, changed.occurred_at) == (2, uuid.UUID(int=2), moment(2))
    assert changed.metadata.command_id == "k"
    assert [created.envelope, changed.envelope] == RECORDS
    assert sorted(asked) == sorted(PLACES)  # each once
