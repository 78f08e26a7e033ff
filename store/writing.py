"""Writing without a runtime: scripts, imports and tests take the store, claim its shards and append fenced.

While a runtime holds the store, nobody else writes; while a writer of this module does, no runtime starts. Not here:
commands, and who decides on them (`actors/`).
"""

from __future__ import annotations

import asyncio
import os
import platform
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import structlog

from store import taking
from store.codec import EventRegistry
from store.errors import ConcurrencyError, InvalidValue, OutcomeUnknown, StoreUnavailable, Superseded
from store.events import Draft, Event
from store.identity import checked_id, checked_stream, shard_of, uuid7
from store.ports import EventReader, EventStore
from store.records import Claim, EventRecord, ShardAppend, micros
from store.values import shown

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")
PAGE_SIZE = 1_000
PATIENCE_S = 10.0
"""How long what may pass (a locked file, a lost connection) is waited for."""
PAUSE_S = 0.1


class OfflineWriter:
    """The one writer of a store, for as long as the block lasts:

        async with OfflineWriter(store, "a price correction", registry.events) as writer:
            await writer.save_events("customer-c-1", [CustomerPromoted(...)], expected_version=3)

    It claims shards as it needs them. What it does is done one call at a time, and each append is one transaction.
    """

    def __init__(self, store: EventStore, tool: str, events: EventRegistry | None = None) -> None:
        """`tool` is what others are told that find the store held; `events` are the types that may be saved."""
        self.store = store
        # Of its own name each time: the store lets a holder that comes back in at once.
        self._name = f"{tool} ({platform.node()}, process {os.getpid()}, {uuid7().hex[-8:]})"
        self._events = events or EventRegistry(())
        self._generation = 0
        self._claims: dict[int, Claim] = {}
        self._lock = asyncio.Lock()
        self._beating: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Take the store. Raises StoreHeld where a living runtime holds it; one that died is watched for 3 s first."""
        self._generation = await _patiently(lambda: self.store.take(self._name))
        try:
            for former in {route.host for route in await self.store.routes() if route.host is not None}:
                await self.store.end_writer(former)
        except BaseException:  # cancelled too: else the store stays held until its beat has been watched
            await self.store.release(self._generation)
            raise
        self._beating = asyncio.get_running_loop().create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the store back, unless another has taken it."""
        assert self._beating is not None
        self._beating.cancel()
        await asyncio.gather(self._beating, return_exceptions=True)
        self._beating = None
        generation, self._generation, claimed = self._generation, 0, dict.fromkeys(self._claims)
        self._claims.clear()
        try:
            await _patiently(lambda: self.store.assign(generation, claimed))
            await _patiently(lambda: self.store.release(generation))
        except Superseded:
            if error is None:
                raise
        except StoreUnavailable as unavailable:  # all that was to be stored is; the next to take it waits for 3 s
            log.warning("the store was not given back", reason=str(unavailable))

    async def get_events(self, stream: str, from_version: int = 0) -> list[Event]:
        """Return the typed events of a stream with versions above `from_version`, in order; none if there are none.

        Raises InvalidValue for what can be no stream or version; UnknownEventType or UndecodableEvent for what the
        given types don't know.
        """
        checked_stream(stream)
        _check_version("from_version", from_version, "give 0 for all events, else the version before the first one")
        return await read_events(self.store, self._events, stream, from_version)

    async def save_events(
        self, stream: str, events: Sequence[Event], expected_version: int, partition_key: str | None = None
    ) -> None:
        """Append events to a stream, all of them or none, durably; they then carry their stored envelope.

        `expected_version` is the version of the stream's last event, 0 for a new stream. `partition_key` says which
        shard it goes to; a stream keeps the one it was begun with, so that it may be left out later.

        Raises, with nothing stored: ConcurrencyError where the stream is at another version, InvalidValue,
        UnknownEventType, Superseded where another has taken the store, StoreUnavailable, StoreRejected. Raises
        OutcomeUnknown where a reply was lost and the store stays away: load the stream again to see.
        """
        checked_stream(stream)
        _check_version("expected_version", expected_version, "give 0 for a new stream, else its version")
        for event in events:
            if not isinstance(event, Event):
                raise InvalidValue("events", shown(event), "give objects of classes that are an Event")
        data = [self._events.encode(event) for event in events]
        async with self._lock:
            key = await self._checked_key(stream, expected_version, partition_key)
            if not events:
                return
            shard = shard_of(key, self.store.shards)
            head = (await self._claimed([shard]))[shard].head
            records = []
            for number, event in enumerate(events, 1):
                place = (shard, head + number, stream, expected_version + number, key)
                records.append(_record(place, event, data[number - 1]))
            await self._append({shard: records})
        for event, record in zip(events, records, strict=True):
            event.within(record)

    async def append(self, records: Mapping[int, Sequence[EventRecord]]) -> None:
        """Append records as they are, in one transaction. By shard; positions go on from its head.

        Raises, with nothing stored: Superseded, StoreUnavailable, StoreRejected.
        """
        async with self._lock:
            await self._append(records)

    async def heads(self, shards: Iterable[int]) -> dict[int, int]:
        """Claim shards, and return the position of the last event of each: nobody else moves it from now on."""
        async with self._lock:
            return {shard: claim.head for shard, claim in (await self._claimed(shards)).items()}

    async def _append(self, records: Mapping[int, Sequence[EventRecord]]) -> None:
        claims = await self._claimed(records)
        appends = [
            ShardAppend(shard, claims[shard].epoch, claims[shard].head, list(records[shard]))
            for shard in sorted(records)
        ]
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            try:
                fenced = await self.store.append(appends)
            except OutcomeUnknown:
                if await self._settled(appends, deadline_s):
                    break
            except StoreUnavailable as error:
                if not error.passing or time.monotonic() > deadline_s:
                    raise
                await asyncio.sleep(PAUSE_S)
            else:
                # The shards belong to this writer together, so losing one of them is losing the store.
                if fenced:
                    raise Superseded(self._generation)
                break
        for append in appends:
            self._claims[append.shard] = Claim(append.epoch, append.old_head + len(append.records))

    async def _settled(self, appends: Sequence[ShardAppend], deadline_s: float) -> bool:
        """After an unknown outcome: return whether the events are stored. Raises Superseded."""
        while True:
            try:
                heads = await self.store.settle({append.shard: append.epoch for append in appends})
            except StoreUnavailable as error:
                if time.monotonic() > deadline_s:
                    for append in appends:
                        del self._claims[append.shard]  # claimed anew before anything else is appended to it
                    raise OutcomeUnknown(str(error)) from error
                await asyncio.sleep(PAUSE_S)
            else:
                break
        if len(heads) < len(appends):
            raise Superseded(self._generation)
        return all(heads[append.shard] == append.old_head + len(append.records) for append in appends)

    async def _claimed(self, shards: Iterable[int]) -> dict[int, Claim]:
        if not self._generation:
            raise RuntimeError("the store is not held: write within `async with`")
        wanted = set(shards)
        if missing := wanted - self._claims.keys():
            await _patiently(lambda: self.store.assign(self._generation, dict.fromkeys(missing, self._name)))
            self._claims |= await _patiently(lambda: self.store.claim(self._name, missing))
            if not wanted <= self._claims.keys():
                raise Superseded(self._generation)
        return {shard: self._claims[shard] for shard in wanted}

    async def _checked_key(self, stream: str, expected_version: int, partition_key: str | None) -> str:
        """Return the stream's partition key, having made sure that it is at the expected version."""
        last = await self.store.read_stream(stream, max(0, expected_version - 1), 2)
        if (last[-1].version if last else 0) != expected_version:
            raise ConcurrencyError(stream, expected_version, await _version(self.store, stream))
        if not last:
            if partition_key is None:
                raise InvalidValue("partition_key", "None", f"{stream} is new: say with which others it goes")
            return checked_id("partition_key", partition_key)
        if partition_key not in (None, last[-1].partition_key):
            raise InvalidValue("partition_key", ascii(partition_key), f"{stream} has {last[-1].partition_key!a}")
        return last[-1].partition_key

    async def _beat(self) -> None:
        """Show that the store is held, until it is no longer: then the next append says so."""
        while True:
            await asyncio.sleep(taking.WATCH_S / 5)
            try:
                await self.store.beat(self._generation)
            except StoreUnavailable:
                continue  # whoever takes the store over meanwhile claims its shards, so that appends are fenced
            except Superseded:
                return


async def _patiently(work: Callable[[], Awaitable[Answer]]) -> Answer:
    """Do what may be done again, until it is done, or what keeps it from that does not pass in time."""
    deadline_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await work()
        except StoreUnavailable as error:
            if not error.passing or time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(PAUSE_S)


async def read_events(store: EventReader, events: EventRegistry, stream: str, after_version: int = 0) -> list[Event]:
    """Return the typed events of a stream with versions above `after_version`, in order."""
    found: list[Event] = []
    while page := await store.read_stream(stream, after_version, PAGE_SIZE):
        found += events.decode_many(page)
        after_version = page[-1].version
    return found


def _check_version(field: str, version: int, remedy: str) -> None:
    if type(version) is not int or not 0 <= version < 2**63:
        raise InvalidValue(field, shown(version), remedy)


async def _version(store: EventReader, stream: str) -> int:
    version = 0
    while page := await store.read_stream(stream, version, PAGE_SIZE):
        version = page[-1].version
    return version


def _record(place: tuple[int, int, str, int, str], event: Event, data: str) -> EventRecord:
    """Lay out one event that no command caused as a row; a stored event saved again is another one, with its own id."""
    draft, recorded_at = event.envelope, time.time_ns() // 1_000
    event_id = event.id if isinstance(draft, Draft) else uuid7()
    occurred_at = draft.occurred_at if isinstance(draft, Draft) else event.occurred_at
    metadata = "{}" if occurred_at is None else f'{{"occurred_at":{micros(occurred_at)}}}'
    kind = (event.event_type, event.schema_version)
    return EventRecord(*place, event_id.bytes, *kind, data, metadata, None, None, recorded_at)
