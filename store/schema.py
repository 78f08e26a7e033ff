"""The store's tables, one description for every SQL backend.

Whoever changes a table here adds a migration. Not here: reading and writing them (`sql.py`, `sqlite.py`), or changing
those of an older store (`migrating.py`).
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
    insert,
    select,
)

from store.identity import uuid7

SCHEMA_VERSION = 5
"""The last of the migrations in `migrations/versions`."""
SHARDS_DEFAULT = 64
NAME = Text().with_variant(Text(collation="C"), "postgresql")
"""Text that is looked up: compared byte by byte, whatever the database's language, as the other backends do."""

metadata = MetaData()

runtime = Table(
    "runtime",
    metadata,
    Column("store_id", Text, nullable=False),
    Column("shards", Integer, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("generation", BigInteger, nullable=False, default=0),
    Column("beat", BigInteger, nullable=False, default=0),
    Column("holder", Text),
    Column("released", Boolean, nullable=False, default=True),
    PrimaryKeyConstraint("store_id", name="runtime_pk"),
)
"""One row: what the store is, and which runtime holds it for writing."""

shards = Table(
    "shards",
    metadata,
    Column("shard", Integer, nullable=False, autoincrement=False),
    Column("epoch", BigInteger, nullable=False, default=0),
    Column("head", BigInteger, nullable=False, default=0),
    Column("assigned_to", Text),
    Column("claimed_by", Text),
    PrimaryKeyConstraint("shard", name="shards_pk"),
)
"""One row a shard. `assigned_to` is the coordinator's wish, `claimed_by` and `epoch` are who may write."""

hosts = Table(
    "hosts",
    metadata,
    Column("name", Text, nullable=False),
    Column("machine", Text, nullable=False),
    Column("writer_pid", BigInteger, nullable=False),
    Column("writer_started", Text, nullable=False),
    PrimaryKeyConstraint("name", name="hosts_pk"),
)
"""The writer of each host that claimed since the store was last given back."""

targets = Table(
    "targets",
    metadata,
    Column("name", Text, nullable=False),
    Column("value", BigInteger, nullable=False),
    PrimaryKeyConstraint("name", name="targets_pk"),
)
"""What is wanted of the runtime, whoever runs it: `hosts`, their number."""

events = Table(
    "events",
    metadata,
    Column("shard", Integer, nullable=False, autoincrement=False),
    Column("position", BigInteger, nullable=False, autoincrement=False),
    Column("stream", NAME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("partition_key", Text, nullable=False),
    Column("event_id", LargeBinary, nullable=False),
    Column("type", Text, nullable=False),
    Column("schema_version", Integer, nullable=False),
    Column("data", Text, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("command_key", NAME),
    Column("key_id", Text),
    Column("recorded_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("shard", "position", name="events_pk"),
    UniqueConstraint("stream", "version", name="events_stream_version_key"),
    sqlite_with_rowid=False,
)
"""The log. The columns and their order are those of `EventRecord`."""

command_keys = Index(
    "events_command_key",
    events.c.command_key,
    events.c.shard,
    events.c.stream,
    unique=True,
    sqlite_where=events.c.command_key.is_not(None),
    postgresql_where=events.c.command_key.is_not(None),
)
"""Ids that the runtime draws rise with time, so with the id first the index grows at one edge, not at one per shard:
measured at 64 shards, 500 rows a commit, SQLite appends 1.6 times as many rows."""

snapshots = Table(
    "snapshots",
    metadata,
    Column("stream", NAME, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    PrimaryKeyConstraint("stream", name="snapshots_pk"),
)
"""The newest snapshot of each stream that has one. The columns and their order are those of `Snapshot`."""

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("subscriber", NAME, nullable=False),
    Column("shard", Integer, nullable=False, autoincrement=False),
    Column("position", BigInteger, nullable=False),
    Column("event_id", LargeBinary),
    PrimaryKeyConstraint("subscriber", "shard", name="checkpoints_pk"),
)
"""How far each subscriber without a read model is in each shard, and the id of the event there (null at 0)."""

parked_keys = Table(
    "parked_keys",
    metadata,
    Column("handler", NAME, nullable=False),
    Column("partition_key", NAME, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("event_id", LargeBinary, nullable=False),
    Column("attempts", BigInteger, nullable=False),
    Column("error", Text, nullable=False),
    Column("traceback", Text, nullable=False),
    Column("parked_at", BigInteger, nullable=False),
    Column("failed_at", BigInteger, nullable=False),
    Column("wish", Text, nullable=False),
    PrimaryKeyConstraint("handler", "partition_key", name="parked_keys_pk"),
)
"""The dead letters: one row a key, whose events wait in the log. The columns are those of `ParkedKey`, in its order."""

audits = Table(
    "audits",
    metadata,
    Column("audit", NAME, nullable=False),
    Column("ended_at", BigInteger, nullable=False),
    Column("events", BigInteger, nullable=False),
    Column("found", BigInteger, nullable=False),
    PrimaryKeyConstraint("audit", name="audits_pk"),
)
"""What the last audit of each kind came to. The columns are those of `AuditResult`, in its order."""

migrations = Table(
    "eventray_migrations",
    metadata,
    Column("version_num", String(32), nullable=False),
    PrimaryKeyConstraint("version_num", name="eventray_migrations_pkc"),
)
"""Alembic's own, of one row: the last migration that was run, or that the store was made with."""

CORE_TABLES = frozenset({"runtime", "shards", "hosts", "events"})
"""What a store of any schema version has."""


class StoreIdentity(NamedTuple):
    """What a store says of itself."""

    store_id: str
    shards: int
    schema_version: int


def read_identity(connection: Connection) -> StoreIdentity | None:
    """Return the identity of the store behind a connection; None if its row is missing."""
    row = connection.execute(select(runtime.c.store_id, runtime.c.shards, runtime.c.schema_version)).one_or_none()
    return None if row is None else StoreIdentity(*row)


def create_tables(connection: Connection, shard_count: int) -> None:
    """Make the tables of a new, empty store, in the connection's transaction."""
    metadata.create_all(connection, checkfirst=False)
    connection.execute(insert(runtime).values(store_id=str(uuid7()), shards=shard_count, schema_version=SCHEMA_VERSION))
    connection.execute(insert(migrations).values(version_num=f"{SCHEMA_VERSION:04d}"))
    connection.execute(insert(shards), [{"shard": shard} for shard in range(shard_count)])
