"""A store that measures what is asked of it: time and errors by operation, what is appended, and what loading reads.

Not here: what is done (the store behind it does that), and how often snapshots are used (`host.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from cluster.metrics.counting import Counts
from cluster.metrics.definitions import (
    APPEND_EVENTS,
    APPEND_SHARDS,
    APPENDED_BYTES,
    APPENDED_EVENTS,
    APPENDS,
    CLAIMED_SHARDS,
    FENCED_SHARDS,
    LOAD_EVENTS,
    LOADS,
    STORE_ERRORS,
    STORE_SECONDS,
)
from store.errors import EventrayError
from store.forwarding import Forwarding
from store.ports import EventStore
from store.records import Claim, Histories, ShardAppend

Answer = TypeVar("Answer")

MERELY_TIMED = (
    "heads",
    "routes",
    "read_shard",
    "read_stream",
    "read_snapshots",
    "find_commands",
    "settle",
    "write_snapshots",
    "take",
    "beat",
    "release",
    "assign",
    "end_writer",
    "keep_checkpoints",
    "move_checkpoints",
    "checkpoints",
    "parked",
    "parked_counts",
    "advance",
    "keep_parked",
    "unpark",
)
"""Operations of which only time and errors count."""


class MeteredStore(Forwarding):
    """See `EventStore`; belongs to the event loop that uses it."""

    def __init__(self, inner: EventStore, counts: Counts) -> None:
        self.inner = inner
        self._counts = counts

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        fenced = await self._timed("append", self.inner.append(appends))
        counts = self._counts
        if fenced:
            counts.add(FENCED_SHARDS, len(fenced))
        stored = [append.records for append in appends if append.records and append.shard not in fenced]
        if stored:
            events = sum(map(len, stored))
            size = sum([len(record.data) + len(record.metadata) for records in stored for record in records])
            counts.add(APPENDS)
            counts.add(APPENDED_EVENTS, events)
            counts.add(APPENDED_BYTES, size)
            counts.observe(APPEND_EVENTS, events)
            counts.observe(APPEND_SHARDS, len(stored))
        return fenced

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        claims = await self._timed("claim", self.inner.claim(host, shards))
        self._counts.add(CLAIMED_SHARDS, len(claims))
        return claims

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        found = await self._timed("read_histories", self.inner.read_histories(fingerprints, limit))
        used = {name for name, each in found.snapshots.items() if each.fingerprint == fingerprints[name]}
        lengths = Counter([record.stream for record in found.records])
        cold = sum(stream not in used for stream in lengths)
        for start, number in (
            ("nothing", len(fingerprints) - cold - len(used)),
            ("events", cold),
            ("snapshot", len(used)),
        ):
            if number:
                self._counts.add(LOADS, number, start)
        for length, streams in Counter(lengths.values()).items():
            self._counts.observe(LOAD_EVENTS, length, streams)
        return found

    async def _timed(self, operation: str, work: Awaitable[Answer]) -> Answer:
        began_s = time.perf_counter()
        try:
            return await work
        except EventrayError as error:
            self._counts.add(STORE_ERRORS, 1, operation, type(error).__name__)
            raise
        finally:
            self._counts.observe(STORE_SECONDS, time.perf_counter() - began_s, 1, operation)


def _timed(operation: str) -> Callable[..., Awaitable[Any]]:
    async def method(self: MeteredStore, *arguments: Any, **named: Any) -> Any:
        return await self._timed(operation, getattr(self.inner, operation)(*arguments, **named))

    method.__name__ = operation
    return method


for _operation in MERELY_TIMED:
    setattr(MeteredStore, _operation, _timed(_operation))
