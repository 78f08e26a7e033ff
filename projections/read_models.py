"""Read models in SQL: their tables, the checkpoints beside them, reading a row and applying a batch.

A checkpoint says how far into a shard's log a read model goes. It is moved in the transaction that changes the read
model, from where it was thought to be: so each event counts once, whoever applies it. Not here: following the log
(`subscriber.py`), and which events change what (`projection.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    insert,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from projections.changes import Changes
from projections.database import Database, database_url
from projections.errors import ReadModelMissing, ReadModelVersion
from projections.projection import Projection
from projections.row_sql import key_is, statements

metadata = MetaData()

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("subscriber", Text, primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_id", LargeBinary),
)
"""How far each subscriber is in each shard, and the id of the event there (null at 0), which a restore would change."""

projections = Table(
    "projections",
    metadata,
    Column("name", Text, primary_key=True),
    Column("live_version", Integer, nullable=False),
)
"""Which version of each projection is read."""

_move = (
    update(checkpoints)
    .where(
        checkpoints.c.subscriber == bindparam("of_subscriber"),
        checkpoints.c.shard == bindparam("of_shard"),
    )
    .values(position=bindparam("to_position"), event_id=bindparam("to_event_id"))
)


class Checkpoint(NamedTuple):
    """A place in a shard's log; position 0 and no event id: nothing is applied yet."""

    position: int
    event_id: bytes | None


class Advance(NamedTuple):
    """A checkpoint's move, to the position and id of the last event applied."""

    shard: int
    from_position: int
    to_position: int
    event_id: bytes


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
        """Does no I/O: the database is opened, and on SQLite made, when it is first used."""
        self._database = Database(database_url(store_url))
        self._made = False
        self._physical: dict[type[Projection], Mapping[Table, Table]] = {}

    async def close(self) -> None:
        """Let go of the database. Calling it twice is safe."""
        await self._database.close()

    async def prepare(self, projection: type[Projection], shards: Collection[int]) -> dict[int, Checkpoint]:
        """Make what is missing of a projection's tables, view and checkpoints; return its checkpoints by shard.

        One transaction. Raises ReadModelVersion if another version of it is live, and ReadModelUnavailable.
        """
        async with self._database.writing() as connection:
            await connection.run_sync(metadata.create_all)
            live = await connection.scalar(_live_version(projection))
            if live not in (None, projection.version):
                raise ReadModelVersion(projection.name, live, projection.version)
            await connection.run_sync(self._create_tables, projection)
            if live is None:
                await connection.execute(
                    insert(projections).values(name=projection.name, live_version=projection.version)
                )
                await connection.run_sync(self._create_views, projection)
            found = await _checkpoints(connection, projection, shards)
            missing = sorted(set(shards) - found.keys())
            if missing:
                rows = [{"subscriber": projection.subscriber(), "shard": shard, "position": 0} for shard in missing]
                await connection.execute(insert(checkpoints), rows)
            return {shard: found.get(shard, Checkpoint(0, None)) for shard in shards}

    async def apply(
        self, projection: type[Projection], advances: Sequence[Advance], changes: Changes
    ) -> dict[int, Checkpoint]:
        """Change the read model and move the checkpoints, in one transaction; return {} when done.

        If checkpoints are not where they are to be moved from, somebody else has moved them: then nothing is changed,
        and where they are now is returned. Raises ReadModelRejected, ReadModelUnavailable, and ReadModelMissing where
        the checkpoints are gone, with nothing changed.
        """
        moves = [
            {
                "of_subscriber": projection.subscriber(),
                "of_shard": advance.shard,
                "to_position": advance.to_position,
                "to_event_id": advance.event_id,
            }
            for advance in sorted(advances)
        ]
        async with self._database.writing() as connection:
            found = await _checkpoints(connection, projection, [advance.shard for advance in advances])
            if len(found) < len(moves):
                raise ReadModelMissing(projection.name, str(self._database.path or "memory"))
            if any(found[advance.shard].position != advance.from_position for advance in advances):
                return found
            await connection.execute(_move, moves)
            for sql, rows in statements(changes, self._tables_of(projection), connection.dialect):
                await connection.exec_driver_sql(sql, rows)
        return {}

    async def query(self, projection: type[Projection], key: Any, shard: int | None = None) -> Reading:
        """Read the row with a primary key, and the checkpoint of `shard`, in one snapshot.

        `row` is None if there is none. A key of several columns is given as a tuple, in the table's order. Raises
        ReadModelMissing if no runtime has made it yet, ReadModelVersion, ReadModelUnavailable.
        """
        database = self._database
        if database.path is not None and not database.path.exists():
            raise ReadModelMissing(projection.name, str(database.path))
        table = self._tables_of(projection)[projection.tables[0]]
        values = key if isinstance(key, tuple) else (key,)
        parameters = {f"key_{column.name}": value for column, value in zip(table.primary_key, values, strict=True)}
        async with database.reading() as connection:
            self._made = self._made or await connection.run_sync(_has_tables)
            live = await connection.scalar(_live_version(projection)) if self._made else None
            if live is None:
                raise ReadModelMissing(projection.name, str(database.path or "memory"))
            if live != projection.version:
                raise ReadModelVersion(projection.name, live, projection.version)
            row = (await connection.execute(select(table).where(*key_is(table)), parameters)).mappings().one_or_none()
            position = 0
            if shard is not None:
                position = await connection.scalar(_position(projection, shard)) or 0
        return Reading(None if row is None else dict(row), live, position)

    async def positions(self, projection: type[Projection]) -> dict[int, int]:
        """Return how far a projection has come, by shard, in one snapshot. Raises ReadModelUnavailable."""
        query = select(checkpoints.c.shard, checkpoints.c.position).where(
            checkpoints.c.subscriber == projection.subscriber()
        )
        async with self._database.reading() as connection:
            return {row.shard: row.position for row in await connection.execute(query)}

    def _tables_of(self, projection: type[Projection]) -> Mapping[Table, Table]:
        if projection not in self._physical:
            self._physical[projection] = projection.physical_tables()
        return self._physical[projection]

    def _create_tables(self, connection: Connection, projection: type[Projection]) -> None:
        for table in self._tables_of(projection).values():
            table.create(connection, checkfirst=True)

    def _create_views(self, connection: Connection, projection: type[Projection]) -> None:
        quoted = connection.dialect.identifier_preparer.quote
        for logical, table in self._tables_of(projection).items():
            view, source = quoted(logical.name), quoted(table.name)
            connection.execute(text(f"DROP VIEW IF EXISTS {view}"))
            connection.execute(text(f"CREATE VIEW {view} AS SELECT * FROM {source}"))  # noqa: S608 - names of the code


def _has_tables(connection: Connection) -> bool:
    return inspect(connection).has_table(projections.name)


def _live_version(projection: type[Projection]) -> Any:
    return select(projections.c.live_version).where(projections.c.name == projection.name)


def _position(projection: type[Projection], shard: int) -> Any:
    return select(checkpoints.c.position).where(
        checkpoints.c.subscriber == projection.subscriber(), checkpoints.c.shard == shard
    )


async def _checkpoints(
    connection: AsyncConnection, projection: type[Projection], shards: Collection[int]
) -> dict[int, Checkpoint]:
    """Return the checkpoints of those shards; in a write transaction they stay locked, in shard order, to its end."""
    query = (
        select(checkpoints.c.shard, checkpoints.c.position, checkpoints.c.event_id)
        .where(checkpoints.c.subscriber == projection.subscriber(), checkpoints.c.shard.in_(shards))
        .order_by(checkpoints.c.shard)
        .with_for_update()
    )
    return {shard: Checkpoint(position, event_id) for shard, position, event_id in await connection.execute(query)}
