"""Aggregates: raising, applying, loading; which methods are found and which are refused."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from actors import Aggregate, ApplyFailed, BrokenHistory, Command, NoEventMethod
from actors.methods import command_methods
from store.errors import InvalidValue
from store.events import Draft, Event
from store.records import EventRecord

if TYPE_CHECKING:
    from decimal import Decimal as OnlyForCheckers


class Added(Event):
    basket_id: str
    amount: int


class AddedTwice(Added):
    pass


class Emptied(Event):
    basket_id: str


class Renamed(Event):
    pass


class Add(Command):
    basket_id: str
    amount: int


class Basket(Aggregate):
    total = 0

    def add(self, command: Add) -> None:
        self.raise_event(Added(basket_id=self.aggregate_id, amount=command.amount))

    def on_added(self, event: Added) -> None:
        self.total += event.amount

    def on_change(self, event: AddedTwice | Emptied) -> None:
        self.total = self.total + 2 * event.amount if isinstance(event, AddedTwice) else 0

    def helper(self, amount: OnlyForReturn) -> None:
        """Its annotation is nobody's business but its own."""


OnlyForReturn = int


class Line(Aggregate, category="basket_line", id_field="line_id", partition_key_field="basket_id"):
    def on_added(self, event: Added) -> None:
        self.last = event.amount


class HTTPSessionLog(Aggregate):
    pass


def added(amount: int) -> Added:
    return Added(basket_id="b-1", amount=amount)


def stored(event: Event, version: int) -> Event:
    return event.within(EventRecord(0, 1, "s", version, "the-key", b"", "Added", 1, "{}", "{}", None, None, 0))


def test_names_come_from_the_class_unless_given() -> None:
    assert (Basket.category, Basket.id_field, Basket.partition_key_field) == ("basket", "basket_id", "basket_id")
    assert (Line.category, Line.id_field, Line.partition_key_field) == ("basket_line", "line_id", "basket_id")
    assert HTTPSessionLog.category == "http_session_log"
    assert Basket("b-1").stream == "basket-b-1"


@pytest.mark.parametrize("category", ["with-dash", "", "con\ntrol", "x" * 201])
def test_a_category_that_cannot_begin_a_stream_is_refused(category: str) -> None:
    with pytest.raises(InvalidValue, match="category"):
        type("Named", (Aggregate,), {}, category=category)


def test_raising_applies_counts_and_keeps() -> None:
    basket = Basket("b-1")
    assert basket.version == 0
    assert list(basket.uncommitted_events) == []
    first, second = added(2), added(3)
    basket.raise_event(first)
    basket.raise_event(second)
    assert (basket.total, basket.version) == (5, 2)
    assert list(basket.uncommitted_events) == [first, second]
    assert [event.version for event in basket.uncommitted_events] == [1, 2]
    basket.mark_committed()
    assert (basket.total, basket.version) == (5, 2)
    assert list(basket.uncommitted_events) == []
    basket.raise_event(added(1))
    assert [event.version for event in basket.uncommitted_events] == [3]


def test_history_folds_to_the_same_state() -> None:
    live = Basket("b-1")
    for event in (added(2), AddedTwice(basket_id="b-1", amount=4), Emptied(basket_id="b-1"), added(7)):
        live.raise_event(event)
    loaded = Basket("b-1")
    loaded.load_from_history(live.uncommitted_events[:2])
    assert loaded.total == 10
    loaded.load_from_history(live.uncommitted_events[2:])
    assert live.total == 7
    assert (loaded.total, loaded.version, len(loaded.uncommitted_events)) == (7, 4, 0)


@pytest.mark.parametrize("versions", [[2], [1, 3], [1, 1], [0]])
def test_history_with_a_gap_or_a_repetition_is_refused(versions: list[int]) -> None:
    basket = Basket("b-1")
    with pytest.raises(BrokenHistory, match="basket-b-1"):
        basket.load_from_history(added(1).within(Draft(version)) for version in versions)
    assert basket.version == len(versions) - 1


def test_a_method_that_exits_on_an_event_makes_the_stream_unreadable_and_ends_nothing() -> None:
    class Leaving(Basket):
        def on_added(self, event: Added) -> None:
            sys.exit(3)

    with pytest.raises(ApplyFailed, match="SystemExit: 3"):
        Leaving("b-1").load_from_history([added(1).within(Draft(1))])


def test_an_event_goes_to_the_method_of_its_class_else_of_its_base() -> None:
    class AddedLate(Added):
        pass

    basket = Basket("b-1")
    basket.apply(AddedLate(basket_id="b-1", amount=1))
    basket.apply(AddedTwice(basket_id="b-1", amount=1))
    basket.apply(AddedLate(basket_id="b-1", amount=1))
    assert (basket.total, basket.version) == (4, 0)


def test_an_event_without_a_method_is_named() -> None:
    basket = Basket("b-1")
    with pytest.raises(NoEventMethod, match="Basket has no method for Renamed"):
        basket.raise_event(Renamed())
    assert basket.version == 0


def test_an_event_whose_method_broke_is_left_as_uncommitted_so_that_the_aggregate_is_thrown_away() -> None:
    class Fragile(Aggregate):
        missing: int

        def on_added(self, event: Added) -> None:
            self.half = event.amount
            self.total = self.half + self.missing

    fragile = Fragile("f-1")
    with pytest.raises(AttributeError):
        fragile.raise_event(added(1))
    assert len(fragile.uncommitted_events) == 1
    assert fragile.version == 0


def test_the_partition_key_is_the_id_or_told_by_an_event() -> None:
    assert Basket("b-1").partition_key == "b-1"
    assert Line("l-1").partition_key is None
    line = Line("l-1")
    line.raise_event(added(1))
    assert line.partition_key == "b-1"
    loaded = Line("l-1")
    loaded.load_from_history([stored(added(1), 1)])
    assert loaded.partition_key == "the-key"


def test_methods_of_base_classes_are_inherited_and_overridden() -> None:
    class Doubled(Basket):
        def on_added(self, event: Added) -> None:
            self.total += 2 * event.amount

    doubled, plain = Doubled("d-1"), Basket("b-1")
    doubled.apply(added(3))
    plain.apply(added(3))
    assert (doubled.total, plain.total) == (6, 3)
    assert set(command_methods(Doubled, Aggregate)) == {Add}


def test_two_methods_for_one_event_are_refused() -> None:
    class Torn(Aggregate):
        def on_added(self, event: Added) -> None: ...
        def on_anything(self, event: Emptied | Added) -> None: ...

    with pytest.raises(InvalidValue, match=r"on_added is annotated with Added too"):
        Torn.event_methods()


def test_two_methods_for_one_command_are_refused() -> None:
    class Torn(Aggregate):
        def add(self, command: Add) -> None: ...
        def check(self, command: Add) -> None: ...

    with pytest.raises(InvalidValue, match=r"Torn\.check.*add is annotated with Add too"):
        command_methods(Torn, Aggregate)


def test_event_methods_take_the_event_alone_and_await_nothing() -> None:
    class Greedy(Aggregate):
        def on_added(self, event: Added, factor: int) -> None: ...

    class Slow(Aggregate):
        async def on_added(self, event: Added) -> None: ...

    with pytest.raises(InvalidValue, match=r"Greedy\.on_added.*nothing else"):
        Greedy.event_methods()
    with pytest.raises(InvalidValue, match=r"Slow\.on_added.*plain function"):
        Slow.event_methods()


def test_a_type_that_is_not_known_at_run_time_is_named() -> None:
    class Blind(Aggregate):
        def on_it(self, event: OnlyForCheckers) -> None: ...

    with pytest.raises(InvalidValue, match=r"Blind\.on_it.*OnlyForCheckers.*TYPE_CHECKING"):
        Blind.event_methods()


def test_a_live_aggregate_is_lean() -> None:
    basket = Basket("b-1")
    basket.load_from_history([added(1).within(Draft(1))])
    assert sys.getsizeof(basket) + sys.getsizeof(vars(basket)) < 1000
    assert vars(basket)["_uncommitted"] is None
