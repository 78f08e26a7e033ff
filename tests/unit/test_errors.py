"""Every error crosses process borders as itself: by pickle and by the wire."""

import inspect
import json
import pickle
from decimal import Decimal

import pytest

import actors
from actors.errors import DomainError, InvalidCommand, from_wire, to_wire
from store.errors import EventrayError, told

SAMPLES = {"str": "text", "int": 7, "float": 1.5, "bool": True}


class InsufficientFunds(DomainError):
    """Account {0} holds {1}, not {2}."""


class CardStolen(DomainError):
    """Raised when a card has been reported."""


class Undocumented(DomainError):
    pass


class OwnSentence(DomainError):
    def __init__(self, balance: int) -> None:
        super().__init__(f"only {balance} left")


def over_the_wire(error: EventrayError) -> EventrayError:
    return from_wire(json.loads(json.dumps(to_wire(error))))


def shipped() -> list[type[EventrayError]]:
    assert actors.__all__
    return [known for known in EventrayError.known.values() if known.__module__.startswith(("store.", "actors."))]


def sample_of(error_class: type[EventrayError]) -> EventrayError:
    if error_class.__init__ is Exception.__init__:
        return error_class("text")
    parameters = list(inspect.signature(error_class.__init__).parameters.values())[1:]
    return error_class(*[SAMPLES[str(parameter.annotation)] for parameter in parameters])


@pytest.mark.parametrize("error_class", shipped(), ids=lambda error_class: error_class.__name__)
def test_every_shipped_error_survives_pickle_and_wire(error_class: type[EventrayError]) -> None:
    error = sample_of(error_class)
    for copy in (pickle.loads(pickle.dumps(error)), over_the_wire(error)):
        assert type(copy) is error_class
        assert copy.args == error.args
        assert vars(copy) == vars(error)
        assert str(copy) == str(error)
        assert "{" not in str(copy)


def test_a_domain_error_is_its_message() -> None:
    assert str(DomainError("no {such} thing")) == "no {such} thing"
    assert str(DomainError()) == "DomainError"
    assert str(over_the_wire(DomainError("no", 1, None))) == "no"


def test_a_users_error_may_have_fields() -> None:
    error = InsufficientFunds("a-1", Decimal("3.00"), Decimal("5.00"))
    assert str(error) == "Account a-1 holds 3.00, not 5.00."
    for copy in (pickle.loads(pickle.dumps(error)), over_the_wire(error)):
        assert isinstance(copy, InsufficientFunds)
        assert copy.args == ("a-1", Decimal("3.00"), Decimal("5.00"))


def test_a_docstring_without_fields_gives_way_to_a_message() -> None:
    assert str(CardStolen("card 7 is stolen")) == "card 7 is stolen"
    assert str(CardStolen()) == "Raised when a card has been reported."
    assert str(Undocumented("as it is")) == "as it is"
    assert str(Undocumented()) == "Undocumented"


def test_the_wrong_number_of_fields_still_says_what_there_was() -> None:
    assert str(InsufficientFunds("a-1")) == "InsufficientFunds('a-1',)"


def test_an_error_that_its_fields_do_not_make_again_keeps_its_message() -> None:
    copy = over_the_wire(OwnSentence(3))
    assert type(copy) is DomainError
    assert str(copy) == "only 3 left"


def test_an_unknown_class_is_a_domain_error_with_the_message() -> None:
    copy = from_wire(["OnlyOnTheHost", "Account a-1 is frozen.", "a-1"])
    assert type(copy) is DomainError
    assert str(copy) == "Account a-1 is frozen."


@pytest.mark.parametrize("field", [2**70, "\ud800", ("a", 1), b"\xff", {"decimal": 1}])
def test_fields_that_cannot_be_packed_travel_as_text(field: object) -> None:
    copy = over_the_wire(InvalidCommand("field", "value", DomainError(field)))  # type: ignore[arg-type]
    assert isinstance(copy.args[2], str)
    assert copy.args[2].encode()
    assert over_the_wire(DomainError(field)).args[0].encode()


def test_a_users_error_whose_text_only_its_own_process_can_make_keeps_its_message() -> None:
    class Reason:
        name = "stolen"

    class CardRefused(DomainError):
        def __str__(self) -> str:
            return f"the card is {self.args[0].name}"

    copy = over_the_wire(CardRefused(Reason()))
    assert (type(copy), str(copy)) == (DomainError, "the card is stolen")


def test_a_text_that_can_not_be_made_is_told_so() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            raise SystemExit(3)

    assert told(Odd()) == "Odd, whose text can't be made (SystemExit)"
    assert told(KeyError("k")) == "KeyError: 'k'"


def test_a_users_error_may_not_take_a_name_of_ours() -> None:
    with pytest.raises(TypeError, match="Overloaded is the name"):
        type("Overloaded", (DomainError,), {})
