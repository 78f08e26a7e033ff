"""Checking streams while a log goes by: versions without gaps, one partition key, one shard; in bounded memory.

Where a stream stands is remembered for many, those met first are forgotten first; for one that was forgotten, the
store is asked for the event before. So a log of any number of streams is checked in one pass, in position order,
without sorting it. Not here: what is done about what is found (`audit.py`, `importing.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from store.ports import EventReader
from store.records import EventRecord

STREAMS_MAX = 100_000
"""Streams that are remembered: about 30 MB."""


class Flaw(NamedTuple):
    """What is wrong with an event's place in its stream."""

    field: str
    """The field of the record that shows it."""
    problem: str


class StreamChecker:
    """Follows one shard's log."""

    def __init__(self, reader: EventReader, streams_max: int = STREAMS_MAX) -> None:
        self._reader = reader
        self._streams_max = streams_max
        self._last: dict[str, tuple[int, str]] = {}

    async def check(self, record: EventRecord) -> Flaw | None:
        """Take the next record of the log; return what is wrong with it in its stream, if something is."""
        last = self._last.get(record.stream)
        if last is not None:
            version, key = last
            if record.version == version + 1 and record.partition_key == key:
                self._last[record.stream] = (record.version, key)
                return None
        elif record.version == 1:
            self._last[record.stream] = (1, record.partition_key)
            return None
        flaw = await self._look_closer(record, last)
        self._last[record.stream] = (max(record.version, last[0] if last else 0), record.partition_key)
        return flaw

    def forget_some(self) -> None:
        """Keep memory bounded: call it now and then, when the store holds all that went by."""
        while len(self._last) > self._streams_max:
            del self._last[next(iter(self._last))]

    async def _look_closer(self, record: EventRecord, last: tuple[int, str] | None) -> Flaw | None:
        if record.version < 1:
            return Flaw("version", f"version {record.version}: they begin at 1")
        if last is not None and record.version <= last[0]:
            return Flaw("version", f"version {record.version} stands behind version {last[0]}")
        if last is not None and record.version == last[0] + 1:
            return self._other_key(record, last[1])
        before = await self._reader.read_stream(record.stream, record.version - 2, 1)
        if not before or before[0].version != record.version - 1:
            since = f" behind version {last[0]}" if last is not None else ""
            return Flaw("version", f"version {record.version - 1} is missing{since}")
        flaw = self._other_key(record, before[0].partition_key)
        if flaw is None and before[0].shard != record.shard:
            flaw = Flaw("shard", f"version {record.version - 1} of the stream is in shard {before[0].shard}")
        return flaw  # that one may follow at a later position: a flaw too, and told there, once

    def _other_key(self, record: EventRecord, key: str) -> Flaw | None:
        if record.partition_key == key:
            return None
        return Flaw("partition_key", f"partition key {record.partition_key!a}, and {key!a} at the version before")
