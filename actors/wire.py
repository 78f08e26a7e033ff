"""The wire between a client and a host: one call carries many commands, one answer each comes back. msgpack.

Stable field order, no pickle, no clocks. Also: how what is packed is cut for Ray to carry it. Not here: what a command
means (`registry.py`), who may retry it (`cluster/sending.py`), and how an error becomes a list and is itself again
(`errors.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import msgpack

from actors.errors import from_wire, to_wire
from store.errors import EventrayError, InvalidValue

PIECE_SIZE_MAX_BYTES = 96 * 1024
"""Ray sends an argument of up to 100 KiB along with its call; a larger one goes by way of its object store."""
CUT_SIZE_MAX_BYTES = 768 * 1024
"""What is larger than this goes by the object store: more copies of it in the call take longer (measured)."""


class CommandMessage(NamedTuple):
    """One command on its way to a host."""

    shard: int
    command_type: str
    """The command's registered name."""
    command_id: str
    first_send: bool
    """The id was drawn by the client and was never sent before: the log needs no look-up for it."""
    data: str
    """The command's own fields, JSON."""
    expected_version: int | None
    """The version that the stream must be at; None: any."""
    occurred_at: int | None
    """When it happened in the world, microseconds since 1970, UTC; None: when it is recorded."""
    patience_ms: int
    """How long the caller will still wait, at the time of this sending: a host doesn't decide it later."""
    metadata: str
    """A JSON object, or empty."""


class Receipt(NamedTuple):
    """What a command returns once its events, if it caused any, are stored."""

    command_id: str
    stream: str
    version: int
    """The stream's version after the command: 1-based; 0 if the stream has no event."""
    shard: int
    position: int
    """The shard's head after the command: 1-based; what `after=` waits for."""
    store_id: str
    duplicate: bool
    """The command's events had been stored by an earlier sending."""


_new_receipt: Callable[[list[Any]], Receipt] = partial(tuple.__new__, Receipt)
"""Of a list that has the right length."""
_RECEIPT_SIZE = len(Receipt._fields)


class Call(NamedTuple):
    """What goes to a host at once, in the order in which it is to be decided."""

    session: str
    """Names the client, and is drawn anew by each."""
    number: int
    """Rises with each call of a session. A host refuses a number that is not above the last one it took."""
    epochs: dict[int, int]
    """The epoch that each shard of the call was routed by."""
    commands: list[CommandMessage]


def pack_call(call: Call) -> bytes:
    """Return the bytes of a call. Raises InvalidValue for text that UTF-8 can't carry and for ints over 64 bits."""
    try:
        packed: bytes = msgpack.packb(call)
    except (UnicodeEncodeError, OverflowError) as error:
        raise InvalidValue("call", ascii(str(error)), "leave out lone surrogates and integers over 64 bits") from error
    return packed


def unpack_call(packed: bytes) -> Call:
    """Return the call of these bytes. Raises InvalidValue if they are none."""
    try:
        session, number, epochs, commands = msgpack.unpackb(packed, strict_map_key=False)
        return Call(session, number, epochs, [CommandMessage._make(command) for command in commands])
    except (ValueError, TypeError) as error:
        raise _unreadable("call", error) from error


def pack_answers(answers: Iterable[Receipt | EventrayError]) -> bytes:
    """Return the bytes of the answers, in the order of the call's commands."""
    rows = [answer if isinstance(answer, Receipt) else {"error": to_wire(answer)} for answer in answers]
    packed: bytes = msgpack.packb(rows)
    return packed


def unpack_answers(packed: bytes) -> list[Receipt | EventrayError]:
    """Return the answers of these bytes, in the order of the call's commands. Raises InvalidValue if they are none."""
    try:
        rows = msgpack.unpackb(packed)
        return [
            _new_receipt(row) if type(row) is list and len(row) == _RECEIPT_SIZE else from_wire(row["error"])
            for row in rows
        ]
    except Exception as error:
        raise _unreadable("answers", error) from error


def pieces_of(packed: bytes) -> list[bytes]:
    """Return packed bytes as the arguments of one call to a Ray actor, which joins them.

    Cut, 130 KB arrive in 1.8 ms instead of 3.0 (docs/performance.md).
    """
    if not PIECE_SIZE_MAX_BYTES < len(packed) <= CUT_SIZE_MAX_BYTES:
        return [packed]
    return [packed[start : start + PIECE_SIZE_MAX_BYTES] for start in range(0, len(packed), PIECE_SIZE_MAX_BYTES)]


def _unreadable(field: str, error: Exception) -> InvalidValue:
    return InvalidValue(field, repr(error), "run the same version of Eventray in every process")
