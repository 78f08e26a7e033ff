"""Commands written one a line, as JSON: `{"command": "CreateOrder", "data": {...}, "command_id": "cart-77"}`.

Beside `command` and `data` a line takes submit's keywords. Each line stands alone: a broken one is an error that says
what was expected, and the next one is read. Not here: submitting them.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from actors.commands import Command, shown
from actors.errors import InvalidCommand
from actors.registry import AggregateRegistry
from store.errors import InvalidValue
from store.identity import checked_id
from store.values import holds_lone_surrogates

ENVELOPE_SIZE_MAX_BYTES = 64 * 1024
"""What a line may hold beside its command."""
CHUNK_SIZE_BYTES = 64 * 1024


class Envelope(BaseModel):
    """What stands on a line beside `data`: the command's name and submit's keywords."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    command: str
    command_id: str | None = None
    expected_version: int | None = Field(default=None, ge=0, lt=2**63)
    occurred_at: AwareDatetime | None = None
    timeout_s: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    consistency: list[str] | None = None
    """Names of projections."""
    metadata: dict[str, Any] | None = None


class Line(NamedTuple):
    """A line that holds a valid command."""

    number: int
    """1-based."""
    command: Command
    keywords: dict[str, Any]
    """submit's keyword arguments that the line gives."""


class BadLine(NamedTuple):
    """A line that holds none."""

    number: int
    """1-based."""
    reason: str
    """`field: value: what was expected`."""


def parse_line(number: int, text: bytes, registry: AggregateRegistry) -> Line | BadLine:
    """Return what a line holds. It never raises: whatever bytes are in a line, the next one is read."""
    try:
        members = _members(_decoded(text))
        data = members.pop("data", None)
        envelope = _envelope(members)
        if not isinstance(data, dict):
            value = "(missing)" if data is None else shown(data)
            raise InvalidCommand("data", value, f"a JSON object with the fields of {envelope.command} was expected")
        _, command = registry.decode_command(envelope.command, json.dumps(data))
        if envelope.command_id is not None:
            checked_id("command_id", envelope.command_id)
    except (InvalidCommand, InvalidValue) as error:
        return BadLine(number, f"{error.field}: {error.value}: {error.remedy}")
    keywords = envelope.model_dump(exclude={"command"}, exclude_none=True)
    return Line(number, command, keywords)


async def read_lines(
    descriptor: int, registry: AggregateRegistry, on_bytes: Callable[[int], None]
) -> AsyncIterator[Line | BadLine]:
    """Read lines from a file or pipe until its end, without blocking the event loop on a pipe; empty ones are skipped.

    `on_bytes` hears how many bytes each read brought. A line much larger than the largest command is a bad one.
    """
    rest, number, skipping = b"", 0, False
    size_max_bytes = registry.payload_size_max_bytes + ENVELOPE_SIZE_MAX_BYTES
    while chunk := await _read(descriptor):
        on_bytes(len(chunk))
        *whole, rest = (rest + chunk).split(b"\n")
        for text in whole:
            number += 1
            if skipping:
                skipping = False
            elif text.strip():
                yield parse_line(number, text, registry)
        if len(rest) > size_max_bytes:
            if not skipping:
                yield BadLine(number + 1, f"line: {len(rest)}+ bytes: at most {size_max_bytes} bytes were expected")
            rest, skipping = b"", True
    if rest.strip() and not skipping:
        yield parse_line(number + 1, rest, registry)


async def _read(descriptor: int) -> bytes:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:
        return os.read(descriptor, CHUNK_SIZE_BYTES)  # a regular file: it can't be waited for, and needn't be
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)
    return os.read(descriptor, CHUNK_SIZE_BYTES)


def _decoded(text: bytes) -> str:
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidCommand("line", ascii(text[:60]), f"UTF-8 text was expected (byte {error.start + 1})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        twice = next(name for at, (name, _) in enumerate(pairs) if name in dict(pairs[:at]))
        raise InvalidCommand(shown(twice), shown(members[twice]), "it was given twice: give it once")
    for name, value in pairs:  # pydantic would refuse them too, but not name the field
        if isinstance(value, str) and holds_lone_surrogates(value):
            raise InvalidCommand(shown(name), shown(value), "leave out lone surrogates")
    return members


def _members(text: str) -> dict[str, Any]:
    try:
        members = json.loads(text, object_pairs_hook=_once)
    except json.JSONDecodeError as error:
        where = f"{error.msg[0].lower()}{error.msg[1:]} at column {error.pos + 1}"
        raise InvalidCommand("line", shown(text), f"one JSON object was expected ({where})") from error
    except (ValueError, RecursionError) as error:
        raise InvalidCommand("line", shown(text), f"one JSON object was expected ({error})") from error
    if not isinstance(members, dict):
        raise InvalidCommand("line", shown(text), "one JSON object was expected")
    return members


def _envelope(members: Mapping[str, Any]) -> Envelope:
    try:
        return Envelope.model_validate_json(json.dumps(members))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in problem["loc"]) or "line"
        value, remedy = shown(problem["input"]), problem["msg"][0].lower() + problem["msg"][1:]
        if problem["type"] == "missing":
            value, remedy = "(missing)", "the name of a command was expected"
        elif problem["type"] == "extra_forbidden":
            remedy = f"no such field: one of {', '.join(Envelope.model_fields)}, data was expected"
        raise InvalidCommand(
            field if field.isascii() and field.isprintable() else shown(field), value, remedy
        ) from error
