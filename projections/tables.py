"""The tables beside the read models: how far each subscriber is, which version of a projection is read, the outbox.

Not here: reading and writing them (`read_models.py`), and the read models' own tables, which each projection names.
"""

from __future__ import annotations

from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Integer, MetaData, Table, Text

from store import schema

metadata = MetaData()

checkpoints = schema.checkpoints.to_metadata(metadata)
"""As the store has them for other subscribers: in one database it is one table."""

projections = Table(
    "projections",
    metadata,
    Column("name", Text, primary_key=True),
    Column("live_version", Integer, nullable=False),
    Column("live_build", Integer, nullable=False, server_default="0"),
    Column("next_version", Integer),
    Column("next_build", Integer),
    Column("hold", Text),
)
"""Which build of each projection is read, and which is filled beside it; see `builds.py`."""

outbox = Table(
    "process_manager_outbox",
    metadata,
    Column("subscriber", schema.NAME, primary_key=True),
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("command_id", Text, nullable=False),
    Column("partition_key", schema.NAME, nullable=False),
    Column("command_type", Text, nullable=False),
    Column("data", Text, nullable=False),
    Column("occurred_at", BigInteger, nullable=False),
    Column("metadata", Text, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("error", Text, nullable=False),
)
"""Commands that are not acknowledged yet, by the build and the event that they follow from: `Issued`'s fields."""

outbox_counts = Table(
    "process_manager_counts",
    metadata,
    Column("process_manager", schema.NAME, primary_key=True),
    Column("acknowledged", BigInteger, nullable=False, default=0),
    Column("refused", BigInteger, nullable=False, default=0),
    Column("failed", BigInteger, nullable=False, default=0),
    Column("last_failure", Text, nullable=False, default=""),
)
"""What became of the commands that have left the outbox; see `Outcome`."""


class Build(NamedTuple):
    """One filling of a projection's tables."""

    version: int
    """Of the projection."""
    number: int = 0
    """0 for the first of a version; each rebuild has the next one."""

    @property
    def suffix(self) -> str:
        """What its tables' names end with."""
        return f"_v{self.version}_{self.number}" if self.number else f"_v{self.version}"

    def subscriber(self, projection: str) -> str:
        """The name that its checkpoints are kept under."""
        return f"{projection}@{self.version}.{self.number}" if self.number else f"{projection}@{self.version}"


RESERVED = frozenset({*metadata.tables, *schema.metadata.tables})
"""Names that no read model may take: on PostgreSQL all of these tables are in one schema."""
