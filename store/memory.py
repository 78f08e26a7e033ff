"""The memory store: the shortest backend, and the specification of the store's ports. Read this one first.

Stores opened under one name in one process share their content, so that several hosts can fence each other; it lasts
until the last of them is closed. Each method runs without an await in it, so it is atomic on an event loop. For one
thread, and for tests: nothing outlives the process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from store import taking
from store.errors import NotAStore, ShardCountMismatch, StoreHeld, StoreRejected, StoreUnavailable, Superseded
from store.identity import uuid7
from store.ports import Wish
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
    versions_restored,
)
from store.schema import SHARDS_DEFAULT
from store.taking import Holding

INTEGER_MAX = 2**63 - 1
NULLABLE = {"command_key", "key_id"}


@dataclass
class Shard:
    """One shard: who may write, and its log, where position n is `log[n - 1]`."""

    epoch: int = 0
    assigned_to: str | None = None
    log: list[EventRecord] = field(default_factory=list)


class Content:
    """What all openers of one name share."""

    def __init__(self, shard_count: int) -> None:
        self.store_id = str(uuid7())
        self.shards = [Shard() for _ in range(shard_count)]
        self.streams: dict[str, list[EventRecord]] = {}
        self.commands: dict[tuple[int, str, str], EventRecord] = {}
        self.snapshots: dict[str, Snapshot] = {}
        self.checkpoints: dict[tuple[str, int], Checkpoint] = {}
        self.parked: dict[tuple[str, str], ParkedKey] = {}
        self.audits: dict[str, AuditResult] = {}
        self.holding = Holding(0, 0, None, True)
        self.hosts_wanted: int | None = None
        self.writers: dict[str, MemoryStore] = {}
        self.openers: set[MemoryStore] = set()


_contents: dict[str, Content] = {}


class MemoryStore:
    """An `EventStore` in this process's memory. Each opener counts as a writer of its own, as a process would."""

    def __init__(self, name: str = "", shards: int | None = None, create: bool = True) -> None:
        """Raises NotAStore if it isn't there and `create` is off, ShardCountMismatch for another number of shards."""
        content = _contents.get(name)
        if content is None:
            if not create:
                raise NotAStore(f"memory://{name}", "nobody in this process has it open")
            content = _contents[name] = Content(shards or SHARDS_DEFAULT)
        if shards not in (None, len(content.shards)):
            raise ShardCountMismatch(len(content.shards), shards or 0)
        self._name, self._content, self._ended = name, content, False
        content.openers.add(self)

    @property
    def store_id(self) -> str:
        return self._content.store_id

    @property
    def shards(self) -> int:
        return len(self._content.shards)

    async def close(self) -> None:
        self._content.openers.discard(self)
        if not self._content.openers and _contents.get(self._name) is self._content:
            del _contents[self._name]

    # Reading

    async def heads(self) -> dict[int, int]:
        return {number: len(shard.log) for number, shard in enumerate(self._content.shards)}

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        return self._content.shards[shard].log[after_position : after_position + limit]

    async def read_stream(self, stream: str, after_version: int, limit: int) -> Sequence[EventRecord]:
        return self._content.streams.get(stream, [])[after_version : after_version + limit]

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        snapshots = await self.read_snapshots([stream for stream, wanted in fingerprints.items() if wanted is not None])
        records: list[EventRecord] = []
        for stream, after_version in sorted(versions_restored(fingerprints, snapshots).items()):
            records += self._content.streams.get(stream, [])[after_version:][:limit]
        return Histories(snapshots, records)

    async def find_commands(self, keys: Collection[tuple[int, str, str]]) -> dict[tuple[int, str, str], EventRecord]:
        return {key: self._content.commands[key] for key in keys if key in self._content.commands}

    async def read_snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        return {stream: self._content.snapshots[stream] for stream in streams if stream in self._content.snapshots}

    async def snapshot_places(self) -> AsyncIterator[Sequence[SnapshotPlace]]:
        places = []
        for snapshot in self._content.snapshots.values():
            stream = self._content.streams.get(snapshot.stream, [])
            shard = stream[-1].shard if stream else None
            places.append(SnapshotPlace(snapshot.stream, snapshot.version, len(stream), shard))
        yield places

    async def routes(self) -> list[Route]:
        return [Route(number, shard.assigned_to, shard.epoch) for number, shard in enumerate(self._content.shards)]

    # Ownership

    async def take(self, holder: str) -> int:
        seen = await taking.watch(self.holding, holder)
        now = self._content.holding
        if now.generation != seen.generation or (now.beat != seen.beat and not now.free_for(holder)):
            raise StoreHeld(str(now.holder))
        self._content.holding = Holding(now.generation + 1, now.beat + 1, holder, False)
        return now.generation + 1

    async def holding(self) -> Holding:
        return self._content.holding

    async def beat(self, generation: int) -> None:
        holding = self._content.holding
        if holding.generation != generation or holding.released:
            raise Superseded(generation)
        self._content.holding = holding._replace(beat=holding.beat + 1)

    async def release(self, generation: int) -> None:
        if self._content.holding.generation == generation:
            self._content.holding = self._content.holding._replace(released=True)
            self._content.writers.clear()

    async def assign(self, generation: int, assignments: Mapping[int, str | None]) -> None:
        await self.beat(generation)
        for number, host in assignments.items():
            self._content.shards[number].assigned_to = host

    async def want_hosts(self, generation: int, count: int) -> None:
        await self.beat(generation)
        self._content.hosts_wanted = count

    async def hosts_wanted(self) -> int | None:
        return self._content.hosts_wanted

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        self._require_living()
        claims = {}
        for number in sorted(set(shards)):
            shard = self._content.shards[number]
            if shard.assigned_to == host:
                shard.epoch += 1
                claims[number] = Claim(shard.epoch, len(shard.log))
        if claims:
            self._content.writers[host] = self
        return claims

    async def end_writer(self, host: str) -> bool:
        writer = self._content.writers.get(host)
        if writer is None or writer is self or writer._ended:
            return False
        writer._ended = True
        return True

    async def writers(self) -> dict[str, Writer]:
        return {host: Writer("", id(writer), "") for host, writer in self._content.writers.items()}

    # Writing

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        self._require_living()
        shards = self._content.shards
        fenced = {append.shard for append in appends if shards[append.shard].epoch != append.epoch}
        kept = [append for append in appends if append.shard not in fenced]
        for append in kept:
            head = len(shards[append.shard].log)
            assert not append.records or append.old_head == head, f"shard {append.shard} is at {head}: {append}"
        self._check_rows([record for append in kept for record in append.records])
        for record in (record for append in kept for record in append.records):
            shards[record.shard].log.append(record)
            self._content.streams.setdefault(record.stream, []).append(record)
            if record.command_key is not None:
                self._content.commands[record.shard, record.command_key, record.stream] = record
        return fenced

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        shards = self._content.shards
        return {number: len(shards[number].log) for number, epoch in epochs.items() if shards[number].epoch == epoch}

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        for snapshot in snapshots:
            _check_text(snapshot.stream, snapshot.data)
        for snapshot in snapshots:
            kept = self._content.snapshots.setdefault(snapshot.stream, snapshot)
            if snapshot.version >= kept.version:
                self._content.snapshots[snapshot.stream] = snapshot

    # Checkpoints

    async def keep_checkpoints(self, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        kept = self._content.checkpoints
        return {shard: kept.setdefault((subscriber, shard), checkpoint) for shard, checkpoint in begin.items()}

    async def move_checkpoints(self, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
        kept = self._content.checkpoints
        for shard, from_position, to_position, event_id in advances:
            if kept[subscriber, shard].position == from_position:
                kept[subscriber, shard] = Checkpoint(to_position, event_id)
        return {advance.shard: kept[subscriber, advance.shard].position for advance in advances}

    # Parked keys

    async def checkpoints(self, subscriber: str) -> dict[int, Checkpoint]:
        kept = self._content.checkpoints.items()
        return {shard: checkpoint for (name, shard), checkpoint in kept if name == subscriber}

    async def parked(self, handler: str | None = None, wished: bool = False) -> list[ParkedKey]:
        rows = [row for row in self._content.parked.values() if handler in (None, row.handler)]
        rows = [row for row in rows if row.wish or not wished]
        return sorted(rows, key=lambda row: (row.handler, row.parked_at, row.partition_key))

    async def parked_counts(self) -> dict[str, ParkedCount]:
        by_handler: dict[str, list[int]] = {}
        for row in self._content.parked.values():
            by_handler.setdefault(row.handler, []).append(row.parked_at)
        return {handler: ParkedCount(len(moments), min(moments)) for handler, moments in by_handler.items()}

    async def advance(
        self, handler: str, advances: Sequence[Advance], parks: Sequence[ParkedKey], passed: Mapping[int, set[str]]
    ) -> dict[int, int]:
        kept, parked = self._content.checkpoints, self._content.parked
        due = {each.shard for each in advances if kept[handler, each.shard].position == each.from_position}
        due -= {shard for shard, keys in passed.items() if any((handler, key) not in parked for key in keys)}
        due -= {park.shard for park in parks if (handler, park.partition_key) in parked}
        parked.update({(handler, park.partition_key): park for park in parks if park.shard in due})
        await self.move_checkpoints(handler, [each for each in advances if each.shard in due])
        return {each.shard: kept[handler, each.shard].position for each in advances}

    async def keep_parked(self, before: ParkedKey, after: ParkedKey) -> bool:
        key = before.handler, before.partition_key
        if self._content.parked.get(key) != before:
            return False
        self._content.parked[key] = after
        return True

    async def unpark(self, before: ParkedKey, checkpoint: int) -> bool:
        key = before.handler, before.partition_key
        at = self._content.checkpoints.get((before.handler, before.shard))
        if self._content.parked.get(key) != before or at is None or at.position != checkpoint:
            return False
        del self._content.parked[key]
        return True

    async def wish(self, handler: str, partition_keys: Collection[str] | None, wish: Wish) -> int:
        asked = [row for row in await self.parked(handler) if partition_keys is None or row[1] in partition_keys]
        self._content.parked.update({(handler, row.partition_key): row._replace(wish=wish) for row in asked})
        return len(asked)

    async def reset(self, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
        self._content.checkpoints.update({(subscriber, shard): checkpoint for shard, checkpoint in to.items()})
        for key, row in list(self._content.parked.items()):
            if row.handler == subscriber and row.shard in to and row.position > to[row.shard].position:
                del self._content.parked[key]

    # Audits

    async def keep_audit(self, result: AuditResult) -> None:
        self._content.audits[result.audit] = result

    async def audits(self) -> list[AuditResult]:
        return sorted(self._content.audits.values())

    def _require_living(self) -> None:
        if self._ended:
            raise StoreUnavailable("this writer has been ended", False)

    def _check_rows(self, records: Sequence[EventRecord]) -> None:
        """Raise StoreRejected for what a database would not take: a second row under a key, a value without a form."""
        versions = {(record.stream, record.version) for record in records}
        commands = {(r.shard, r.command_key, r.stream) for r in records if r.command_key is not None}
        if len(versions) < len(records) or len(commands) < sum(record.command_key is not None for record in records):
            raise StoreRejected("two of the events have one key")
        for record in records:
            if record.version <= len(self._content.streams.get(record.stream, [])):
                raise StoreRejected(f"{record.stream} already has a version {record.version}")
            for name, value in record._asdict().items():
                if value is None and name not in NULLABLE:
                    raise StoreRejected(f"{name} is missing")
                if isinstance(value, int) and abs(value) > INTEGER_MAX:
                    raise StoreRejected(f"{name} = {value} has more than 64 bits")
                if isinstance(value, str):
                    _check_text(name, value)
        for key in commands & self._content.commands.keys():
            raise StoreRejected(f"command {key[1]} is already in the log")


def _check_text(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise StoreRejected(f"{name} holds a lone surrogate") from error
