"""Streams that can't be loaded: each command for one is answered with the reason, and its host serves all others."""

from __future__ import annotations

import pytest

from actors import Aggregate, AggregateRegistry, ApplyFailed, Command, DomainError
from actors.wire import Receipt
from store import Event, EventStore, UndecodableEvent, UnknownEventType, open_store
from tests.hosts import host_on


class Add(Command):
    sum_id: str
    amount: int


class Added(Event):
    amount: int


class Sum(Aggregate):
    total = 0

    def add(self, command: Add) -> None:
        self.raise_event(Added(amount=command.amount))

    def on_added(self, event: Added) -> None:
        self.total += event.amount


class StricterSum(Sum, category="sum"):
    """The same aggregate after a careless change of its code."""

    def on_added(self, event: Added) -> None:
        if event.amount == 13:
            raise DomainError("unlucky")
        self.total = 100 // event.amount


class AddedText(Event, event_type="Added"):
    amount: str


class AddedElsewhere(Event):
    amount: int


def folding(event_class: type[Event]) -> type[Aggregate]:
    """The aggregate of a program that knows another event class."""

    class OtherSum(Aggregate, category="sum"):
        def add(self, command: Add) -> None:
            raise DomainError("refused")

        def on_added(self, event: Event) -> None:
            raise NotImplementedError

    OtherSum.on_added.__annotations__["event"] = event_class
    return OtherSum


async def filled(*amounts: int, aggregate: type[Aggregate] = Sum) -> EventStore:
    store = await open_store("memory://", shards=2)
    async with host_on(store, registry=AggregateRegistry([aggregate])) as host:
        for number, amount in enumerate(amounts):
            assert isinstance(await host.submit(Add(sum_id="s-1", amount=amount), f"k-{number}"), Receipt)
    return store


@pytest.mark.parametrize(
    ("amount", "reason"), [(0, "ZeroDivisionError: integer division or modulo by zero"), (13, "DomainError: unlucky")]
)
async def test_an_event_method_that_raises_on_history_is_named_and_the_host_lives_on(amount: int, reason: str) -> None:
    store = await filled(1, amount, 2)
    async with host_on(store, "host-2", registry=AggregateRegistry([StricterSum])) as host:
        answers = await host.execute(
            host.message(Add(sum_id="s-1", amount=1), "k-7"), host.message(Add(sum_id="s-2", amount=1), "k-8")
        )
        assert isinstance(answers[0], ApplyFailed)
        assert answers[0].args == ("sum-s-1", 2, "Added", reason)
        assert str(answers[0]).startswith("Event Added at version 2 of sum-s-1 broke the method that applies it")
        assert isinstance(answers[1], Receipt)
        assert isinstance(await host.submit(Add(sum_id="s-1", amount=1), "k-9"), ApplyFailed)
        assert len(await host.log()) == 4
    await store.close()


@pytest.mark.parametrize(
    ("event_class", "error_class"), [(AddedText, UndecodableEvent), (AddedElsewhere, UnknownEventType)]
)
async def test_history_that_todays_classes_do_not_fit_is_named(
    event_class: type[Event], error_class: type[Exception]
) -> None:
    store = await filled(1)
    async with host_on(store, "host-2", registry=AggregateRegistry([folding(event_class)])) as host:
        answers = await host.execute(
            host.message(Add(sum_id="s-1", amount=1), "k-7"), host.message(Add(sum_id="s-2", amount=1), "k-8")
        )
        assert [type(answer) for answer in answers] == [error_class, DomainError]
        assert "Added" in str(answers[0])
    await store.close()
