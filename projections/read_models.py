"""Read models in SQL: their tables, the checkpoints beside them, reading a row and applying a batch.

A checkpoint says how far into a shard's log a read model goes. It is moved in the transaction that changes the read
model, from where it was thought to be: so each event counts once, whoever applies it. Not here: following the log
(`subscriber.py`), and which events change what (`projection.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

from sqlalchemy import Connection, Dialect, Select, Table, bindparam, insert, select, update

from projections.changes import Changes, Key, Rows
from projections.errors import ReadModelMissing, ReadModelRejected, ReadModelVersion
from projections.making import is_made, make_tables, make_views
from projections.opening import database_of
from projections.projection import Projection
from projections.row_sql import Compiled, Statement, compiled, given, rows_of, statements
from projections.tables import checkpoints, projections
from store.errors import InvalidValue
from store.records import Advance, Checkpoint


class Reading(NamedTuple):
    """A row as it was in one snapshot, and how far its read model was then."""

    row: dict[str, Any] | None
    version: int
    """The version of the projection that was read."""
    position: int
    """The checkpoint of the shard that was asked about, 0 if none was."""


class ReadModels:
    """The read models of one store, in one database. It belongs to the event loop that uses it."""

    def __init__(self, store_url: str) -> None:
        """Does no I/O: the database is opened, and on SQLite made, when it is first used. Raises InvalidValue."""
        self._database = database_of(store_url)
        self._made = False
        self._physical: dict[type[Projection], Mapping[Table, Table]] = {}

    async def close(self) -> None:
        """Let go of the database. Calling it twice is safe."""
        await self._database.close()

    async def prepare(self, projection: type[Projection], shards: Collection[int]) -> dict[int, Checkpoint]:
        """Make what is missing of a projection's tables, view and checkpoints; return its checkpoints by shard.

        One transaction; two that do it at once take turns. Raises ReadModelVersion if another version of it is live,
        InvalidValue where a view has a name that something else in the database has, and ReadModelUnavailable.
        """

        def work(connection: Connection) -> dict[int, Checkpoint]:
            make_tables(connection, self._tables_of(projection))
            live = connection.scalar(_live_version(projection))
            if live not in (None, projection.version):
                raise ReadModelVersion(projection.name, live, projection.version)
            if live is None:
                connection.execute(insert(projections).values(name=projection.name, live_version=projection.version))
                make_views(connection, self._tables_of(projection))
            found = _checkpoints(connection, projection, shards)
            missing = sorted(set(shards) - found.keys())
            if missing:
                rows = [{"subscriber": projection.subscriber(), "shard": shard, "position": 0} for shard in missing]
                connection.execute(insert(checkpoints), rows)
            return {shard: found.get(shard, Checkpoint(0, None)) for shard in shards}

        return await self._database.write_alone(work)

    async def apply(
        self, projection: type[Projection], advances: Sequence[Advance], changes: Changes
    ) -> dict[int, Checkpoint]:
        """Change the read model and move the checkpoints, in one transaction; return {} when done.

        If checkpoints are not where they are to be moved from, somebody else has moved them: then nothing is changed,
        and where they are now is returned. Raises ReadModelRejected, ReadModelUnavailable, and ReadModelMissing where
        the checkpoints are gone, with nothing changed.
        """
        moves = _moves(projection, sorted(advances), self._database.dialect)
        rows = self._statements(projection, changes)

        def work(connection: Connection) -> None:
            if sum(connection.exec_driver_sql(*each).rowcount for each in moves) < len(advances):
                raise _MovedAlready
            for each in rows:
                connection.exec_driver_sql(*each)

        try:
            await self._database.write(work)
        except _MovedAlready:
            shards = [advance.shard for advance in advances]
            found = await self._database.read(partial(_checkpoints, projection=projection, shards=shards))
            if len(found) < len(shards):
                raise ReadModelMissing(projection.name, self._database.name) from None
            return found
        return {}

    async def query(self, projection: type[Projection], key: Any, shard: int | None = None) -> Reading:
        """Read the row with a primary key, and the checkpoint of `shard`, in one snapshot.

        `row` is None if there is none. A key of several columns is given as a tuple, in the table's order. Raises
        InvalidValue for a key that can't be one, ReadModelMissing if no runtime has made it yet, ReadModelVersion,
        ReadModelUnavailable.
        """
        self._check_there(projection)
        table = self._tables_of(projection)[projection.tables[0]]
        values = _key_values(table, key)

        def work(connection: Connection) -> Reading:
            live = self._check_live(connection, projection)
            row = connection.execute(_row(table), values).mappings().one_or_none()
            position = connection.scalar(_position(projection, shard)) if shard is not None else 0
            return Reading(None if row is None else dict(row), live, position or 0)

        try:
            return await self._database.read(work)
        except ReadModelRejected as error:
            raise InvalidValue("key", repr(key), f"{projection.name} has other keys ({error.args[0]})") from error

    async def rows(self, projection: type[Projection], keys: Mapping[Table, Collection[Key]]) -> Rows:
        """Return those of the rows that are there, by table and key, in one snapshot. Raises ReadModelUnavailable."""
        tables = self._tables_of(projection)

        def work(connection: Connection) -> Rows:
            return {logical: rows_of(connection, tables[logical], wanted) for logical, wanted in keys.items()}

        return await self._database.read(work)

    async def select(self, projection: type[Projection], statement: Select[Any]) -> list[dict[str, Any]]:
        """Return the rows of a query over the projection's tables, in one snapshot.

        Raises ReadModelMissing, ReadModelVersion, ReadModelRejected, ReadModelUnavailable.
        """
        self._check_there(projection)

        def work(connection: Connection) -> list[dict[str, Any]]:
            self._check_live(connection, projection)
            return [dict(row) for row in connection.execute(statement).mappings()]

        return await self._database.read(work)

    async def positions(self, projection: type[Projection]) -> dict[int, int]:
        """Return how far a projection has come, by shard, in one snapshot. Raises ReadModelUnavailable."""
        query = select(checkpoints.c.shard, checkpoints.c.position).where(
            checkpoints.c.subscriber == projection.subscriber()
        )

        def work(connection: Connection) -> dict[int, int]:
            return {row.shard: row.position for row in connection.execute(query)}

        return await self._database.read(work)

    def _check_there(self, projection: type[Projection]) -> None:
        if not self._database.is_there:
            raise ReadModelMissing(projection.name, self._database.name)

    def _check_live(self, connection: Connection, projection: type[Projection]) -> int:
        """Return the version that is read. Raises ReadModelMissing, ReadModelVersion."""
        self._made = self._made or is_made(connection)
        live: int | None = connection.scalar(_live_version(projection)) if self._made else None
        if live is None:
            raise ReadModelMissing(projection.name, self._database.name)
        if live != projection.version:
            raise ReadModelVersion(projection.name, live, projection.version)
        return live

    def _tables_of(self, projection: type[Projection]) -> Mapping[Table, Table]:
        if projection not in self._physical:
            self._physical[projection] = projection.physical_tables()
        return self._physical[projection]

    def _statements(self, projection: type[Projection], changes: Changes) -> list[Statement]:
        """Raises ReadModelRejected, whatever a column's type raises at a value that it can't take."""
        try:
            return list(statements(changes, self._tables_of(projection), self._database.dialect))
        except Exception as error:
            raise ReadModelRejected(f"{type(error).__name__}: {error}") from error


class _MovedAlready(Exception):
    """Checkpoints are not where they were thought to be."""


def _live_version(projection: type[Projection]) -> Any:
    return select(projections.c.live_version).where(projections.c.name == projection.name)


def _position(projection: type[Projection], shard: int) -> Any:
    return select(checkpoints.c.position).where(
        checkpoints.c.subscriber == projection.subscriber(), checkpoints.c.shard == shard
    )


@lru_cache(maxsize=256)
def _row(table: Table) -> Any:
    return select(table).where(
        *(column == bindparam(f"key_{column.name}", type_=column.type) for column in table.primary_key)
    )


def _key_values(table: Table, key: Any) -> dict[str, Any]:
    columns, values = list(table.primary_key), key if isinstance(key, tuple) else (key,)
    if len(columns) != len(values):
        names = ", ".join(column.name for column in columns)
        raise InvalidValue("key", repr(key), f"give {len(columns)} values: {names}")
    return {f"key_{column.name}": value for column, value in zip(columns, values, strict=True)}


def _checkpoints(
    connection: Connection, projection: type[Projection], shards: Collection[int]
) -> dict[int, Checkpoint]:
    """Return the checkpoints of those shards."""
    query = select(checkpoints.c.shard, checkpoints.c.position, checkpoints.c.event_id).where(
        checkpoints.c.subscriber == projection.subscriber(), checkpoints.c.shard.in_(shards)
    )
    return {shard: Checkpoint(position, event_id) for shard, position, event_id in connection.execute(query)}


def _moves(projection: type[Projection], advances: Sequence[Advance], dialect: Dialect) -> list[Statement]:
    """Return the statements that move checkpoints, each from where it is to be, in shard order."""
    shards, before, after, event_ids = zip(*advances, strict=True)
    subscribers = [projection.subscriber()] * len(advances)
    return list(_move(dialect).with_columns([subscribers, shards, before, after, event_ids]))


@lru_cache(maxsize=16)
def _move(dialect: Dialect) -> Compiled:
    c = checkpoints.c
    rows = given([c.subscriber.type, c.shard.type, c.position.type, c.position.type, c.event_id.type])
    subscriber, shard, before, after, event_id = rows.c
    there = update(checkpoints).where(c.subscriber == subscriber, c.shard == shard, c.position == before)
    return compiled(there.values(position=after, event_id=event_id), rows, dialect)
