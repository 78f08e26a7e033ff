"""The store's ports: what the layers above may ask of a store, whichever backend keeps it.

The memory store (`memory.py`) is the shortest backend and the specification of these words; the contract suite runs
whole on each. Not here: typed events, deciding, Ray.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Literal, Protocol

from store.records import (
    Advance,
    AuditResult,
    Checkpoint,
    Claim,
    EventRecord,
    Histories,
    ParkedCount,
    ParkedKey,
    Route,
    ShardAppend,
    Snapshot,
    SnapshotPlace,
    Writer,
)
from store.taking import Holding

Wish = Literal["retry", "discard"]
"""What may be asked for a parked key: that its event is tried again, or left out."""


class EventReader(Protocol):
    """Reading the log. Every call sees one snapshot of the store; none needs a claim."""

    @property
    def store_id(self) -> str:
        """Drawn when the store was created; part of each receipt."""
        ...

    @property
    def shards(self) -> int:
        """The number of shards, fixed at creation."""
        ...

    async def heads(self) -> dict[int, int]:
        """Return the head of every shard: the position of its last event, 0 if it has none."""
        ...

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        """Return at most `limit` records of one shard with positions above `after_position`, in position order."""
        ...

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        """Return, in one go, the snapshots of these streams, and of each stream at most `limit` records.

        By stream is given the fingerprint of a snapshot that the caller can use: then its records begin behind such a
        one, else at the first. A snapshot with another fingerprint is returned too; None: none is wanted.
        """
        ...

    async def read_stream(self, stream: str, after_version: int, limit: int) -> Sequence[EventRecord]:
        """Return at most `limit` records of one stream with versions above `after_version`, in order."""
        ...

    async def read_snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        """Return, in one query, the snapshots of those of the streams that have one, by stream.

        Whatever a damaged row holds is returned as it is, text that is no UTF-8 with its bytes escaped by backslashes.
        """
        ...

    def snapshot_places(self) -> AsyncIterator[Sequence[SnapshotPlace]]:
        """Yield the places of all snapshots, in no order, page by page; each page is as the store is at one moment.

        What the snapshots hold is not read. Names of damaged rows are as `read_snapshots` returns them; a version that
        is no number is 0.
        """
        ...

    async def find_commands(self, keys: Collection[tuple[int, str, str]]) -> dict[tuple[int, str, str], EventRecord]:
        """Return the first events of those commands, by (shard, command key, stream), that are in the log."""
        ...

    async def routes(self) -> list[Route]:
        """Return who serves each shard, in shard order."""
        ...


class Ownership(Protocol):
    """Who may write. Every method is one transaction.

    Where the reply to one was lost, it raises StoreUnavailable (`passing`), and what it was to do may have been done.
    Doing it again leads to the same.
    """

    async def take(self, holder: str) -> int:
        """Take the store for writing and return the new generation.

        At once if nobody holds it, if the last holder released it, or if `holder` itself held it (a coordinator
        that came back). Otherwise the beat is watched for 3 s: if it moves, StoreHeld; if it stands, it is taken.
        """
        ...

    async def holding(self) -> Holding:
        """Return who holds the store."""
        ...

    async def beat(self, generation: int) -> None:
        """Raise the beat. Raises Superseded if another generation holds the store."""
        ...

    async def release(self, generation: int) -> None:
        """Give the store back, so that the next `take` needs not wait. A no-op for a generation that is superseded."""
        ...

    async def assign(self, generation: int, assignments: Mapping[int, str | None]) -> None:
        """Beat, then say which host each of these shards is meant for (None: nobody). Raises Superseded.

        Does not wait for a writer that holds a row: after 300 ms its backend is terminated (PostgreSQL).
        """
        ...

    async def want_hosts(self, generation: int, count: int) -> None:
        """Beat, then keep how many hosts are wanted, for whoever runs the store next too. Raises Superseded."""
        ...

    async def hosts_wanted(self) -> int | None:
        """Return how many hosts are wanted; None if nobody has ever said."""
        ...

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        """Raise the epoch of those shards among `shards` that are assigned to `host`; return what was claimed.

        Records this process (or its backend) as the writer of `host`. Never waits for a predecessor: after 300 ms
        its backend is terminated (PostgreSQL); on SQLite the coordinator has ended its process before (`end_writer`).
        """
        ...

    async def end_writer(self, host: str) -> bool:
        """Make sure that what `host` has not committed never will be; return whether something had to be ended.

        SQLite: kill -9 of the recorded process if it still is that process (start time checked) and on this machine.
        PostgreSQL: pg_terminate_backend of the recorded backend, start time checked. Unknown hosts: False.
        """
        ...

    async def writers(self) -> dict[str, Writer]:
        """Return the recorded writer of each host that claimed since the store was last given back by `release`."""
        ...


class EventAppender(Protocol):
    """Writing the log, fenced by epochs."""

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        """Append in ONE transaction, shards in ascending order; return the shards that were fenced.

        For each shard with records: `UPDATE shards SET head = new WHERE shard AND epoch AND head = old_head` must hit
        one row, then its records are inserted; with 0 rows and another epoch the shard is fenced: it is left out, and
        the others are written unchanged (0 rows at the same epoch is an AssertionError: lost outcomes are settled
        first). For each shard without records the epoch is confirmed by a SELECT in the same transaction.

        Raises, with nothing written: StoreRejected (a key conflict, a row the database won't take) or StoreUnavailable.
        Raises OutcomeUnknown where the commit's reply was lost: `settle` then tells. Cancelling the caller does not
        stop a transaction under way.
        """
        ...

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        """After an unknown outcome: lock the rows of these shards (shard: epoch), so that the lost transaction is over.

        Returns the head of each shard that still is at the given epoch; the others are fenced. After 300 ms without
        the lock this host's own old backend is terminated.
        """
        ...


class SnapshotWriter(Protocol):
    """Keeping snapshots. They need no claim: what is stored of a stream folds to one state, whoever folded it."""

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        """Keep these in one transaction, each in the place of its stream's last one unless that has a higher version.

        Only for versions that are stored. May be lost in a crash of the machine, unlike events: no wait for the disk.
        Raises StoreUnavailable or StoreRejected, with nothing written.
        """
        ...


class Checkpoints(Protocol):
    """How far the subscribers are that keep no read model. They need no claim; every method is one transaction."""

    async def keep_checkpoints(self, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        """Return a subscriber's checkpoints in these shards; where it has none, the one given is kept from now on.

        Raises StoreUnavailable, with nothing kept.
        """
        ...

    async def move_checkpoints(self, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
        """Move each checkpoint that is where it is to be moved from; return where each is then, by shard.

        One that is elsewhere was moved by somebody else, and stays. Raises StoreUnavailable, with nothing moved.
        """
        ...


class Parking(Protocol):
    """The partition keys that handlers have parked, and the checkpoints that go with them; a key is one row.

    They need no claim; every method is one transaction and raises StoreUnavailable with nothing changed. A key's row
    and its shard's checkpoint say together what a handler has taken: neither moves without a look at the other.
    """

    async def checkpoints(self, subscriber: str) -> dict[int, Checkpoint]:
        """Return a subscriber's checkpoints, by shard; none where it has never started."""
        ...

    async def parked(self, handler: str | None = None, wished: bool = False) -> list[ParkedKey]:
        """Return what a handler, or any, has parked, the oldest first; with `wished` only what somebody wants done."""
        ...

    async def parked_counts(self) -> dict[str, ParkedCount]:
        """Return how much each handler has parked, by name, of those that have parked any; the rows stay where they
        are.
        """
        ...

    async def advance(
        self, handler: str, advances: Sequence[Advance], parks: Sequence[ParkedKey], passed: Mapping[int, set[str]]
    ) -> dict[int, int]:
        """Move a handler's checkpoints and park the keys of `parks`; return where each checkpoint is then, by shard.

        A shard stays as it is, and none of its keys is parked, where its checkpoint is elsewhere, where a key of
        `passed` (whose events were left in the log, by shard) is not parked, or where one of `parks` already is.
        """
        ...

    async def keep_parked(self, before: ParkedKey, after: ParkedKey) -> bool:
        """Put `after` in the place of `before`, of the same key; False if it is not as it was, then nothing changes."""
        ...

    async def unpark(self, before: ParkedKey, checkpoint: int) -> bool:
        """Remove a row whose key has no event left up to the shard's checkpoint.

        False if the row is not as it was, or the checkpoint elsewhere: then nothing changes.
        """
        ...

    async def wish(self, handler: str, partition_keys: Collection[str] | None, wish: Wish) -> int:
        """Ask the owner to do that with parked keys of a handler, all of them if None; return how many there were."""
        ...

    async def reset(self, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
        """Put checkpoints elsewhere, wherever they are. Keys that were parked at later events are parked no more."""
        ...


class Audits(Protocol):
    """What the last audits came to, so that whoever watches the runtime sees it. They need no claim."""

    async def keep_audit(self, result: AuditResult) -> None:
        """Keep a result in the place of the last one of its name. Raises StoreUnavailable, with nothing changed."""
        ...

    async def audits(self) -> list[AuditResult]:
        """Return the last result of each name, by name."""
        ...


class EventStore(EventReader, Ownership, EventAppender, SnapshotWriter, Checkpoints, Parking, Audits, Protocol):
    """A whole store, opened. One process may open it any number of times."""

    async def close(self) -> None:
        """Let go of connections and threads. Calling it twice is safe."""
        ...
