"""The tables beside the read models: how far each subscriber is, and which version of a projection is read.

Not here: reading and writing them (`read_models.py`), and the read models' own tables, which each projection names.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Integer, LargeBinary, MetaData, Table, Text

from store import schema

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

RESERVED = frozenset({*metadata.tables, *schema.metadata.tables})
"""Names that no read model may take: on PostgreSQL all of these tables are in one schema."""
