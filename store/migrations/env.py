"""What Alembic runs for each migration: on the connection that it is given, in the transaction that is open there."""

from __future__ import annotations

from alembic import context

from store.schema import metadata, migrations

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=migrations.name,
    transactional_ddl=True,
)
context.run_migrations()
