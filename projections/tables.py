"""The tables beside the read models: how far each subscriber is, and which version of a projection is read.

Not here: reading and writing them (`read_models.py`), and the read models' own tables, which each projection names.
"""

from __future__ import annotations

from sqlalchemy import Column, Integer, MetaData, Table, Text

from store import schema

metadata = MetaData()

checkpoints = schema.checkpoints.to_metadata(metadata)
"""As the store has them for other subscribers: in one database it is one table."""

projections = Table(
    "projections",
    metadata,
    Column("name", Text, primary_key=True),
    Column("live_version", Integer, nullable=False),
)
"""Which version of each projection is read."""

RESERVED = frozenset({*metadata.tables, *schema.metadata.tables})
"""Names that no read model may take: on PostgreSQL all of these tables are in one schema."""
