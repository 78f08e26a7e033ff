"""Schema 1: the first release."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    Text,
    UniqueConstraint,
    text,
)

revision = "0001"
down_revision = None

NAME = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make the tables of an empty database."""
    op.create_table(
        "runtime",
        Column("store_id", Text, nullable=False),
        Column("shards", Integer, nullable=False),
        Column("schema_version", Integer, nullable=False),
        Column("generation", BigInteger, nullable=False),
        Column("beat", BigInteger, nullable=False),
        Column("holder", Text),
        Column("released", Boolean, nullable=False),
        PrimaryKeyConstraint("store_id", name="runtime_pk"),
    )
    op.create_table(
        "shards",
        Column("shard", Integer, nullable=False, autoincrement=False),
        Column("epoch", BigInteger, nullable=False),
        Column("head", BigInteger, nullable=False),
        Column("assigned_to", Text),
        Column("claimed_by", Text),
        PrimaryKeyConstraint("shard", name="shards_pk"),
    )
    op.create_table(
        "hosts",
        Column("name", Text, nullable=False),
        Column("machine", Text, nullable=False),
        Column("writer_pid", BigInteger, nullable=False),
        Column("writer_started", Text, nullable=False),
        PrimaryKeyConstraint("name", name="hosts_pk"),
    )
    op.create_table(
        "events",
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
    op.create_index(
        "events_command_key",
        "events",
        ["command_key", "shard", "stream"],
        unique=True,
        sqlite_where=text("command_key IS NOT NULL"),
        postgresql_where=text("command_key IS NOT NULL"),
    )
    op.create_table(
        "snapshots",
        Column("stream", NAME, nullable=False),
        Column("version", BigInteger, nullable=False),
        Column("fingerprint", Text, nullable=False),
        Column("data", Text, nullable=False),
        Column("recorded_at", BigInteger, nullable=False),
        PrimaryKeyConstraint("stream", name="snapshots_pk"),
    )
