"""Importing an archive into an empty store: the same events, in each partition key's order, in shards of its own.

Each transaction appends the next lines of the file, so what is stored always is the file's beginning: an import that
was interrupted is run again, compares what is there, and goes on behind it. Not here: the format (`archive.py`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from itertools import count
from pathlib import Path
from typing import BinaryIO

from store.archive import MAGIC, Header, Progress, last_line_start, read_event, read_header
from store.errors import BrokenArchive, InvalidValue, OtherContent, StoreRejected, UnfinishedImport
from store.identity import shard_of
from store.paging import PAGE_BYTES
from store.ports import EventStore
from store.records import IMPORTED, IMPORTING, Checkpoint, EventRecord
from store.streams import StreamChecker
from store.writing import OfflineWriter

FIRST_EVENT_LINE = 2
COMMIT_RECORDS_MAX = 2_000


def archive_header(path: Path) -> Header:
    """Return the first line of an archive that is whole. Raises BrokenArchive; InvalidValue for an unreadable file."""
    try:
        with path.open("rb") as file:
            header = read_header(file.readline())
            _check_whole(file, header)
            return header
    except OSError as error:
        raise InvalidValue("file", str(path), f"it can't be read ({error.strerror}): name another") from error


async def import_log(path: Path, store: EventStore, progress: Progress) -> int:
    """Import the archive at `path`; return how many events were added, 0 if the store held them all already.

    The store is held meanwhile. Raises BrokenArchive for one that is not whole, before anything is imported, and at the
    first line that can't be right: what stands before it may have been imported. Raises OtherContent where the store
    holds anything else, and is left so; InvalidValue where the file can't be read; StoreHeld, StoreUnavailable.
    """
    header = await asyncio.to_thread(archive_header, path)
    async with OfflineWriter(store, "eventray store import") as writer:
        return await _Import(header, writer).run(path, progress)


async def check_imported(store: EventStore) -> None:
    """Raise UnfinishedImport where an import into this store has begun and not come to its end; StoreUnavailable."""
    begun = await store.checkpoints(IMPORTING)
    if begun and not await store.checkpoints(IMPORTED):
        raise UnfinishedImport(begun[0].position)


class _Import:
    """One run."""

    def __init__(self, header: Header, writer: OfflineWriter) -> None:
        self._header = header
        self._writer = writer
        self._store = writer.store
        self._streams = StreamChecker(writer.store)
        self._source = (0, 0)
        """Shard and position, in the archive, of the last line."""
        self._heads = dict.fromkeys(range(writer.store.shards), 0)
        """Where the next event of each shard goes, less 1."""

    async def run(self, path: Path, progress: Progress) -> int:
        stored = sum((await self._writer.heads(self._heads)).values())
        if stored > self._header.events:
            raise OtherContent(f"{stored} events, of {self._header.events}")
        done = 0
        with path.open("rb") as file:
            file.readline()
            async for batch in _batches(file, self._header.shards):
                records = [await self._placed(line, record) for line, record in batch]
                there = max(0, min(len(records), stored - done))
                await self._compare(records[:there])
                await self._append(records[there:], FIRST_EVENT_LINE + done + there)
                done += len(records)
                self._streams.forget_some()
                progress(done, self._header.events)
        if self._source != self._header.end:
            raise _not_whole(FIRST_EVENT_LINE + done, self._header)
        await self._store.keep_checkpoints(IMPORTED, await self._ends())
        return done - stored

    async def _ends(self) -> dict[int, Checkpoint]:
        """Return where each shard ends."""
        ends = dict.fromkeys(self._heads, Checkpoint(0, None))
        for shard, head in self._heads.items():
            for record in await self._store.read_shard(shard, head - 1, 1) if head else ():
                ends[shard] = Checkpoint(record.position, record.event_id)
        return ends

    async def _placed(self, line: int, record: EventRecord) -> EventRecord:
        """Return the record as it is stored here, having checked that it goes on from the lines before."""
        shard, position = self._source
        expected = (shard, position + 1)
        if not position or position == self._header.heads[shard]:
            following = range(shard + bool(position), self._header.shards)
            expected = next(((number, 1) for number in following if self._header.heads[number]), (-1, 0))
        if record.shard != expected[0]:
            wanted = "no further line" if expected[0] < 0 else f"shard {expected[0]}, position {expected[1]}"
            raise BrokenArchive(line, "shard", f"{record.shard}, where {wanted} was expected")
        if record.position != expected[1]:
            raise BrokenArchive(line, "position", f"{record.position}, where {expected[1]} was expected")
        self._source = expected
        shard = shard_of(record.partition_key, self._store.shards)
        self._heads[shard] += 1
        placed = record._replace(shard=shard, position=self._heads[shard])
        flaw = await self._streams.check(placed)
        if flaw is not None:
            raise BrokenArchive(line, flaw.field, flaw.problem)
        return placed

    async def _compare(self, records: Sequence[EventRecord]) -> None:
        """Raise OtherContent unless the store holds these."""
        for shard, expected in _by_shard(records).items():
            stored = await self._store.read_shard(shard, expected[0].position - 1, len(expected))
            if stored != expected:
                differing = next((a for a, b in zip(expected, stored, strict=False) if a != b), expected[-1])
                raise OtherContent(f"the event at shard {shard}, position {differing.position} differs")

    async def _append(self, records: Sequence[EventRecord], first_line: int) -> None:
        if not records:
            return
        await self._store.keep_checkpoints(IMPORTING, {0: Checkpoint(self._header.events, None)})
        try:
            await self._writer.append(_by_shard(records))
        except StoreRejected as error:
            last_line = first_line + len(records) - 1
            raise BrokenArchive(first_line, f"or one of those up to {last_line}", str(error)) from error


def _check_whole(file: BinaryIO, header: Header) -> None:
    """Look at the last line: an export that was interrupted must be finished first."""
    end = file.seek(0, os.SEEK_END)
    file.seek(last_line_start(file, end - 1))
    line = file.readline()
    number = FIRST_EVENT_LINE + header.events - 1
    if header.events == 0:
        return
    last = read_event(number, line, header.shards) if not line.startswith(MAGIC) and line.endswith(b"\n") else None
    if last is None or (last.shard, last.position) != header.end:
        raise _not_whole(number, header)


def _not_whole(line: int, header: Header) -> BrokenArchive:
    shard, position = header.end
    reason = f"events up to shard {shard}, position {position} were expected: finish the export that made it"
    return BrokenArchive(line, "its end", reason)


def _by_shard(records: Sequence[EventRecord]) -> dict[int, list[EventRecord]]:
    by_shard: dict[int, list[EventRecord]] = {}
    for record in records:
        by_shard.setdefault(record.shard, []).append(record)
    return by_shard


async def _batches(file: BinaryIO, shards: int) -> AsyncIterator[list[tuple[int, EventRecord]]]:
    """Yield the events of a file with their line numbers, as many as go into one transaction."""
    numbers = count(FIRST_EVENT_LINE)

    def read() -> list[tuple[int, EventRecord]]:
        batch: list[tuple[int, EventRecord]] = []
        size_bytes = 0
        while len(batch) < COMMIT_RECORDS_MAX and size_bytes < PAGE_BYTES and (line := file.readline()):
            number = next(numbers)
            batch.append((number, read_event(number, line, shards)))
            size_bytes += len(line)
        return batch

    while batch := await asyncio.to_thread(read):
        yield batch
