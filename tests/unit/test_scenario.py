"""The given/when/then kit: it passes where the story is true, and fails, with a reason, where it isn't."""

from typing import Annotated, Any

import pytest
from pydantic import PlainSerializer

from actors import Aggregate, Command, DecideFailed, DomainError, InvalidCommand
from actors.testing import Scenario
from store.errors import InvalidValue
from store.events import Event


class TooLittle(DomainError):
    """{0} is not enough for {1}."""


class Deposit(Command):
    account_id: str
    amount: int


class Withdraw(Command):
    account_id: str
    amount: int


class Deposited(Event):
    amount: int


class Withdrawn(Event):
    account_id: str
    amount: Annotated[int, PlainSerializer(lambda amount: min(amount, 99))]


class Account(Aggregate):
    balance = 0

    def deposit(self, command: Deposit) -> None:
        self.raise_event(Deposited(amount=command.amount))

    def withdraw(self, command: Withdraw) -> None:
        if command.amount > self.balance:
            raise TooLittle(self.balance, command.amount)
        assert command.amount
        self.raise_event(Withdrawn(account_id=self.aggregate_id, amount=command.amount))

    def on_deposited(self, event: Deposited) -> None:
        self.balance += event.amount

    def on_withdrawn(self, event: Withdrawn) -> None:
        self.balance -= event.amount


def deposit(amount: Any) -> Deposit:
    return Deposit(account_id="a-1", amount=amount)


def withdraw(amount: int) -> Withdraw:
    return Withdraw(account_id="a-1", amount=amount)


def test_a_true_story_passes() -> None:
    story = Scenario(Account).given(Deposited(amount=10)).when(deposit(5)).then(Deposited(amount=5))
    story.when(withdraw(12)).then(Withdrawn(account_id="a-1", amount=12))
    story.when(withdraw(12)).then_refused(TooLittle, "3 is not enough for 12")
    assert (story.aggregate.version, story.aggregate.balance) == (3, 3)  # type: ignore[attr-defined]


def test_events_go_to_the_aggregate_whose_id_they_carry() -> None:
    other = Withdrawn(account_id="a-2", amount=7)
    story = (
        Scenario(Account)
        .given(Deposited(amount=10), other)
        .when(withdraw(1))
        .then(Withdrawn(account_id="a-1", amount=1))
    )
    assert story.aggregate.version == 2


def test_other_events_than_expected_fail() -> None:
    story = Scenario(Account).when(deposit(5))
    with pytest.raises(AssertionError, match=r"raised \[Deposited\(amount=5\)\] instead of \[\]"):
        story.then()
    with pytest.raises(AssertionError, match=r"instead of \[Deposited\(amount=6\)\]"):
        story.then(Deposited(amount=6))


def test_a_refusal_that_was_not_expected_fails() -> None:
    with pytest.raises(AssertionError, match="refused: 0 is not enough for 1"):
        Scenario(Account).when(withdraw(1)).then()
    with pytest.raises(TooLittle):
        Scenario(Account).when(withdraw(1)).when(deposit(1))


def test_an_expected_refusal_must_come_and_be_the_right_one() -> None:
    with pytest.raises(AssertionError, match=r"not refused; it raised \[Deposited"):
        Scenario(Account).when(deposit(1)).then_refused()
    with pytest.raises(AssertionError, match="InvalidCommand with '' was expected, not TooLittle"):
        Scenario(Account).when(withdraw(1)).then_refused(InvalidCommand)
    with pytest.raises(AssertionError, match="with 'frozen' was expected"):
        Scenario(Account).when(withdraw(1)).then_refused(containing="frozen")


def test_an_invalid_command_is_a_refusal() -> None:
    story = Scenario(Account).when(Deposit(account_id="a\n", amount=1)).then_refused(InvalidCommand, "account_id")
    with pytest.raises(InvalidValue, match="call `when` first"):
        _ = story.aggregate


def test_a_bug_is_raised_at_once() -> None:
    with pytest.raises(DecideFailed, match="AssertionError"):
        Scenario(Account).when(withdraw(0))


def test_an_event_that_changes_on_its_way_through_json_fails() -> None:
    with pytest.raises(AssertionError, match="another event once it has been stored"):
        Scenario(Account).given(Deposited(amount=500)).when(withdraw(100))


def test_an_event_that_nobody_applies_is_refused() -> None:
    class Unheard(Event):
        pass

    with pytest.raises(InvalidValue, match=r"Unheard: one of Deposited, Withdrawn was expected"):
        Scenario(Account).given(Unheard())
