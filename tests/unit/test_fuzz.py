"""Arbitrary input to codec, upcasters, commands and a host: errors of ours only, and no half-written batch."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors import Aggregate, AggregateRegistry, Command, InvalidCommand
from actors.customers import CreateCustomer, Customer, Order
from actors.metadata import packed_metadata
from actors.wire import Call, CommandMessage, Receipt, pack_call
from store import Event, EventrayError, EventRecord, EventRegistry, Upcaster, open_store
from store.errors import NewerSchema, UndecodableEvent, UnknownEventType
from store.identity import shard_of
from store.metadata import Metadata
from store.upcasting import Json
from tests.hosts import HostUnderTest, host_on

TEXTS = st.text(st.characters(exclude_categories=[]), max_size=20) | st.sampled_from(["", "\0", "\ud800", "c-1"])
SCALARS = st.none() | st.booleans() | st.integers() | st.integers(2**63 - 1, 2**65) | st.floats() | TEXTS
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner), max_leaves=8)
NESTED = st.integers(1, 5000).map(lambda depth: "[" * depth + "]" * depth)
RAW = TEXTS | JSON.map(json.dumps) | NESTED

FIELDS = ["customer_id", "order_id", "name", "email", "reason", "total_amount", "type", "basket_id", "odds", "parts"]
LIKELY = st.sampled_from(
    ["c-1", "c-2", "Ada", "ada@example.com", "10.00", "Regular", [0], [0, 0, 7], [0, 1], 1, "9" * 5000]
)
NEARLY = st.dictionaries(st.sampled_from(FIELDS), LIKELY | JSON, max_size=6)
QUICK = settings(max_examples=150, deadline=None)


class Part(Event):
    """Holds whatever it is given, as a user's own event may."""

    basket_id: str
    value: Any


class FillBasket(Command):
    basket_id: str
    odds: tuple[int, ...] = ()
    parts: Any = None


def nested(depth: int) -> list[Any]:
    return [] if depth == 0 else [nested(depth - 1)]


LOOP: list[Any] = []
LOOP.append(LOOP)
ODDS: list[Any] = [1, float("nan"), 2**64, "\ud800", "\0", datetime(2026, 5, 1), object(), "x" * 2**20]
ODDS += [nested(230), LOOP, {"a": b"\xff"}, {1: {2}}, [None]]


class Basket(Aggregate):
    def fill(self, command: FillBasket) -> None:
        for number in command.odds:
            self.raise_event(Part(basket_id=command.basket_id, value=ODDS[number]))
        if command.parts is not None:
            self.raise_event(Part(basket_id=command.basket_id, value=command.parts))

    def on_part(self, event: Part) -> None:
        self.last = event.value


REGISTRY = AggregateRegistry([Customer, Order, Basket])


def evil(data: Json) -> Any:
    """An upcaster that does what the row says: raises, returns no dict, or changes what it got."""
    match data.get("do"):
        case "raise":
            return data["no such key"]
        case "return":
            return data.get("value")
        case "recurse":
            return evil(data)
    data["value"] = data.pop("old", 0)
    return data


class Told(Event, schema_version=3, upcasters=[Upcaster(1, 2, evil), Upcaster(2, 3, evil)]):
    value: int


TELLING = EventRegistry([Told])
DEEDS = st.dictionaries(st.sampled_from(["do", "value", "old"]), st.sampled_from(["raise", "return", "recurse"]) | JSON)


def record(event_type: str, schema_version: int, data: str, metadata: str = "{}") -> EventRecord:
    return EventRecord(0, 1, "s-1", 1, "1", bytes(16), event_type, schema_version, data, metadata, None, None, 0)


def tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or an error of ours; any other error fails the test."""
    try:
        return function(*arguments)
    except EventrayError as error:
        return error


@QUICK
@given(
    event_type=st.sampled_from([*REGISTRY.events.types]) | TEXTS,
    version=st.integers(-1, 4),
    data=RAW | NEARLY.map(json.dumps),
    metadata=RAW,
)
def test_any_row_is_an_event_or_an_error_of_ours(event_type: str, version: int, data: str, metadata: str) -> None:
    event = tried(REGISTRY.events.decode, record(event_type, version, data, metadata))
    assert isinstance(event, Event | UnknownEventType | NewerSchema | UndecodableEvent)
    assert str(event)
    if isinstance(event, Event):
        assert event.event_type == event_type
        decoded = tried(getattr, event, "metadata")
        assert isinstance(decoded, Metadata | UndecodableEvent)
        assert isinstance(tried(getattr, event, "occurred_at"), datetime | UndecodableEvent)


@QUICK
@given(version=st.integers(1, 3), data=RAW | DEEDS.map(json.dumps))
def test_any_row_goes_through_upcasters_or_is_an_error_of_ours(version: int, data: str) -> None:
    event = tried(TELLING.decode, record("Told", version, data))
    assert isinstance(event, Told | UndecodableEvent)
    assert isinstance(event, Told) or "s-1 version 1 of type Told" in str(event)


@QUICK
@given(command_type=st.sampled_from([*REGISTRY.bindings]) | TEXTS, data=RAW | NEARLY.map(json.dumps))
def test_any_text_is_a_command_or_invalid(command_type: str, data: str) -> None:
    found = tried(REGISTRY.decode_command, command_type, data)
    if isinstance(found, InvalidCommand):
        assert found.remedy
        assert str(found).isascii()
    else:
        binding, command = found
        assert REGISTRY.decode_command(command_type, REGISTRY.encode_command(command)[1]) == (binding, command)


@QUICK
@given(parts=JSON | st.sampled_from(ODDS))
def test_any_command_that_python_can_build_is_json_or_invalid(parts: Any) -> None:
    found = tried(REGISTRY.encode_command, FillBasket(basket_id="b-1", parts=parts))
    if isinstance(found, InvalidCommand):
        assert str(found).isascii()
    else:
        REGISTRY.decode_command("FillBasket", found[1])


@QUICK
@given(metadata=st.dictionaries(TEXTS | st.integers(), JSON | st.sampled_from(ODDS), max_size=4))
def test_any_metadata_are_json_or_invalid(metadata: dict[Any, Any]) -> None:
    packed = tried(packed_metadata, metadata)
    if isinstance(packed, InvalidCommand):
        assert str(packed).isascii()
    else:
        assert json.loads(packed or "{}") == metadata


SUBMITTED = st.tuples(
    st.sampled_from([*REGISTRY.bindings]),
    NEARLY.map(json.dumps) | RAW,
    st.dictionaries(TEXTS, JSON, max_size=2),
    st.integers(0, len(ODDS) - 1),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(calls=st.lists(st.lists(SUBMITTED, min_size=1, max_size=5), min_size=1, max_size=4))
def test_a_host_answers_anything_and_writes_whole_batches(calls: list[list[tuple[str, str, Json, int]]]) -> None:
    asyncio.run(run_calls(calls))


async def run_calls(calls: list[list[tuple[str, str, Json, int]]]) -> None:
    store = await open_store("memory://", shards=2)
    async with host_on(store, registry=REGISTRY) as host, asyncio.timeout(20):
        for number, call in enumerate(calls):
            messages = [message(host, f"k-{number}-{i}", *submitted) for i, submitted in enumerate(call)]
            odd = FillBasket(basket_id="b-1", odds=(0, call[0][3], 0))
            messages.append(host.message(odd, f"odd-{number}"))
            packed = tried(pack_call, Call("session", number, {}, messages))
            if isinstance(packed, bytes):  # else nothing of the call leaves the client
                await check(host, messages, await host.execute(*messages))
        receipt = await host.submit(CreateCustomer(customer_id="last", name="L", email="l@example.com"), "last")
        assert isinstance(receipt, Receipt)
    await store.close()


def message(host: HostUnderTest, command_id: str, command: str, data: str, extra: Json, _odd: int) -> CommandMessage:
    """A command as a careless client would send it: nothing of it is checked but its metadata."""
    found, packed = tried(REGISTRY.decode_command, command, data), tried(packed_metadata, extra)
    shard = 0 if isinstance(found, InvalidCommand) else shard_of(found[0].partition_key(found[1]), host.store.shards)
    metadata = "" if isinstance(packed, InvalidCommand) else packed
    return CommandMessage(shard, command, command_id, False, data, None, None, 30_000, metadata)


async def check(host: HostUnderTest, messages: list[CommandMessage], answers: list[Receipt | EventrayError]) -> None:
    log = await host.log()
    for shard in range(2):
        positions = [row.position for row in log if row.shard == shard]
        assert positions == list(range(1, len(positions) + 1))
    for row in log:
        REGISTRY.events.decode(row)
    for sent, answer in zip(messages, answers, strict=True):
        rows = [row for row in log if json.loads(row.metadata)["command_id"] == sent.command_id]
        if not isinstance(answer, Receipt):
            assert rows == [], f"refused ({answer}), and yet {len(rows)} of its events are stored"
        elif rows:
            assert len(rows) == json.loads(rows[0].metadata).get("events", 1)
            assert rows[-1].position == answer.position
