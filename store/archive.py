"""The archive's format: a log as JSON lines. One line of what it is, then one line an event, shard by shard.

A format: what version 1 says here stays readable. `data` and `metadata` are strings that hold the JSON as it is
stored, so that nothing in them is ever rounded or reordered. Not here: going through files and stores
(`exporting.py`, `importing.py`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import from_json

from store.errors import BrokenArchive, InvalidValue
from store.identity import checked_id, checked_stream, shard_of
from store.records import EventRecord

MAGIC = b'{"format":"eventray-archive"'
"""How an archive begins."""
BLOCK_BYTES = 64 * 1024

Progress = Callable[[int, int], None]
"""Hears how many events are done, of how many in all."""

Count = Annotated[int, Field(ge=0, le=2**63 - 1)]
Number = Annotated[int, Field(ge=1, le=2**63 - 1)]


class Header(BaseModel):
    """The first line."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["eventray-archive"] = "eventray-archive"
    version: Literal[1] = 1
    store_id: str
    """Of the store that was exported."""
    shards: Number
    heads: list[Count]
    """The last position of each shard in the archive: the heads at the time it was begun."""

    @property
    def events(self) -> int:
        """How many lines of events follow."""
        return sum(self.heads)

    @property
    def end(self) -> tuple[int, int]:
        """Shard and position of the last event; (0, 0) if there are none."""
        return max(((shard, head) for shard, head in enumerate(self.heads) if head), default=(0, 0))

    def before(self, shard: int, position: int) -> int:
        """Return how many events stand in the archive up to and with this place."""
        return sum(self.heads[:shard]) + position


class _Line(BaseModel):
    """One event, its fields as `EventRecord` has them."""

    model_config = ConfigDict(extra="forbid", strict=True)

    shard: Count
    position: Number
    stream: str
    version: Number
    partition_key: str
    event_id: uuid.UUID
    type: str
    schema_version: Number
    data: str
    metadata: str
    command_key: str | None
    key_id: str | None
    recorded_at: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]


def header_line(header: Header) -> bytes:
    """Return the first line of an archive."""
    return header.model_dump_json().encode() + b"\n"


def read_header(line: bytes) -> Header:
    """Parse the first line of an archive. Raises BrokenArchive."""
    if not line.startswith(MAGIC):
        raise BrokenArchive(1, "format", "this is no archive of Eventray's")
    try:
        header = Header.model_validate_json(line)
    except ValidationError as error:
        raise _broken(1, error) from error
    if len(header.heads) != header.shards:
        raise BrokenArchive(1, "heads", f"{header.shards} of them were expected")
    return header


def event_line(record: EventRecord) -> bytes:
    """Return the line of one event."""
    fields = {**record._asdict(), "event_id": str(uuid.UUID(bytes=record.event_id))}
    return json.dumps(fields, separators=(",", ":")).encode() + b"\n"


def read_event(number: int, line: bytes, shards: int) -> EventRecord:
    """Parse one line, of an archive of that many shards. Raises BrokenArchive about the first wrong field."""
    if not line.endswith(b"\n"):
        raise BrokenArchive(number, "its end", "the line is cut off")
    try:
        fields = _Line.model_validate_json(line).__dict__
    except ValidationError as error:
        raise _broken(number, error) from error
    record = EventRecord(**{**fields, "event_id": fields["event_id"].bytes})
    try:
        checked_stream(record.stream)
        checked_id("partition_key", record.partition_key)
    except InvalidValue as error:
        raise BrokenArchive(number, error.field, f"{error.value}: {error.remedy}") from error
    for field, text in (("data", record.data), ("metadata", record.metadata)):
        _check_json(number, field, text)
    if record.shard != shard_of(record.partition_key, shards):
        raise BrokenArchive(number, "shard", f"{record.partition_key!a} belongs to another of {shards} shards")
    return record


def last_line_start(file: BinaryIO, end: int) -> int:
    """Return where in the file the line begins that ends before or at `end`, its line break not counted."""
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _check_json(number: int, field: str, text: str) -> None:
    try:
        from_json(text)
    except ValueError as error:
        raise BrokenArchive(number, field, f"it holds no JSON: {error}") from error


def _broken(number: int, error: ValidationError) -> BrokenArchive:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return BrokenArchive(number, ".".join(str(part) for part in first["loc"]) or "the whole of it", first["msg"])
