"""Schema 5: what the last audits came to."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, Text

revision = "0005"
down_revision = "0004"

NAME = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Make their table."""
    op.create_table(
        "audits",
        Column("audit", NAME, nullable=False),
        Column("ended_at", BigInteger, nullable=False),
        Column("events", BigInteger, nullable=False),
        Column("found", BigInteger, nullable=False),
        PrimaryKeyConstraint("audit", name="audits_pk"),
    )
