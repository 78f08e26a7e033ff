"""Metadata: what callers may send along, how it follows from command to event to command, and who pays for it."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from actors import Aggregate, AggregateRegistry, Command
from actors.customers import CreateCustomer, CustomerCreated, PromoteToVip
from actors.errors import InvalidCommand
from actors.metadata import METADATA_SIZE_MAX_BYTES, because_of, following, packed_metadata, packed_moment
from actors.wire import Receipt
from projections import Handler
from projections.callbacks import CallbackSink, wanted_types
from projections.deliveries import Deliveries
from store import Event, EventRecord, EventRegistry, InvalidValue, UndecodableEvent, open_store
from store.metadata import Metadata
from store.records import micros
from tests.hosts import REGISTRY, HostUnderTest, host_on

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
PROMOTE = PromoteToVip(customer_id="c-1", reason="loyal")
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
MAY = datetime(2026, 5, 1, 12, tzinfo=UTC)


class Noted(Event):
    text: str


class Jot(Command):
    pad_id: str
    texts: list[str]


class Pad(Aggregate):
    def jot(self, command: Jot) -> None:
        for text in command.texts:
            self.raise_event(Noted(text=text))

    def on_noted(self, event: Noted) -> None: ...


def event(metadata: str) -> Event:
    record = EventRecord(0, 1, "note-1", 1, "1", bytes(16), "Noted", 1, '{"text":"a"}', metadata, None, None, 5)
    return EventRegistry([Noted]).decode(record)


@pytest.fixture
async def host() -> AsyncIterator[HostUnderTest]:
    store = await open_store("memory://", shards=4)
    async with host_on(store) as running:
        yield running
    await store.close()


async def stored(host: HostUnderTest, version: int = 1) -> Event:
    (record,) = [record for record in await host.log() if record.version == version]
    return REGISTRY.events.decode(record)


async def test_an_event_tells_where_it_comes_from(host: HostUnderTest) -> None:
    packed = packed_metadata(
        {"correlation_id": "cart-7", "causation_id": "e-1", "asked_by": "ada", "traceparent": TRACE, "shop": {"no": 3}}
    )
    await host.submit(ADA, "k-1", metadata=packed, occurred_at=packed_moment(MAY))
    created = await stored(host)
    metadata = created.metadata
    assert (metadata.command_id, metadata.correlation_id, metadata.causation_id) == ("k-1", "cart-7", "e-1")
    assert (metadata.asked_by, metadata.traceparent, metadata.extra) == ("ada", TRACE, {"shop": {"no": 3}})
    assert metadata.digest is not None
    assert len(metadata.digest) == 32
    assert metadata.occurred_at == created.occurred_at == MAY
    assert metadata.recorded_at > MAY


async def test_each_of_a_commands_events_tells_it() -> None:
    store = await open_store("memory://", shards=4)
    async with host_on(store, registry=AggregateRegistry([Pad])) as host:
        packed = packed_metadata({"correlation_id": "cart-7", "asked_by": "ada"})
        await host.submit(
            Jot(pad_id="p", texts=["a", "b", "c"]), "k-1", metadata=packed, occurred_at=packed_moment(MAY)
        )
        first, *others = [Metadata.of(record) for record in await host.log()]
    assert (first.command_id, first.correlation_id, first.asked_by, first.occurred_at) == ("k-1", "cart-7", "ada", MAY)
    assert others == [first, first]
    await store.close()


async def test_a_commands_id_is_its_correlation_id_and_nothing_is_stored_for_it(host: HostUnderTest) -> None:
    assert packed_metadata() == packed_metadata({}) == ""
    await host.submit(ADA, "k-1", metadata=packed_metadata())
    metadata = (await stored(host)).metadata
    assert (metadata.command_id, metadata.correlation_id) == ("k-1", "k-1")
    assert (metadata.causation_id, metadata.asked_by, metadata.traceparent, metadata.extra) == (None, None, None, {})
    assert metadata.occurred_at == metadata.recorded_at
    (record,) = await host.log()
    assert set(json.loads(record.metadata)) == {"command_id", "digest"}


async def test_ids_are_carried_from_event_to_the_commands_that_follow(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1", metadata=packed_metadata({"asked_by": "ada", "traceparent": TRACE, "shop": 3}))
    created = await stored(host)
    with because_of(created):
        await host.submit(PROMOTE, "k-2", metadata=packed_metadata({"traceparent": TRACE[:-1] + "0"}))
    promoted = (await stored(host, version=2)).metadata
    assert (promoted.command_id, promoted.correlation_id, promoted.causation_id) == ("k-2", "k-1", str(created.id))
    assert (promoted.asked_by, promoted.traceparent, promoted.extra) == ("ada", TRACE[:-1] + "0", {})
    assert packed_metadata() == ""
    assert following(await stored(host, version=2))["correlation_id"] == "k-1"


async def test_what_handlers_and_subscribers_submit_follows_by_itself(host: HostUnderTest) -> None:
    packed: list[str] = []

    class Plain(Handler):
        def on_created(self, event: CustomerCreated) -> None:
            packed.append(packed_metadata())

    class Async(Handler):
        async def on_created(self, event: CustomerCreated) -> None:
            packed.append(packed_metadata())

    async def told(event: Event) -> None:
        packed.append(packed_metadata())

    await host.submit(ADA, "k-1", metadata=packed_metadata({"asked_by": "ada"}))
    (record,) = await host.log()
    for handler in (Plain(), Async()):
        deliveries = Deliveries(handler, REGISTRY.events)
        assert await deliveries.deliver(record) is None
        deliveries.close()
    for function in (told, lambda event: packed.append(packed_metadata())):
        sink = CallbackSink("bus", function, REGISTRY.events, wanted_types(REGISTRY.events, None))
        assert not (await sink.take([record])).failed
        sink.close()
    created = REGISTRY.events.decode(record)
    assert [json.loads(text) for text in packed] == [following(created)] * 4
    assert following(created) == {"correlation_id": "k-1", "causation_id": str(created.id), "asked_by": "ada"}
    assert packed_metadata() == ""


async def test_the_same_command_with_other_metadata_is_the_same_command(host: HostUnderTest) -> None:
    await host.submit(ADA, "k-1", metadata=packed_metadata({"asked_by": "ada"}))
    again = await host.submit(ADA, "k-1", metadata=packed_metadata({"asked_by": "a retry"}))
    assert isinstance(again, Receipt)
    assert again.duplicate


def test_what_follows_from_an_event_without_a_command_correlates_by_the_event() -> None:
    imported = event("{}")
    event_id = str(uuid.UUID(bytes=bytes(16)))
    assert (imported.metadata.command_id, imported.metadata.correlation_id) == (None, None)
    assert following(imported) == {"correlation_id": event_id, "causation_id": event_id}


def test_an_event_that_is_not_stored_has_no_metadata() -> None:
    with pytest.raises(InvalidValue, match="not stored yet"):
        _ = Noted(text="a").metadata


def test_metadata_are_decoded_on_access_only(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[EventRecord] = []
    original = Metadata.of

    def of(record: EventRecord) -> Metadata:
        decoded.append(record)
        return original(record)

    monkeypatch.setattr(Metadata, "of", of)
    found = event('{"command_id":"k-1"}')
    assert (found.version, found.occurred_at, decoded) == (1, datetime(1970, 1, 1, 0, 0, 0, 5, tzinfo=UTC), [])
    assert found.metadata.command_id == "k-1"
    assert len(decoded) == 1


@pytest.mark.parametrize("extra", [{"sort_by": "occurred_at"}, {"nested": {"occurred_at": 3}}])
def test_a_callers_word_is_not_taken_for_the_commands_date(extra: dict[str, Any]) -> None:
    found = event(packed_metadata(extra))
    assert micros(found.occurred_at) == micros(found.metadata.occurred_at) == 5
    assert found.metadata.extra == extra


@pytest.mark.parametrize("damaged", ["{", "[]", "7", '{"command_id":7}', '{"occurred_at":"x"}', '{"occurred_at":1e30}'])
def test_damaged_metadata_name_the_event(damaged: str) -> None:
    with pytest.raises(UndecodableEvent, match="note-1 version 1 of type Noted can't be decoded: metadata: "):
        _ = event(damaged).metadata


LOOP: list[Any] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    ("metadata", "field", "remedy"),
    [
        ({"command_id": "x"}, "metadata.command_id", "pass it as command_id="),
        ({"occurred_at": 1}, "metadata.occurred_at", "pass it as occurred_at="),
        ({"digest": "x"}, "metadata.digest", "choose another name"),
        ({"events": 2}, "metadata.events", "choose another name"),
        ({"correlation_id": 7}, "metadata.correlation_id", "a text was expected"),
        ({"correlation_id": ""}, "metadata.correlation_id", "at least one character"),
        ({"causation_id": "a\nb"}, "metadata.causation_id", "control characters"),
        ({"asked_by": "x" * 201}, "metadata.asked_by", "at most 200 bytes"),
        ({"traceparent": "00-1"}, "metadata.traceparent", "W3C"),
        ({"traceparent": TRACE.upper()}, "metadata.traceparent", "W3C"),
        ({"traceparent": "00-" + "0" * 32 + TRACE[35:]}, "metadata.traceparent", "W3C"),
        ({1: "x"}, "metadata", "name each value with a text"),
        ({"": "x"}, "metadata (a key)", "at least one character"),
        ({"a": float("nan")}, "metadata.a", "finite"),
        ({"a": [1, float("inf")]}, "metadata.a.1", "finite"),
        ({"a": 2**63}, "metadata.a", "64 bits"),
        ({"a": "\ud800"}, "metadata.a", "surrogates"),
        ({"a": {"\0": 1}}, "metadata.a (a key)", "NUL"),
        ({"a": datetime(2026, 5, 1)}, "metadata.a", "its zone"),
        ({"a": MAY}, "metadata.a", "give text, numbers"),
        ({"a": {1: 2}}, "metadata.a", "give text, numbers"),
        ({"a": (1, 2)}, "metadata.a", "give text, numbers"),
        ({"a": object()}, "metadata.a", "give text, numbers"),
        ({"a": LOOP}, "metadata.a" + ".0" * 25, "nest lists and objects at most"),
        ({"a": "x" * METADATA_SIZE_MAX_BYTES}, "metadata", "at most 8192 bytes"),
        ("abc", "metadata", "give a mapping"),
    ],
)
def test_what_may_not_be_sent_along_names_key_and_remedy(metadata: Mapping[str, Any], field: str, remedy: str) -> None:
    with pytest.raises(InvalidCommand) as caught:
        packed_metadata(metadata)
    assert caught.value.field == field
    assert remedy in caught.value.remedy
    assert str(caught.value).isascii()


def test_any_other_json_may_be_sent_along() -> None:
    metadata = {"a": [1, -1.5, True, None, {"ü": "\u2028"}], "b": 2**63 - 1}
    packed = packed_metadata(metadata)
    assert packed.isascii()
    assert json.loads(packed) == metadata


def test_a_command_happened_at_a_time_with_a_zone() -> None:
    east = MAY.astimezone(timezone(timedelta(hours=9)))
    assert packed_moment(MAY) == packed_moment(east) == 1_777_636_800_000_000
    naive = datetime(2026, 5, 1)
    before_year_1 = datetime.min.replace(tzinfo=timezone(timedelta(hours=9)))
    for wrong in (naive, before_year_1, "2026-05-01", 5):
        with pytest.raises(InvalidCommand, match="occurred_at"):
            packed_moment(wrong)  # type: ignore[arg-type]
