"""What every SQL store has in common: ownership and the cold reads, in SQLAlchemy Core.

A backend derives from `SqlStore`, says how a transaction is begun, how an error is worded and who the writer is, and
adds the hot path (append, reading the log) in its driver's own words.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from sqlalchemy import bindparam, delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from store import checkpoints, parking, taking
from store.errors import StoreHeld, Superseded
from store.ports import Wish
from store.records import Advance, AuditResult, Checkpoint, Claim, ParkedCount, ParkedKey, Route, Writer
from store.schema import StoreIdentity, audits, hosts, runtime, shards, targets
from store.taking import Holding

T = TypeVar("T")
HOSTS = "hosts"
"""The name of the target that says how many hosts are wanted."""
_keep_audit = text(
    "INSERT INTO audits (audit, ended_at, events, found) VALUES (:audit, :ended_at, :events, :found)"
    " ON CONFLICT (audit) DO UPDATE"
    " SET ended_at = excluded.ended_at, events = excluded.events, found = excluded.found"
)
Work = Callable[[AsyncConnection], Awaitable[T]]


class SqlStore(ABC):
    """The shared part of an `EventStore` over SQL. It belongs to the event loop that opened it."""

    def __init__(self, identity: StoreIdentity, engine: AsyncEngine) -> None:
        self._identity, self._engine = identity, engine

    @property
    def store_id(self) -> str:
        return self._identity.store_id

    @property
    def shards(self) -> int:
        return self._identity.shards

    # What a backend says

    @abstractmethod
    async def _read(self, work: Work[T]) -> T:
        """Run `work` in one snapshot; raise the driver's errors as the store's."""

    @abstractmethod
    async def _write(self, work: Work[T]) -> T:
        """Run `work` in one write transaction and commit it; raise the driver's errors as the store's.

        Where a predecessor holds what `work` needs, it may be ended and `work` run again.
        """

    @abstractmethod
    async def _writer(self) -> Writer:
        """Return who a successor must end, so that nothing more is written through this store."""

    @abstractmethod
    async def _end(self, writer: Writer) -> bool:
        """End that writer if it still is the same and not this one; return whether it had to be."""

    # Cold reads

    async def routes(self) -> list[Route]:
        query = select(shards.c.shard, shards.c.assigned_to, shards.c.epoch).order_by(shards.c.shard)

        async def work(connection: AsyncConnection) -> list[Route]:
            return [Route(*row) for row in await connection.execute(query)]

        return await self._read(work)

    async def writers(self) -> dict[str, Writer]:
        async def work(connection: AsyncConnection) -> dict[str, Writer]:
            rows = await connection.execute(select(hosts))
            return {row.name: Writer(row.machine, row.writer_pid, row.writer_started) for row in rows}

        return await self._read(work)

    # Ownership

    async def take(self, holder: str) -> int:
        seen = await taking.watch(self.holding, holder)
        taken = (
            update(runtime)
            .where(runtime.c.generation == seen.generation)
            .values(generation=seen.generation + 1, beat=runtime.c.beat + 1, holder=holder, released=False)
        )
        if not seen.free_for(holder):
            taken = taken.where(runtime.c.beat == seen.beat)

        async def work(connection: AsyncConnection) -> bool:
            return (await connection.execute(taken)).rowcount == 1

        if not await self._write(work):
            raise StoreHeld(str((await self.holding()).holder))
        return seen.generation + 1

    async def holding(self) -> Holding:
        query = select(runtime.c.generation, runtime.c.beat, runtime.c.holder, runtime.c.released)

        async def work(connection: AsyncConnection) -> Holding:
            return Holding(*(await connection.execute(query)).one())

        return await self._read(work)

    async def beat(self, generation: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            await _beat(connection, generation)

        await self._write(work)

    async def release(self, generation: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            given_back = update(runtime).where(runtime.c.generation == generation).values(released=True)
            if (await connection.execute(given_back)).rowcount == 1:
                await connection.execute(delete(hosts))

        await self._write(work)

    async def assign(self, generation: int, assignments: Mapping[int, str | None]) -> None:
        assigned = update(shards).where(shards.c.shard == bindparam("number")).values(assigned_to=bindparam("host"))
        rows = [{"number": number, "host": host} for number, host in sorted(assignments.items())]

        async def work(connection: AsyncConnection) -> None:
            await _beat(connection, generation)
            if rows:
                await connection.execute(assigned, rows)

        await self._write(work)

    async def want_hosts(self, generation: int, count: int) -> None:
        async def work(connection: AsyncConnection) -> None:
            await _beat(connection, generation)
            await connection.execute(delete(targets).where(targets.c.name == HOSTS))
            await connection.execute(insert(targets).values(name=HOSTS, value=count))

        await self._write(work)

    async def hosts_wanted(self) -> int | None:
        query = select(targets.c.value).where(targets.c.name == HOSTS)

        async def work(connection: AsyncConnection) -> int | None:
            return (await connection.execute(query)).scalar_one_or_none()

        return await self._read(work)

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        numbers, writer = sorted(set(shards)), await self._writer()

        async def work(connection: AsyncConnection) -> dict[int, Claim]:
            return await _claim(connection, host, numbers, writer)

        return await self._write(work)

    async def end_writer(self, host: str) -> bool:
        writer = (await self.writers()).get(host)
        return False if writer is None else await self._end(writer)

    # Checkpoints

    async def keep_checkpoints(self, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        async def work(connection: AsyncConnection) -> dict[int, Checkpoint]:
            return await checkpoints.keep(connection, subscriber, begin)

        return await self._write(work)

    async def move_checkpoints(self, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
        async def work(connection: AsyncConnection) -> dict[int, int]:
            return await checkpoints.move(connection, subscriber, advances)

        return await self._write(work)

    # Parked keys

    async def checkpoints(self, subscriber: str) -> dict[int, Checkpoint]:
        return await self._read(partial(checkpoints.read, subscriber=subscriber))

    async def parked(self, handler: str | None = None, wished: bool = False) -> list[ParkedKey]:
        return await self._read(partial(parking.read, handler=handler, wished=wished))

    async def parked_counts(self) -> dict[str, ParkedCount]:
        return await self._read(parking.counts)

    async def advance(
        self, handler: str, advances: Sequence[Advance], parks: Sequence[ParkedKey], passed: Mapping[int, set[str]]
    ) -> dict[int, int]:
        return await self._write(
            partial(parking.advance, handler=handler, advances=advances, parks=parks, passed=passed)
        )

    async def keep_parked(self, before: ParkedKey, after: ParkedKey) -> bool:
        return await self._write(partial(parking.keep, before=before, after=after))

    async def unpark(self, before: ParkedKey, checkpoint: int) -> bool:
        return await self._write(partial(parking.unpark, before=before, checkpoint=checkpoint))

    async def wish(self, handler: str, partition_keys: Collection[str] | None, wish: Wish) -> int:
        return await self._write(partial(parking.wish, handler=handler, partition_keys=partition_keys, wished=wish))

    async def reset(self, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
        await self._write(partial(parking.reset, subscriber=subscriber, to=to))

    # Audits

    async def keep_audit(self, result: AuditResult) -> None:
        async def work(connection: AsyncConnection) -> None:
            await connection.execute(_keep_audit, result._asdict())

        await self._write(work)

    async def audits(self) -> list[AuditResult]:
        async def work(connection: AsyncConnection) -> list[AuditResult]:
            return [AuditResult(*row) for row in await connection.execute(select(audits).order_by(audits.c.audit))]

        return await self._read(work)


async def _beat(connection: AsyncConnection, generation: int) -> None:
    beaten = (
        update(runtime)
        .where(runtime.c.generation == generation, runtime.c.released.is_(False))
        .values(beat=runtime.c.beat + 1)
    )
    if (await connection.execute(beaten)).rowcount != 1:
        raise Superseded(generation)


async def _claim(connection: AsyncConnection, host: str, numbers: list[int], writer: Writer) -> dict[int, Claim]:
    wanted = (shards.c.shard.in_(numbers), shards.c.assigned_to == host)
    # In ascending order, as an append locks them: two that wait for each other crosswise can't be.
    locked = (
        select(shards.c.shard, shards.c.epoch + 1, shards.c.head)
        .where(*wanted)
        .order_by(shards.c.shard)
        .with_for_update()
    )
    claims = {shard: Claim(epoch, head) for shard, epoch, head in await connection.execute(locked)}
    if claims:
        await connection.execute(update(shards).where(*wanted).values(epoch=shards.c.epoch + 1, claimed_by=host))
        await connection.execute(delete(hosts).where(hosts.c.name == host))
        await connection.execute(
            insert(hosts).values(
                name=host, machine=writer.machine, writer_pid=writer.pid, writer_started=writer.started
            )
        )
    return claims
