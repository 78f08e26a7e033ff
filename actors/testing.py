"""Given, when, then: tests of aggregates in the words of the domain, without a store, a clock or Ray.

Not here: a runtime for tests of whole applications (`cluster/testing.py`).
"""

from __future__ import annotations

from typing import Self

from actors.aggregate import Aggregate
from actors.commands import Command
from actors.errors import DomainError, InvalidCommand
from actors.methods import command_methods
from actors.registry import AggregateRegistry
from store.errors import InvalidValue
from store.events import Draft, Event


class Scenario:
    """A story about one aggregate, and those that it reads:

        (
            Scenario(Order)
            .given(CustomerCreated(customer_id="c-1", name="Ada", email="ada@example.com", type=CustomerType.REGULAR))
            .when(CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00")))
            .then(OrderCreated(order_id="o-1", customer_id="c-1", total_amount=Decimal("42.00")))
        )

    A given event is of the aggregate whose id it carries in the aggregate's `id_field`; one without that field is of
    whichever the command is for. What a command raised is given to the next `when`. Commands and events go through
    JSON on the way, as they do in a runtime.
    """

    def __init__(self, aggregate_class: type[Aggregate]) -> None:
        """Raises InvalidValue for a class that no runtime would take either."""
        self._registry = AggregateRegistry(_with_reads(aggregate_class))
        self._history: list[Event] = []
        self._raised: tuple[Event, ...] = ()
        self._refusal: DomainError | InvalidCommand | None = None
        self._aggregate: Aggregate | None = None

    @property
    def aggregate(self) -> Aggregate:
        """The aggregate that the last command was for, after it, to look at its attributes."""
        if self._aggregate is None:
            raise InvalidValue("scenario", "aggregate", "call `when` first, with a command that can be decided")
        return self._aggregate

    def given(self, *events: Event) -> Self:
        """Say what has happened, in order. Raises InvalidValue for an event that no aggregate here has a method for."""
        for event in events:
            if self._registry.events.types.get(event.event_type) is not type(event):
                known = ", ".join(self._registry.events.types)
                raise InvalidValue("event", type(event).__name__, f"one of {known} was expected")
        self._history.extend(events)
        return self

    def when(self, command: Command) -> Self:
        """Let the aggregate decide on a command. A refusal is kept for `then_refused`, a bug is raised (DecideFailed).

        Raises the refusal of the command before, if nobody expected it.
        """
        if self._refusal is not None:
            raise self._refusal
        self._raised, self._aggregate = (), None
        try:
            self._registry.check_command(command)
            binding, command = self._registry.decode_command(command.command_type, command.model_dump_json())
            aggregate = self._folded(binding.aggregate_class, binding.aggregate_id(command))
            self._aggregate = aggregate
            key = binding.partition_key(command)
            binding.decide(aggregate, command, [self._folded(read, key) for read in binding.reads])
        except (DomainError, InvalidCommand) as refusal:
            self._refusal = refusal
            return self
        self._raised = aggregate.uncommitted_events
        for event in self._raised:
            if type(event).model_validate_json(self._registry.events.encode(event)) != event:
                raise AssertionError(f"{event!r} is another event once it has been stored: check its fields' types")
        aggregate.mark_committed()
        self._history.extend(self._raised)
        return self

    def then(self, *events: Event) -> Self:
        """Expect just these events, in order; none at all if none are given. Raises AssertionError."""
        if self._refusal is not None:
            raise AssertionError(f"refused: {self._refusal}") from self._refusal
        if self._raised != events:
            raise AssertionError(f"raised {_listed(self._raised)} instead of {_listed(events)}")
        return self

    def then_refused(self, error_class: type[DomainError | InvalidCommand] = DomainError, containing: str = "") -> Self:
        """Expect a refusal of this class whose message holds this text. Raises AssertionError."""
        refusal, self._refusal = self._refusal, None
        if refusal is None:
            raise AssertionError(f"not refused; it raised {_listed(self._raised)}")
        if not isinstance(refusal, error_class) or containing not in str(refusal):
            expected = f"{error_class.__name__} with {containing!r}"
            raise AssertionError(f"{expected} was expected, not {type(refusal).__name__}: {refusal}") from refusal
        return self

    def _folded(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Aggregate:
        kinds = tuple(aggregate_class.event_methods())
        own = [
            event
            for event in self._history
            if isinstance(event, kinds) and getattr(event, aggregate_class.id_field, aggregate_id) == aggregate_id
        ]
        aggregate = aggregate_class(aggregate_id)
        aggregate.load_from_history(event.within(Draft(version)) for version, event in enumerate(own, start=1))
        return aggregate


def _with_reads(aggregate_class: type[Aggregate]) -> list[type[Aggregate]]:
    found = [aggregate_class]
    for reader in found:
        for method in command_methods(reader, Aggregate).values():
            found += [read for read in method.reads if issubclass(read, Aggregate) and read not in found]
    return found


def _listed(events: tuple[Event, ...]) -> str:
    return "[" + ", ".join(repr(event) for event in events) + "]"
