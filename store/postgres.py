"""The PostgreSQL store. Ownership and cold reads are `sql.py`'s; here is the hot path, in asyncpg's own words.

All that a host writes goes over one session of its own, whose backend is recorded as the host's writer. Measured: up
to about a hundred rows one statement is fastest, which is its own transaction and takes one round trip; beyond, COPY
costs half of the client's CPU. Not here: sessions (`postgres_database.py`), who may end whom (`postgres_sessions.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from store import paging
from store.errors import OutcomeUnknown, StoreUnavailable
from store.postgres_database import ATTEMPTS_MAX, READ_ONLY, PostgresDatabase, in_transaction
from store.postgres_errors import DRIVER_ERRORS, store_error, undone_by_rival
from store.postgres_sessions import Sessions
from store.records import Claim, EventRecord, Histories, Route, ShardAppend, Snapshot, SnapshotPlace, Writer
from store.schema import StoreIdentity
from store.sql import SqlStore, Work

T = TypeVar("T")
COPY_ROWS_MIN = 100
COPY_BYTES_MAX = 256 * 1024
"""In one COPY, but for its last row: asyncpg hands so much to the socket without a wait, in which it would not notice
that the connection is lost."""
ROW_BYTES = 250
"""About what a row takes beside its JSON."""
COLUMNS = ", ".join(EventRecord._fields)
FOUND = ", ".join(f"events.{column}" for column in EventRecord._fields)
READ_SHARD = f"SELECT {COLUMNS} FROM events WHERE shard = $1 AND position > $2 ORDER BY position LIMIT $3"  # noqa: S608
READ_STREAM = f"SELECT {COLUMNS} FROM events WHERE stream = $1 AND version > $2 ORDER BY version LIMIT $3"  # noqa: S608
KEPT_SHARD = -1
"""In the place of the shard, for a row of `READ_HISTORIES` that is a snapshot."""
AS_EVENT = f"{KEPT_SHARD}, 0, stream, version, fingerprint, ''::bytea, '', 0, data, '', NULL, NULL, recorded_at"
READ_HISTORIES = f"""SELECT {AS_EVENT} FROM unnest($1::text[], $2::text[]) AS wanted (name, usable)
    JOIN snapshots ON stream = name WHERE usable IS NOT NULL
UNION ALL
SELECT {FOUND} FROM unnest($1::text[], $2::text[]) AS wanted (name, usable) CROSS JOIN LATERAL (
    SELECT {COLUMNS} FROM events WHERE stream = name AND version > coalesce(
        (SELECT version FROM snapshots WHERE snapshots.stream = name AND fingerprint = usable), 0)
    ORDER BY version LIMIT $3
) AS events"""  # noqa: S608
"""Stream by stream in the order in which they are named: the reading sessions join by nested loops alone."""
FIND_COMMANDS = f"""SELECT {FOUND} FROM unnest($1::int4[], $2::text[], $3::text[]) AS wanted (shard, key, stream)
    JOIN events ON events.shard = wanted.shard AND events.command_key = wanted.key AND events.stream = wanted.stream
    WHERE events.command_key IS NOT NULL"""  # noqa: S608
SNAPSHOT = ", ".join(Snapshot._fields)
READ_SNAPSHOTS = f"SELECT {SNAPSHOT} FROM snapshots WHERE stream = ANY($1::text[])"  # noqa: S608
SNAPSHOT_PLACES = """SELECT stream, version, coalesce(last_version, 0), shard
    FROM (SELECT stream, version FROM snapshots WHERE stream >= $1 ORDER BY stream LIMIT $2) AS page
    LEFT JOIN LATERAL (
        SELECT version AS last_version, shard FROM events WHERE stream = page.stream ORDER BY version DESC LIMIT 1
    ) AS last ON true ORDER BY stream"""
NEXT = "\x01"
"""Behind a text: the first text that comes after it."""
# In the streams' order, so that two that write the same ones don't wait for each other crosswise.
WRITE_SNAPSHOTS = f"""INSERT INTO snapshots ({SNAPSHOT})
    SELECT * FROM unnest($1::text[], $2::int8[], $3::text[], $4::text[], $5::int8[]) AS row ({SNAPSHOT}) ORDER BY stream
    ON CONFLICT (stream) DO UPDATE SET version = excluded.version, fingerprint = excluded.fingerprint,
        data = excluded.data, recorded_at = excluded.recorded_at WHERE excluded.version >= snapshots.version"""  # noqa: S608
HEADS = "SELECT shard, head FROM shards"
ROUTES = "SELECT shard, assigned_to, epoch FROM shards ORDER BY shard"
LOCK = "SELECT shard, epoch, head FROM shards WHERE shard = ANY($1::int4[]) ORDER BY shard FOR UPDATE"
# The rows are locked in ascending order, and looked at as they are once locked. Where one is at the expected epoch but
# has another head, nothing at all is advanced.
ADVANCE = f"""WITH wanted AS (
    SELECT * FROM unnest($1::int4[], $2::int8[], $3::int8[], $4::int8[]) AS w (shard, epoch, old_head, new_head)
), locked AS MATERIALIZED ({LOCK}), wrong AS (
    SELECT FROM locked JOIN wanted USING (shard) WHERE locked.epoch = wanted.epoch AND head <> old_head
), advanced AS (
    UPDATE shards SET head = new_head FROM locked JOIN wanted USING (shard)
    WHERE shards.shard = locked.shard AND locked.epoch = wanted.epoch AND NOT EXISTS (SELECT FROM wrong)
    RETURNING shards.shard
)"""  # noqa: S608
OWNED = """ SELECT shard, epoch, head FROM locked
    UNION ALL SELECT shard, epoch, head FROM shards WHERE shard = ANY($5::int4[])"""
COLUMN_TYPES = ("int4", "int8", *["text", "int8", "text", "bytea", "text", "int4"], *["text"] * 4, "int8")
ARRAYS = ", ".join(f"${place}::{type_}[]" for place, type_ in enumerate(COLUMN_TYPES, 6))
WRITTEN = f""", written AS (
    INSERT INTO events ({COLUMNS}) SELECT * FROM unnest({ARRAYS}) AS row ({COLUMNS})
    WHERE row.shard IN (SELECT shard FROM advanced)
)"""  # noqa: S608


class PostgresStore(SqlStore):
    """An `EventStore` in a PostgreSQL database. No call waits for ever: a server that says nothing is a lost one."""

    def __init__(self, database: PostgresDatabase, identity: StoreIdentity) -> None:
        self._sessions = Sessions(database, f"eventray {identity.store_id}")
        super().__init__(identity, database.engine(self._sessions.connect))
        self._writing = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self._sessions.close()
        await self._engine.dispose()

    # Hot reads

    async def heads(self) -> dict[int, int]:
        return dict(await self._sessions.fetch(HEADS))

    async def routes(self) -> list[Route]:
        return [Route(*row) for row in await self._sessions.fetch(ROUTES)]

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        return await self._records(READ_SHARD, shard, after_position, limit)

    async def read_stream(self, stream: str, after_version: int, limit: int) -> Sequence[EventRecord]:
        return await self._records(READ_STREAM, stream, after_version, limit)

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        wanted = sorted(fingerprints)
        rows = await self._records(READ_HISTORIES, wanted, [fingerprints[stream] for stream in wanted], limit)
        snapshots = [
            Snapshot(row.stream, row.version, row.partition_key, row.data, row.recorded_at)
            for row in rows
            if row.shard == KEPT_SHARD
        ]
        records = [row for row in rows if row.shard != KEPT_SHARD] if snapshots else rows
        return Histories({snapshot.stream: snapshot for snapshot in snapshots}, records)

    async def read_snapshots(self, streams: Collection[str]) -> dict[str, Snapshot]:
        found = await self._sessions.fetch(READ_SNAPSHOTS, list(streams))
        return {snapshot.stream: snapshot for snapshot in (Snapshot(*row) for row in found)}

    async def snapshot_places(self) -> AsyncIterator[Sequence[SnapshotPlace]]:
        first = ""
        while page := await self._sessions.fetch(SNAPSHOT_PLACES, first, paging.SNAPSHOTS_PAGE):
            yield [SnapshotPlace(*row) for row in page]
            first = page[-1]["stream"] + NEXT

    async def find_commands(self, keys: Collection[tuple[int, str, str]]) -> dict[tuple[int, str, str], EventRecord]:
        found = await self._records(FIND_COMMANDS, *_columns(keys, 3))
        return {(record.shard, str(record.command_key), record.stream): record for record in found}

    async def _records(self, query: str, *values: Any) -> list[EventRecord]:
        new = tuple.__new__
        return [new(EventRecord, row) for row in await self._sessions.fetch(query, *values)]

    # Writing

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        return await self._unstoppable(self._append(appends))

    async def settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        return await self._unstoppable(self._settle(epochs))

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        """As the port says. Not on the session that appends, so that no append waits for it."""
        newest = {snapshot.stream: snapshot for snapshot in sorted(snapshots, key=lambda each: each.version)}

        async def work(connection: AsyncConnection) -> None:
            await connection.execute(text("SET LOCAL synchronous_commit = off"))
            session = (await connection.get_raw_connection()).driver_connection
            assert session is not None
            await session.execute(WRITE_SNAPSHOTS, *_columns(list(newest.values()), len(Snapshot._fields)))

        await self._write(work)

    async def _append(self, appends: Sequence[ShardAppend]) -> set[int]:
        write = self._copy if sum(len(append.records) for append in appends) >= COPY_ROWS_MIN else self._insert
        async with self._writing:
            for attempt in range(1, ATTEMPTS_MAX + 1):
                session = await self._sessions.writer()
                try:
                    with self._sessions.watched(session):
                        return await write(session, appends)
                except StoreUnavailable as error:
                    if attempt == ATTEMPTS_MAX or not undone_by_rival(error.__cause__ or error):
                        raise
        raise AssertionError("an attempt returns or raises")

    async def _insert(self, session: asyncpg.Connection, appends: Sequence[ShardAppend]) -> set[int]:
        """Append in one statement, with which the commit is sent too."""
        records = [record for append in appends for record in append.records]
        try:
            owned = await session.fetch(
                ADVANCE + WRITTEN + OWNED, *_wanted(appends), *_columns(records, len(COLUMN_TYPES))
            )
        except DRIVER_ERRORS as error:
            failure = store_error(error, committing=bool(records))
            if isinstance(failure, OutcomeUnknown):
                session.terminate()  # the next session ends its backend, which settles it
            raise failure from error
        return _fenced(appends, owned)

    async def _copy(self, session: asyncpg.Connection, appends: Sequence[ShardAppend]) -> set[int]:
        """Append by COPY. If it fails the session goes with it, so that the server rolls back whatever comes."""
        committing = done = False
        try:
            await session.execute("BEGIN")
            fenced = _fenced(appends, await session.fetch(ADVANCE + OWNED, *_wanted(appends)))
            for rows in _portions(record for a in appends if a.shard not in fenced for record in a.records):
                await session.copy_records_to_table("events", records=rows, columns=EventRecord._fields)
            committing = True
            await session.execute("COMMIT")
            done = True
        except DRIVER_ERRORS as error:
            raise store_error(error, committing) from error
        finally:
            if not done:
                session.terminate()
        return fenced

    async def _settle(self, epochs: Mapping[int, int]) -> dict[int, int]:
        async with self._writing:
            session = await self._sessions.writer()  # ends the backend whose reply was lost
            try:
                with self._sessions.watched(session):
                    owned = await session.fetch(LOCK, list(epochs))
            except DRIVER_ERRORS as error:
                raise store_error(error) from error
        return {shard: head for shard, epoch, head in owned if epochs[shard] == epoch}

    async def _unstoppable(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` to its end, even if the caller is cancelled."""
        task = asyncio.get_running_loop().create_task(work)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    # Ownership

    async def claim(self, host: str, shards: Iterable[int]) -> dict[int, Claim]:
        async with self._writing:  # the session that is recorded stays the writer's until the claim has committed
            return await super().claim(host, shards)

    async def _read(self, work: Work[T]) -> T:
        return await self._transaction(work, READ_ONLY)

    async def _write(self, work: Work[T]) -> T:
        return await self._transaction(work, {})

    async def _transaction(self, work: Work[T], options: dict[str, Any]) -> T:
        try:
            return await in_transaction(self._engine, work, self._sessions.watched, options)
        except DRIVER_ERRORS as error:
            raise store_error(error) from error

    async def _writer(self) -> Writer:
        await self._sessions.writer()
        return self._sessions.identity

    async def _end(self, writer: Writer) -> bool:
        return await self._sessions.end(writer)


def _wanted(appends: Sequence[ShardAppend]) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Return the values of ADVANCE and OWNED: of the shards to be advanced, then those only to be confirmed."""
    writing = [append for append in appends if append.records]
    return (
        [append.shard for append in writing],
        [append.epoch for append in writing],
        [append.old_head for append in writing],
        [append.old_head + len(append.records) for append in writing],
        [append.shard for append in appends if not append.records],
    )


def _fenced(appends: Sequence[ShardAppend], owned: Iterable[asyncpg.Record]) -> set[int]:
    """Return the shards that are at another epoch than their append, given (shard, epoch, head) of each."""
    found = {shard: (epoch, head) for shard, epoch, head in owned}
    fenced = set()
    for append in appends:
        epoch, head = found.get(append.shard, (None, None))
        if epoch != append.epoch:
            fenced.add(append.shard)
        else:
            assert not append.records or head == append.old_head, f"shard {append.shard} is at {head}: {append}"
    return fenced


def _columns(rows: Collection[tuple[Any, ...]], count: int) -> Sequence[tuple[Any, ...]]:
    """Turn rows into as many columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * count


def _portions(records: Iterable[EventRecord]) -> Iterator[list[EventRecord]]:
    """Cut records into what one COPY takes."""
    rows: list[EventRecord] = []
    size_bytes = 0
    for record in records:
        rows.append(record)
        size_bytes += ROW_BYTES + len(record.data or "") + len(record.metadata or "")
        if size_bytes >= COPY_BYTES_MAX:
            yield rows
            rows, size_bytes = [], 0
    if rows:
        yield rows
