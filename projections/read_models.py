"""Read models in SQL: their tables, the checkpoints beside them, reading a row and applying a batch.

A checkpoint says how far into a shard's log a read model goes. It is moved in the transaction that changes the read
model, from where it was thought to be: so each event counts once, whoever applies it. Not here: following the log
(`subscriber.py`), and which events change what (`projection.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import Connection, Dialect, Select, Table, bindparam, select, update
from sqlalchemy.exc import ArgumentError, CompileError, DBAPIError, InvalidRequestError

from projections import builds, outbox_sql
from projections.changes import Changes, Key, Rows
from projections.errors import ReadModelMissing, ReadModelRejected, ReadModelUnavailable, ReadModelVersion
from projections.making import columns_made, make_tables, older_table
from projections.opening import database_of
from projections.projection import Projection
from projections.row_sql import Compiled, Statement, compiled, given, rows_of, statements
from projections.tables import Build, checkpoints, projections
from store.errors import InvalidValue, told
from store.identity import uuid7
from store.records import Advance, Checkpoint

T = TypeVar("T")


class Reading(NamedTuple):
    """A row as it was in one snapshot, and how far its read model was then."""

    row: dict[str, Any] | None
    version: int
    """The version of the projection that was read."""
    position: int
    """The checkpoint of the shard that was asked about, 0 if none was."""


class Prepared(NamedTuple):
    """A build to be filled."""

    build: Build
    is_live: bool
    checkpoints: dict[int, Checkpoint]


HOLD_S = 2.0


class ReadModels:
    """The read models of one store, in one database. It belongs to the event loop that uses it."""

    def __init__(self, store_url: str) -> None:
        """Does no I/O: the database is opened, and on SQLite made, when it is first used. Raises InvalidValue."""
        self._database = database_of(store_url)
        self._made = False
        self._physical: dict[tuple[type[Projection], Build], Mapping[Table, Table]] = {}
        self._holds: dict[str, tuple[str, float]] = {}
        """By projection: the hold that was met last, and until when it is heeded."""

    async def close(self) -> None:
        """Let go of the database. Calling it twice is safe."""
        await self._database.close()

    async def prepare(self, projection: type[Projection], shards: Collection[int]) -> Prepared:
        """Make what is missing of the build that the class is to fill, and return it with its checkpoints.

        That is the live one, if it is of the class's version; where an older version is live, one that is filled
        beside it. One transaction; two that do it at once take turns. Raises ReadModelVersion if a higher version is
        live, InvalidValue where a view has a name that something else in the database has, and ReadModelUnavailable.
        """

        def work(connection: Connection) -> Prepared:
            make_tables(connection, {})
            live, following, _ = builds.read_builds(connection, projection.name)
            tables_of = partial(self._tables_of, projection)
            build = Build(projection.version)
            if live is None:
                builds.make_live(connection, projection.name, build, tables_of)
            elif live.version > projection.version:
                raise ReadModelVersion(projection.name, live.version, projection.version)
            elif live.version == projection.version:
                build = live
            elif following is not None and following.version == projection.version:
                build = following
            else:
                builds.begin(connection, projection.name, build, tables_of)
            found = builds.keep_checkpoints(connection, projection.name, build, shards)
            return Prepared(build, live in (None, build), found)

        return await self._database.write_alone(work)

    async def begin_rebuild(self, projection: type[Projection], shards: Collection[int]) -> Build:
        """Begin to fill a build beside the live one, or go on with it, and return it. Raises what `prepare` does."""
        await self.prepare(projection, shards)

        def work(connection: Connection) -> Build:
            live, following, _ = builds.read_builds(connection, projection.name)
            assert live is not None
            if following is not None and following.version == projection.version:
                build = following
            else:
                build = live._replace(number=live.number + 1)
                builds.begin(connection, projection.name, build, partial(self._tables_of, projection))
            builds.keep_checkpoints(connection, projection.name, build, shards)
            return build

        return await self._database.write_alone(work)

    async def checkpoints(
        self, projection: type[Projection], build: Build, shards: Collection[int]
    ) -> dict[int, Checkpoint]:
        """Return a build's checkpoints, as far as they are there. Raises ReadModelUnavailable."""
        return await self._database.read(
            lambda connection: builds.checkpoints_of(connection, projection.name, build, shards)
        )

    async def take_over(self, projection: type[Projection], build: Build) -> int:
        """Let a filled build be the one that is read; return 0, or by how many events it is behind the live one.

        Reads never go back: in each shard it must be as far as the live one is. Afterwards the tables of other builds
        are dropped. Raises ReadModelUnavailable, and ReadModelMissing where the build was given up.
        """
        tables_of = partial(self._tables_of, projection)
        behind = await self._database.write_alone(
            lambda connection: builds.take_over(connection, projection.name, build, tables_of)
        )
        if behind is None:
            raise ReadModelMissing(projection.name, self._database.name)
        if not behind:
            await self._database.write_alone(
                lambda connection: builds.drop_leftovers(connection, projection.name, projection.tables)
            )
        return behind

    async def hold(self, projection: type[Projection]) -> None:
        """Ask whoever writes the live build to pause for up to 2 s, so that a following one can come as far as it."""
        held = update(projections).where(projections.c.name == projection.name).values(hold=str(uuid7()))
        await self._database.write(lambda connection: connection.execute(held))

    async def apply(
        self,
        projection: type[Projection],
        advances: Sequence[Advance],
        changes: Changes,
        build: Build | None = None,
    ) -> dict[int, Checkpoint]:
        """Change a build (None: the version's first) and move its checkpoints, in one transaction; {} when done.

        The commands that were issued with the changes are written down in its outbox.

        If checkpoints are not where they are to be moved from, somebody else has moved them: then nothing is changed,
        and where they are now is returned. Raises ReadModelRejected, ReadModelUnavailable, and ReadModelMissing where
        the checkpoints are gone, with nothing changed.
        """
        build = build or Build(projection.version)
        subscriber = build.subscriber(projection.name)
        moves = _moves(subscriber, sorted(advances), self._database.dialect)
        rows = self._statements(projection, build, changes)

        def work(connection: Connection) -> None:
            live = self._respect_hold(connection, projection.name, build)
            if sum(connection.exec_driver_sql(*each).rowcount for each in moves) < len(advances):
                raise _MovedAlready
            for each in rows:
                connection.exec_driver_sql(*each)
            if changes.issued:
                outbox_sql.put(connection, projection.name, live, build, changes.issued)

        try:
            await self._database.write(work)
        except _MovedAlready:
            shards = [advance.shard for advance in advances]
            found = await self.checkpoints(projection, build, shards)
            if len(found) < len(shards):
                raise ReadModelMissing(projection.name, self._database.name) from None
            return found
        return {}

    async def query(self, projection: type[Projection], key: Any, shard: int | None = None) -> Reading:
        """Read the row with a primary key, and the checkpoint of `shard`, in one snapshot.

        `row` is None if there is none. A key of several columns is given as a tuple, in the table's order. While an
        older version is live, its row is what is read. Raises
        InvalidValue for a key that can't be one, ReadModelMissing if no runtime has made it yet, ReadModelVersion,
        ReadModelUnavailable.
        """
        self._check_there(projection)
        logical = projection.tables[0]
        values = _key_values(logical, key)

        def work(connection: Connection) -> Reading:
            live = self._live(connection, projection)
            if live.version == projection.version:
                table = self._tables_of(projection, live)[logical]
            else:
                table = older_table(connection, logical, live)
            row = connection.execute(_row(table), values).mappings().one_or_none()
            found = {} if shard is None else builds.checkpoints_of(connection, projection.name, live, [shard])
            position = found[shard].position if shard in found else 0
            return Reading(None if row is None else dict(row), live.version, position)

        try:
            return await self._database.read(work)
        except ReadModelRejected as error:
            raise InvalidValue("key", repr(key), f"{projection.name} has other keys ({error.args[0]})") from error

    async def rows(
        self, projection: type[Projection], keys: Mapping[Table, Collection[Key]], build: Build | None = None
    ) -> Rows:
        """Return those of a build's rows that are there, by table and key, in one snapshot; see `apply`."""
        tables = self._tables_of(projection, build or Build(projection.version))

        def work(connection: Connection) -> Rows:
            return {logical: rows_of(connection, tables[logical], wanted) for logical, wanted in keys.items()}

        return await self._database.read(work)

    async def select(self, projection: type[Projection], statement: Select[Any]) -> list[dict[str, Any]]:
        """Return the rows of a query over the projection's tables, in one snapshot.

        Raises ReadModelMissing, ReadModelVersion, ReadModelUnavailable; ReadModelRejected for a query that is refused
        and would be again, which while an older version is live is not known.
        """
        self._check_there(projection)

        def work(connection: Connection) -> list[dict[str, Any]]:
            live = self._live(connection, projection)
            try:
                return [dict(row) for row in connection.execute(statement).mappings()]
            except DBAPIError as error:
                refusal = self._database.refusal(error)
                if refusal is None:
                    raise
                if live.version < projection.version:
                    raise ReadModelUnavailable(f"{refusal}; version {live.version} of it is still read") from error
                raise ReadModelRejected(refusal) from error
            except (InvalidRequestError, ArgumentError, CompileError) as error:
                raise ReadModelRejected(str(error)) from error

        return await self._database.read(work)

    async def positions(self, projection: type[Projection]) -> dict[int, int]:
        """Return how far what is read of a projection has come, by shard, in one snapshot.

        Raises ReadModelMissing, ReadModelVersion, ReadModelUnavailable.
        """

        self._check_there(projection)

        def work(connection: Connection) -> dict[int, int]:
            subscriber = self._live(connection, projection).subscriber(projection.name)
            c = checkpoints.c
            rows = connection.execute(select(c.shard, c.position).where(c.subscriber == subscriber))
            return {row.shard: row.position for row in rows}

        return await self._database.read(work)

    async def following(self, projection: type[Projection]) -> dict[int, int] | None:
        """Return how far a build that is filled beside what is read has come, by shard; None: there is none.

        Raises what `positions` does.
        """

        def work(connection: Connection, _live: Build) -> dict[int, int] | None:
            build = builds.read_builds(connection, projection.name).following if self._made else None
            if build is None:
                return None
            c, subscriber = checkpoints.c, build.subscriber(projection.name)
            rows = connection.execute(select(c.shard, c.position).where(c.subscriber == subscriber))
            return {row.shard: row.position for row in rows}

        return await self.read_live(projection, work)

    async def read_live(
        self, projection: type[Projection], work: Callable[[Connection, Build], T], for_long: bool = False
    ) -> T:
        """Run `work` with the build that is read, in one snapshot. Raises what `select` does.

        `for_long`: however long that takes.
        """
        self._check_there(projection)
        return await self._database.read(
            lambda connection: work(connection, self._live(connection, projection)), for_long
        )

    async def write_live(self, projection: type[Projection], work: Callable[[Connection, Build], T]) -> T:
        """Run `work` with the build that is read, in one transaction. Raises what `select` does."""
        self._check_there(projection)
        return await self._database.write(lambda connection: work(connection, self._live(connection, projection)))

    def _check_there(self, projection: type[Projection]) -> None:
        if not self._database.is_there:
            raise ReadModelMissing(projection.name, self._database.name)

    def _live(self, connection: Connection, projection: type[Projection]) -> Build:
        """Return the build that is read. Raises ReadModelMissing; ReadModelVersion where it is of a higher version."""
        live = self._live_or_none(connection, projection.name)
        if live is None:
            raise ReadModelMissing(projection.name, self._database.name)
        if live.version > projection.version:
            raise ReadModelVersion(projection.name, live.version, projection.version)
        return live

    def _live_or_none(self, connection: Connection, name: str) -> Build | None:
        if not self._made:
            columns = columns_made(connection)
            self._made = projections.c.live_build.name in columns
            if not self._made:
                return builds.first_build(connection, name) if columns else None
        return builds.read_builds(connection, name).live

    def _respect_hold(self, connection: Connection, name: str, build: Build) -> Build | None:
        """Return the live build; raise ReadModelUnavailable for a while, if it is to be left as it is; see `hold`."""
        live, _, hold = builds.read_builds(connection, name)
        if hold is None or live != build:
            return live
        now_s = time.monotonic()
        met, until_s = self._holds.get(name, ("", 0.0))
        if hold != met:
            until_s = now_s + HOLD_S
            self._holds[name] = hold, until_s
        if now_s < until_s:
            raise ReadModelUnavailable("another build of it is about to take its place")
        return live

    def _tables_of(self, projection: type[Projection], build: Build) -> Mapping[Table, Table]:
        found = self._physical.get((projection, build))
        if found is None:
            found = self._physical[projection, build] = projection.physical_tables(build)
        return found

    def _statements(self, projection: type[Projection], build: Build, changes: Changes) -> list[Statement]:
        """Raises ReadModelRejected, whatever a column's type raises at a value that it can't take."""
        try:
            return list(statements(changes, self._tables_of(projection, build), self._database.dialect))
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ReadModelRejected(told(error)) from error


class _MovedAlready(Exception):
    """Checkpoints are not where they were thought to be."""


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


def _moves(subscriber: str, advances: Sequence[Advance], dialect: Dialect) -> list[Statement]:
    """Return the statements that move checkpoints, each from where it is to be, in shard order."""
    shards, before, after, event_ids = zip(*advances, strict=True)
    return list(_move(dialect).with_columns([[subscriber] * len(advances), shards, before, after, event_ids]))


@lru_cache(maxsize=16)
def _move(dialect: Dialect) -> Compiled:
    c = checkpoints.c
    rows = given([c.subscriber.type, c.shard.type, c.position.type, c.position.type, c.event_id.type])
    subscriber, shard, before, after, event_id = rows.c
    there = update(checkpoints).where(c.subscriber == subscriber, c.shard == shard, c.position == before)
    return compiled(there.values(position=after, event_id=event_id), rows, dialect)
