"""Builds of a read model: the one that is read, and one that may be filled beside it until it takes its place.

A build has tables and checkpoints of its own, so both can be written at once. Everything here is to be run in a
transaction of `Database.write_alone`, but for reading. Not here: filling a build (`projection_sink.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from sqlalchemy import Connection, Table, and_, bindparam, delete, func, insert, select, update

from projections import outbox_sql
from projections.making import drop_tables, lock_out_readers, make_tables, make_views, table_names
from projections.tables import Build, checkpoints, projections
from store.records import Checkpoint

TablesOf = Callable[[Build], Mapping[Table, Table]]
"""The tables of a projection's build, by those that its class names."""
_COLUMNS = projections.c
BUILDS = select(
    _COLUMNS.live_version, _COLUMNS.live_build, _COLUMNS.next_version, _COLUMNS.next_build, _COLUMNS.hold
).where(_COLUMNS.name == bindparam("name"))
"""Made once: each transaction that changes a read model asks it, and making it takes twice as long as asking."""


class Builds(NamedTuple):
    """Which builds a projection has."""

    live: Build | None
    """The one that is read."""
    following: Build | None
    """The one that is filled beside it."""
    hold: str | None
    """Drawn by whoever is about to let the following one take over: for a moment nothing is written to the live one."""


def read_builds(connection: Connection, name: str) -> Builds:
    """Return a projection's builds, as far as there are any."""
    row = connection.execute(BUILDS, {"name": name}).one_or_none()
    if row is None:
        return Builds(None, None, None)
    following = None if row.next_version is None else Build(row.next_version, row.next_build)
    return Builds(Build(row.live_version, row.live_build), following, row.hold)


def first_build(connection: Connection, name: str) -> Build | None:
    """Return the live build as an older Eventray kept it, which had one for each version."""
    version = connection.scalar(select(projections.c.live_version).where(projections.c.name == name))
    return None if version is None else Build(version)


def make_live(connection: Connection, name: str, build: Build, tables_of: TablesOf) -> None:
    """Let a projection that has no builds have this one, to be read."""
    connection.execute(insert(projections).values(name=name, live_version=build.version, live_build=build.number))
    make_tables(connection, tables_of(build))
    make_views(connection, tables_of(build))


def begin(connection: Connection, name: str, build: Build, tables_of: TablesOf) -> None:
    """Let a build be filled from the beginning, beside the live one. One that was being filled is given up."""
    given_up = read_builds(connection, name).following
    if given_up is not None and given_up != build:
        connection.execute(delete(checkpoints).where(checkpoints.c.subscriber == given_up.subscriber(name)))
        outbox_sql.forget(connection, name, given_up)
    values = {"next_version": build.version, "next_build": build.number, "hold": None}
    connection.execute(update(projections).where(projections.c.name == name).values(values))
    # It may have been given up earlier, half filled: its rows are of no use without its checkpoints.
    there, mine = set(table_names(connection)), [table.name for table in tables_of(build).values()]
    drop_tables(connection, [each for each in mine if each in there])
    make_tables(connection, tables_of(build))


def keep_checkpoints(connection: Connection, name: str, build: Build, shards: Collection[int]) -> dict[int, Checkpoint]:
    """Return a build's checkpoints, made where they are missing."""
    found = checkpoints_of(connection, name, build, shards)
    missing = sorted(set(shards) - found.keys())
    if missing:
        rows = [{"subscriber": build.subscriber(name), "shard": shard, "position": 0} for shard in missing]
        connection.execute(insert(checkpoints), rows)
    return {shard: found.get(shard, Checkpoint(0, None)) for shard in shards}


def checkpoints_of(connection: Connection, name: str, build: Build, shards: Collection[int]) -> dict[int, Checkpoint]:
    """Return the checkpoints of those shards, as far as they are there."""
    query = select(checkpoints.c.shard, checkpoints.c.position, checkpoints.c.event_id).where(
        checkpoints.c.subscriber == build.subscriber(name), checkpoints.c.shard.in_(shards)
    )
    return {shard: Checkpoint(position, event_id) for shard, position, event_id in connection.execute(query)}


def take_over(connection: Connection, name: str, build: Build, tables_of: TablesOf) -> int | None:
    """Let a build that is filled be the one that is read, if in each shard it is as far as the live one.

    Returns 0 when done, else how many events it is behind; None where it is no longer one that is filled. Locks both
    builds' checkpoints, the live ones first, as whoever writes locks them: in shard order.
    """
    lock_out_readers(connection)
    live, following, _ = read_builds(connection, name)
    if live == build:
        return 0
    if live is None or following != build:
        return None
    for each in (live, build):
        mine = checkpoints.c.subscriber == each.subscriber(name)
        connection.execute(select(checkpoints.c.shard).where(mine).order_by(checkpoints.c.shard).with_for_update())
    if behind := events_behind(connection, name, live, build):
        return behind
    values = {
        "live_version": build.version,
        "live_build": build.number,
        "next_version": None,
        "next_build": None,
        "hold": None,
    }
    connection.execute(update(projections).where(projections.c.name == name).values(values))
    make_views(connection, tables_of(build))
    outbox_sql.take_over(connection, name, live, build)
    connection.execute(delete(checkpoints).where(checkpoints.c.subscriber == live.subscriber(name)))
    return 0


def events_behind(connection: Connection, name: str, live: Build, build: Build) -> int:
    """Return by how many events a build is behind the live one, in all shards where it is."""
    old, new = checkpoints.alias("old"), checkpoints.alias("new")
    missing = old.c.position - func.coalesce(new.c.position, 0)
    query = (
        select(func.coalesce(func.sum(missing), 0))
        .select_from(old.outerjoin(new, and_(new.c.shard == old.c.shard, new.c.subscriber == build.subscriber(name))))
        .where(old.c.subscriber == live.subscriber(name), missing > 0)
    )
    return int(connection.scalar(query) or 0)


def drop_leftovers(connection: Connection, name: str, logical: Collection[Table]) -> None:
    """Drop the tables of builds that are neither live nor filled."""
    lock_out_readers(connection)
    builds = read_builds(connection, name)
    kept = {f"{table.name}{build.suffix}" for table in logical for build in builds[:2] if build is not None}
    pattern = re.compile(rf"({'|'.join(re.escape(table.name) for table in logical)})_v\d+(_\d+)?")
    drop_tables(connection, [each for each in table_names(connection) if pattern.fullmatch(each) and each not in kept])
