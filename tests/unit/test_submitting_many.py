"""`submit_many`: an outcome for each command, in their order."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors import Command
from actors.customers import CreateCustomer, Customer, PromoteToVip
from actors.errors import DomainError, InvalidCommand
from actors.metadata import because_of
from actors.wire import Receipt
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from store.errors import InvalidValue
from store.events import Event


@pytest.fixture
async def runtime() -> AsyncIterator[InProcessRuntime]:
    settings = Settings(client_in_flight_max=2)
    async with InProcessRuntime.open(shards=2, settings=settings) as runtime:
        yield runtime


def create(number: int) -> CreateCustomer:
    return CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com")


async def test_each_command_has_its_outcome_in_their_order(runtime: InProcessRuntime) -> None:
    """More of them than the client may hold: they wait for room."""
    invalid = create(2).model_copy(update={"customer_id": ""})
    stranger = PromoteToVip(customer_id="nobody", reason="none")
    commands: list[Command] = [create(0), invalid, create(1), stranger, create(0), create(3)]
    ids = ["k-0", "k-1", "k-2", "k-3", "k-0", "k-5"]
    first, refused, second, unknown, again, last = await runtime.submit_many(commands, command_ids=ids)
    assert isinstance(refused, InvalidCommand)
    assert isinstance(unknown, DomainError)
    receipts = [receipt for receipt in (first, second, again, last) if isinstance(receipt, Receipt)]
    assert [receipt.command_id for receipt in receipts] == ["k-0", "k-2", "k-0", "k-5"]
    assert [receipt.stream for receipt in receipts] == [f"customer-c-{number}" for number in (0, 1, 0, 3)]
    assert [receipt.duplicate for receipt in receipts] == [False, False, True, False]


@pytest.mark.parametrize("wrong", ["x", 5, None, CreateCustomer, Event, {"name": "Ada"}], ids=repr)
async def test_what_is_no_command_is_refused_alone(runtime: InProcessRuntime, wrong: Any) -> None:
    with pytest.raises(InvalidCommand, match=r"^command = .*: give "):
        await runtime.submit(wrong)
    with pytest.raises(InvalidCommand, match=r"^command = .*: give "):
        await runtime.actor(Customer, "c-1").submit(wrong)
    first, refused, second = await runtime.submit_many([create(0), wrong, create(1)])
    assert isinstance(refused, InvalidCommand)
    assert all(isinstance(receipt, Receipt) for receipt in (first, second))


async def test_another_class_of_a_known_name_is_told_apart(runtime: InProcessRuntime) -> None:
    stranger = type("CreateCustomer", (Command,), {})()
    with pytest.raises(InvalidCommand, match="is another class than the application's of this name"):
        await runtime.submit(stranger)


@pytest.mark.parametrize("wrong", [create(0), "abc", 5, None], ids=repr)
async def test_what_is_no_list_of_commands_or_ids_is_refused_as_a_whole(runtime: InProcessRuntime, wrong: Any) -> None:
    with pytest.raises(InvalidValue, match=r"^commands = .*brackets"):
        await runtime.submit_many(wrong)
    if wrong is not None:
        with pytest.raises(InvalidValue, match=r"^command_ids = "):
            await runtime.submit_many([create(number) for number in range(3)], command_ids=wrong)
    assert (await runtime.load(Customer, "c-0")).version == 0


async def test_commands_with_wrong_metadata_are_refused_one_and_all(runtime: InProcessRuntime) -> None:
    outcomes = await runtime.submit_many([create(0), create(1)], metadata={"digest": "mine"})
    assert [type(outcome) for outcome in outcomes] == [InvalidCommand] * 2
    assert (await runtime.load(Customer, "c-0")).version == 0
    assert await runtime.submit_many([], metadata={"digest": "mine"}) == []


async def test_all_of_them_have_the_metadata_and_follow_from_the_event_that_is_handled(
    runtime: InProcessRuntime,
) -> None:
    await runtime.submit(create(0), command_id="cause")
    seen: list[Event] = []
    stream = runtime.stream(start="beginning")
    cause = await anext(stream)
    with because_of(cause):
        await runtime.submit_many([create(1), create(2), create(3)], metadata={"asked_by": "ada"})
    while len(seen) < 3:
        event = await anext(stream)
        seen.append(event)
    await stream.aclose()
    assert [(event.metadata.correlation_id, event.metadata.asked_by) for event in seen] == [("cause", "ada")] * 3
    assert {event.metadata.causation_id for event in seen} == {str(cause.id)}
