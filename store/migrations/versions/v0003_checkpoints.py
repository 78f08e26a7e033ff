"""Schema 3: checkpoints of subscribers that keep no read model."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, PrimaryKeyConstraint, Text

revision = "0003"
down_revision = "0002"

NAME = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "checkpoints",
        Column("subscriber", NAME, nullable=False),
        Column("shard", Integer, nullable=False, autoincrement=False),
        Column("position", BigInteger, nullable=False),
        Column("event_id", LargeBinary),
        PrimaryKeyConstraint("subscriber", "shard", name="checkpoints_pk"),
    )
