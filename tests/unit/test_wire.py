"""The wire carries every message and answer unchanged, and refuses what it can't read with a named error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.errors import DomainError, NotOwner, Overloaded
from actors.wire import (
    CUT_SIZE_MAX_BYTES,
    PIECE_SIZE_MAX_BYTES,
    Call,
    CommandMessage,
    Receipt,
    pack_answers,
    pack_call,
    pieces_of,
    unpack_answers,
    unpack_call,
)
from store.errors import ConcurrencyError, InvalidValue, StoreUnavailable

SMALL = st.integers(min_value=0, max_value=2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
MESSAGES = st.builds(
    CommandMessage, SMALL, TEXT, TEXT, st.booleans(), TEXT, st.none() | SMALL, st.none() | SMALL, SMALL, TEXT
)
CALLS = st.builds(Call, TEXT, SMALL, st.dictionaries(SMALL, SMALL, max_size=3), st.lists(MESSAGES, max_size=3))
RECEIPTS = st.builds(Receipt, TEXT, TEXT, SMALL, SMALL, SMALL, TEXT, st.booleans())


@given(CALLS)
def test_a_call_arrives_as_it_was_sent(call: Call) -> None:
    arrived = unpack_call(pack_call(call))
    assert arrived == call
    assert all(type(command) is CommandMessage for command in arrived.commands)


@given(st.lists(RECEIPTS, max_size=4))
def test_receipts_arrive_as_they_were_sent_in_order(receipts: list[Receipt]) -> None:
    arrived = unpack_answers(pack_answers(receipts))
    assert arrived == receipts
    assert all(type(receipt) is Receipt for receipt in arrived)


def test_errors_arrive_among_receipts_as_themselves_with_their_fields() -> None:
    receipt = Receipt("c", "customer-1", 1, 2, 3, "s", False)
    errors = [NotOwner(3, 7), ConcurrencyError("customer-1", 1, 2), Overloaded(50), StoreUnavailable("locked", True)]
    arrived = unpack_answers(pack_answers([errors[0], receipt, *errors[1:]]))
    assert arrived[1] == receipt
    arrived_errors = [answer for answer in arrived if not isinstance(answer, Receipt)]
    assert [(type(error), error.args) for error in arrived_errors] == [(type(error), error.args) for error in errors]


def test_an_odd_detail_of_one_error_does_not_cost_the_other_answers() -> None:
    receipt = Receipt("c", "customer-1", 1, 2, 3, "s", False)
    odd, arrived = unpack_answers(pack_answers([DomainError("too much", 1 << 70), receipt]))
    assert isinstance(odd, DomainError)
    assert str(odd) == "too much"
    assert arrived == receipt


@pytest.mark.parametrize("packed", [b"", b"\xc1", b"\x05", b"\x92\x01\x02", b"\x91\x80", b"\x91\x91\x01"])
def test_bytes_that_are_no_message_are_refused_by_name(packed: bytes) -> None:
    with pytest.raises(InvalidValue, match="same version"):
        unpack_call(packed)
    with pytest.raises(InvalidValue, match="same version"):
        unpack_answers(packed)


def test_a_call_that_utf_8_cannot_carry_is_refused_by_name() -> None:
    message = CommandMessage(0, "CreateCustomer", "c", True, '"\ud800"', None, None, 1000, "")
    with pytest.raises(InvalidValue, match="surrogates"):
        pack_call(Call("s", 1, {0: 1}, [message]))


@pytest.mark.parametrize(
    ("size", "pieces"),
    [
        (0, 1),
        (PIECE_SIZE_MAX_BYTES, 1),
        (PIECE_SIZE_MAX_BYTES + 1, 2),
        (CUT_SIZE_MAX_BYTES, 8),
        (CUT_SIZE_MAX_BYTES + 1, 1),
    ],
)
def test_what_ray_can_send_along_is_cut_small_enough_for_it(size: int, pieces: int) -> None:
    packed = bytes(place % 251 for place in range(size))
    cut = pieces_of(packed)
    assert b"".join(cut) == packed
    assert len(cut) == pieces
    assert pieces == 1 or max(map(len, cut)) <= PIECE_SIZE_MAX_BYTES
