"""Exporting a log to an archive, from where it was left off if a former export was interrupted.

Reads only: a runtime may go on writing meanwhile. The archive holds what the log held when its export was begun. Not
here: its format (`archive.py`).
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from store.archive import MAGIC, Header, Progress, event_line, header_line, last_line_start, read_event, read_header
from store.errors import BrokenArchive, DamagedLog, InvalidValue
from store.paging import read_log
from store.ports import EventReader
from store.records import EventRecord


async def export_log(store: EventReader, path: Path, progress: Progress) -> int:
    """Write the store's log to the archive at `path`, to the disk; return the number of events in it.

    A file that an interrupted export left is continued; nothing is left to do for a finished one of the same heads.
    Raises InvalidValue for a file of anything else, which is left as it is, and for one that can't be written;
    DamagedLog where positions are missing.
    """
    heads = await store.heads()
    now = Header(store_id=store.store_id, shards=store.shards, heads=[heads[shard] for shard in range(store.shards)])
    with _opened(path) as file:
        header = await asyncio.to_thread(_begin, file, path, now)
        last = await asyncio.to_thread(_last_event, file, header)
        await _check_continues(store, path, header, now, last)
        first_shard, position = (last.shard, last.position) if last else (0, 0)
        for shard in range(first_shard, header.shards):
            async for page in read_log(store, shard, position, header.heads[shard]):
                if page[-1].position != position + len(page):
                    raise DamagedLog(shard, position, header.heads[shard])
                await asyncio.to_thread(_write, file, page)
                position = page[-1].position
                progress(header.before(shard, position), header.events)
            if position != header.heads[shard]:
                raise DamagedLog(shard, position, header.heads[shard])
            position = 0
        await asyncio.to_thread(_finish, file)
    return header.events


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading and writing, made if need be; nobody else exports to it meanwhile."""
    try:
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InvalidValue("file", str(path), "another export is writing it: wait, or name another") from error
            yield file
    except OSError as error:
        raise InvalidValue("file", str(path), f"it can't be written ({error.strerror}): name another") from error


def _begin(file: BinaryIO, path: Path, now: Header) -> Header:
    """Return the header of the archive, written if the file has none."""
    first = file.readline()
    if first.endswith(b"\n"):
        try:
            return read_header(first)
        except BrokenArchive as error:
            raise InvalidValue("file", str(path), f"it exists and is something else ({error}): name another") from error
    if first[: len(MAGIC)] != MAGIC[: len(first)]:
        raise InvalidValue("file", str(path), "it exists and is something else: name another")
    file.seek(0)
    file.truncate()
    file.write(header_line(now))
    file.flush()
    return now


def _last_event(file: BinaryIO, header: Header) -> EventRecord | None:
    """Return the last whole event in the file, and cut off what follows it: the next one goes there."""
    end = last_line_start(file, file.seek(0, os.SEEK_END))
    file.seek(end)
    file.truncate()
    start = last_line_start(file, end - 1)
    file.seek(start)
    line = file.readline()
    return read_event(header.events, line, header.shards) if start else None


async def _check_continues(
    store: EventReader, path: Path, header: Header, now: Header, last: EventRecord | None
) -> None:
    """Raise InvalidValue unless the file is of this store, and unfinished or of the present heads."""
    if header.store_id != now.store_id:
        raise InvalidValue("file", str(path), f"it is an archive of the store {header.store_id}: name another")
    if last is None:
        finished = header.events == 0
    else:
        finished = (last.shard, last.position) == header.end
        if await store.read_shard(last.shard, last.position - 1, 1) != [last]:
            raise InvalidValue("file", str(path), "its last event is not the store's: name another")
    if finished and header != now:
        raise InvalidValue("file", str(path), "it is finished, and the log has gone on since: name another")


def _write(file: BinaryIO, page: Sequence[EventRecord]) -> None:
    file.writelines([event_line(record) for record in page])


def _finish(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
