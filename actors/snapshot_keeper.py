"""A host's snapshots: taken where they are due, and written in a task of their own, once their events are stored.

No answer waits for them, and losing one loses nothing: what can't be written is counted and said. Not here: how state
becomes JSON (`snapshots.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice

import structlog

from actors.aggregate import Aggregate
from actors.snapshots import Snapshots
from store.errors import EventrayError
from store.ports import SnapshotWriter
from store.records import Snapshot

WAITING_MAX = 1_000
WAITING_SIZE_MAX = 32 * 1024 * 1024
"""Characters of JSON that wait at most."""
BATCH_MAX = 100
PAUSE_S = 0.02
"""Between two transactions, in which commits go first."""

log = structlog.get_logger(__name__)


class SnapshotKeeper:
    """One per host. All but `run` and `write_all` is synchronous."""

    def __init__(self, store: SnapshotWriter) -> None:
        self._store = store
        self._waiting: dict[str, Snapshot] = {}
        self._waiting_size = 0
        self._wake = asyncio.Event()
        self.snapshots = Snapshots()

    def take(self, aggregate: Aggregate, recorded_at: int) -> Snapshot | None:
        """Return a snapshot, to be kept once its version is stored; see `Snapshots.take`."""
        return self.snapshots.take(aggregate, recorded_at)

    def keep(self, snapshot: Snapshot) -> None:
        """Have a snapshot of a version that is stored written soon, in the place of an older one that waits."""
        former = self._waiting.pop(snapshot.stream, None)
        self._waiting_size -= len(former.data) if former else 0
        size = self._waiting_size + len(snapshot.data)
        if len(self._waiting) >= WAITING_MAX or (self._waiting and size > WAITING_SIZE_MAX):
            self.snapshots.count(unwritten=1)
            return
        self._waiting[snapshot.stream] = snapshot
        self._waiting_size = size
        self._wake.set()

    def take_long(self, aggregates: Iterable[Aggregate], recorded_at: int) -> None:
        """Have snapshots written of aggregates just loaded, all of whose events are stored."""
        for aggregate in aggregates:
            snapshot = self.take(aggregate, recorded_at)
            if snapshot is not None:
                self.keep(snapshot)

    async def run(self) -> None:
        """Write what waits, a batch at a time, until cancelled."""
        while True:
            await self._wake.wait()
            await self._write_some()
            await asyncio.sleep(PAUSE_S)

    async def write_all(self) -> None:
        """Write all that waits."""
        while self._waiting:
            await self._write_some()

    async def _write_some(self) -> None:
        batch = list(islice(self._waiting.values(), BATCH_MAX))
        for snapshot in batch:
            del self._waiting[snapshot.stream]
            self._waiting_size -= len(snapshot.data)
        if not self._waiting:
            self._wake.clear()
        if not batch:
            return
        try:
            await self._store.write_snapshots(batch)
        except EventrayError as error:
            self.snapshots.count(unwritten=len(batch))
            log.warning("snapshots could not be written", snapshots=len(batch), reason=str(error))
        else:
            self.snapshots.count(written=len(batch))
