"""Schema 4: partition keys that handlers have parked."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, Text

revision = "0004"
down_revision = "0003"

NAME = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "parked_keys",
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
