"""A host's own opened store, for the protocol's state machine: held, robbed of replies, and failed at will.

What is committed is told to the model (`protocol_model.py`). Not here: who the hosts are (`protocol_world.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from store import EventRecord, EventStore, OutcomeUnknown, StoreRejected, StoreUnavailable
from store.forwarding import Forwarding, Keys
from store.records import Claim, Histories, ShardAppend, Snapshot, versions_restored

if TYPE_CHECKING:
    from tests.contract.protocol_world import World

T = TypeVar("T")
STEPS = [f"{when} {what}" for what in ("claim", "read", "append", "settle", "keep") for when in ("before", "after")]
"""Where a host can be held; it keeps snapshots."""
FAULTS = {
    "claim": ["locked", "lost"],
    "read": ["locked", "disk full"],
    "snapshot": ["gone", "torn", "of another version", "by other code"],
    "append": ["locked", "disk full", "rejected", "lost", "in doubt: commits", "in doubt: is undone"],
    "settle": ["locked"],
    "keep": ["locked", "lost"],
}
"""What can go wrong at each step."""
DAMAGE: dict[str, Callable[[Snapshot], Snapshot | None]] = {
    "gone": lambda _snapshot: None,
    "torn": lambda snapshot: snapshot._replace(data=snapshot.data[:-1]),
    "of another version": lambda snapshot: snapshot._replace(version=snapshot.version - 1),
    "by other code": lambda snapshot: snapshot._replace(
        fingerprint="of other code", data=snapshot.data.replace("@example.com", "@example.org")
    ),
}
"""What may have become of a snapshot by the time that it is read."""
GUILTY = "guilty@example.com"
"""Rows with this are refused, whatever comes with them."""


class WatchedStore(Forwarding):
    """A host's own opened store: each step can be held, fail, or lose its reply; what is committed the model sees."""

    def __init__(self, inner: EventStore, world: World, host: int) -> None:
        self.inner, self.world, self.host = inner, world, host
        self.dead = False
        """The host crashed: nothing that it still does reaches the store."""
        self.held: set[str] = set()
        self.faults: dict[str, list[str]] = {step: [] for step in FAULTS}
        """What goes wrong next, by step: the first one strikes the next time."""
        self.read: set[str] = set()
        """The streams that the host has asked for."""
        self._moved = asyncio.Event()
        self._doubts: list[tuple[Sequence[ShardAppend], bool]] = []
        """Transactions whose replies were lost, and which are not over; and whether they will commit."""

    async def crash(self) -> None:
        """The process dies, and with it its connections: what was in doubt is over."""
        self.dead = True
        await self.end_doubts(range(self.shards))
        async with self.world.at_store():
            await self.inner.close()

    def let_go(self, steps: Collection[str]) -> None:
        self.held -= set(steps)
        self._moved.set()
        self._moved.clear()

    def fail(self, faults: Iterable[tuple[str, str]]) -> None:
        """Let these go wrong, each the next time that its step is taken."""
        for step, fault in faults:
            self.faults[step].append(fault)

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        await self._reach("before append")
        if any(self._locks(append.shard) for append in appends):
            unsettled = f"host {self.host} writes to a shard while its last transaction there is not over"
            raise self._report(AssertionError(unsettled))
        fault = self._fault("append")
        records = [record for append in appends for record in append.records]
        if (records and fault == "rejected") or any(GUILTY in record.data for record in records):
            self.world.model.refused(appends)
            raise StoreRejected("a row that won't do")
        if fault in ("in doubt: commits", "in doubt: is undone"):
            self._doubts.append((appends, fault == "in doubt: commits"))
            raise OutcomeUnknown("no reply")
        fenced = await self._append(appends)
        await self._reach("after append")
        if fault == "lost":
            self.world.model.reply_lost(appends)
            raise OutcomeUnknown("no reply")
        return fenced

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        await self._reach("before settle")
        self._fault("settle")
        await self.end_doubts(epochs)
        async with self.world.at_store():
            heads = await self.inner.settle(epochs)
            self._tell(lambda model: model.settled(epochs, heads))
        await self._reach("after settle")
        return heads

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        numbers = set(shards)
        await self._reach("before claim")
        fault = self._fault("claim")
        for other in self.world.hosts:
            await other.store.end_doubts(numbers)
        async with self.world.at_store():
            claims = await self.inner.claim(host, numbers)
            self._tell(lambda model: model.claimed(host, numbers, claims))
        await self._reach("after claim")
        if fault == "lost":
            raise StoreUnavailable("no reply", True)
        return claims

    async def find_commands(self, keys: Keys) -> dict[tuple[int, str, str], EventRecord]:
        return await self._read(self.inner.find_commands(keys))

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        return await self._read(self._histories(fingerprints, limit))

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        await self._reach("before keep")
        fault = self._fault("keep")
        async with self.world.at_store():
            await self.inner.write_snapshots(snapshots)
            self._tell(lambda model: model.kept(snapshots))
        await self._reach("after keep")
        if fault == "lost":
            raise StoreUnavailable("no reply", True)

    async def end_doubts(self, shards: Collection[int]) -> None:
        """The transactions in doubt that touch these shards are over: each has committed, or is undone."""
        for doubt in list(self._doubts):
            appends, commits = doubt
            if any(append.shard in shards for append in appends):
                self._doubts.remove(doubt)
                self.world.model.reply_lost(appends)
                if commits:
                    with suppress(StoreRejected):  # what is refused is undone
                        await self._append(appends)

    async def _append(self, appends: Sequence[ShardAppend]) -> set[int]:
        unread = {record.stream for append in appends for record in append.records if record.version == 1} - self.read
        async with self.world.at_store():
            try:
                fenced = await self.inner.append(appends)
            except StoreRejected:
                self.world.happened["presumed new, and there"] += bool(unread)
                self.world.model.refused(appends)
                raise
            except AssertionError as error:
                raise self._report(error) from error
            self._tell(lambda model: model.appended(self.host, appends, fenced))
            self.world.happened["presumed new, and new"] += bool(unread)
        return fenced

    async def _histories(self, fingerprints: Mapping[str, str | None], limit: int | None) -> Histories:
        """Read as the store does, from snapshots that may be damaged."""
        self.read |= fingerprints.keys()
        snapshots, records = await self.inner.read_histories(fingerprints, limit)
        if not snapshots or (fault := self._fault("snapshot")) is None:
            return Histories(snapshots, records)
        damaged = {stream: DAMAGE[fault](snapshot) for stream, snapshot in snapshots.items()}
        left = {stream: snapshot for stream, snapshot in damaged.items() if snapshot is not None}
        versions = versions_restored(fingerprints, left)
        records = (await self.inner.read_histories(dict.fromkeys(fingerprints), limit)).records
        return Histories(left, [record for record in records if record.version > versions[record.stream]])

    async def _read(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            await self._reach("before read")
            self._fault("read")
            async with self.world.at_store():
                result = await work
        finally:
            work.close()
        await self._reach("after read")
        return result

    def _locks(self, shard: int) -> bool:
        """Whether a transaction in doubt holds the shard's row: it came before any later claim."""
        epoch = self.world.model.epochs[shard]
        return any((append.shard, append.epoch) == (shard, epoch) for doubt, _ in self._doubts for append in doubt)

    async def _reach(self, step: str) -> None:
        while step in self.held or self.dead:
            await self._moved.wait()

    def _fault(self, what: str) -> str | None:
        """Take the next fault; those that are the same everywhere are raised."""
        fault = self.faults[what].pop(0) if self.faults[what] else None
        if fault == "locked":
            raise StoreUnavailable("locked", True)
        if fault == "disk full":
            self.world.model.broken[self.host] += 1
            raise StoreUnavailable("disk full", False)
        return fault

    def _tell(self, tell: Any) -> None:
        try:
            tell(self.world.model)
        except AssertionError as error:
            raise self._report(error) from error

    def _report(self, error: Exception) -> Exception:
        """A problem inside a host's step: told to the test, whatever the host makes of it."""
        self.world.problems.append(error)
        return error
