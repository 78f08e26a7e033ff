"""A page of stored rows decoded at once: the same events, the same errors."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from store import Event, EventrayError, EventRecord, EventRegistry, UndecodableEvent, UnknownEventType


class Opened(Event):
    name: str


REGISTRY = EventRegistry([Opened])


def record(version: int, event_type: str, data: str, schema_version: int = 1) -> EventRecord:
    return EventRecord(
        0, version, "account-1", version, "1", b"\0" * 16, event_type, schema_version, data, "{}", None, None, 0
    )


def opened(version: int, data: str = '{"name":"a"}') -> EventRecord:
    return record(version, "Opened", data)


def test_events_come_in_order_each_with_its_record() -> None:
    class Closed(Event):
        why: str

    registry = EventRegistry([Opened, Closed])
    records = [
        opened(1, '{"name":"a"}'),
        record(2, "Closed", '{"why":"b"}'),
        opened(3, '{"name":"c"}'),
        opened(4, '{"name":"d"}'),
        record(5, "Closed", '{"why":"e"}'),
    ]
    events = registry.decode_many(records)
    assert events == [registry.decode(each) for each in records]
    assert [event.envelope for event in events] == records
    assert registry.decode_many(records[:1]) == events[:1]
    assert registry.decode_many([]) == []


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (opened(3, '{"name":1}'), UndecodableEvent),
        (opened(3, "{"), UndecodableEvent),
        (opened(3, '{"name":"a"},{"name":"b"}'), UndecodableEvent),
        (opened(3, ""), UndecodableEvent),
        (record(3, "Lost", "{}"), UnknownEventType),
        (record(3, "Opened", '{"name":"a"}', schema_version=0), UnknownEventType),
    ],
)
def test_the_first_guilty_event_is_named(bad: EventRecord, error: type[EventrayError]) -> None:
    records = [opened(1), opened(2), bad, opened(4, "[]"), record(5, "Lost", "{}")]
    with pytest.raises(error) as caught:
        REGISTRY.decode_many(records)
    with pytest.raises(error) as alone:
        REGISTRY.decode(bad)
    assert caught.value.args == alone.value.args


def test_a_string_cut_off_in_one_record_does_not_end_in_another() -> None:
    with pytest.raises(UndecodableEvent, match="version 1"):
        REGISTRY.decode_many([opened(1, '{"name":"a"},{"name":"b'), opened(2, 'c"}')])


@given(
    st.lists(st.text(max_size=12) | st.sampled_from(['{"name":"a"}', '{"name":"a"},', '"', "{", "}", ",", "[", "]"]))
)
def test_whatever_the_rows_hold_it_does_what_decoding_one_by_one_does(texts: list[str]) -> None:
    records = [opened(version, text) for version, text in enumerate(texts, 1)]
    assert _outcome(REGISTRY.decode_many, records) == _outcome(
        lambda rows: [REGISTRY.decode(row) for row in rows], records
    )


def _outcome(decode: Any, records: list[EventRecord]) -> Any:
    try:
        return decode(records)
    except EventrayError as error:
        return type(error), error.args
