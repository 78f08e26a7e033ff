"""A store of an older schema brought up to today's, by the steps in `migrations/`, in one transaction.

A new store is made as it is today (`schema.py`), with a note of the last step; a test holds that both ways lead to the
same tables. Not here: read models, which are rebuilt, and the schemas of events, which have upcasters.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, create_engine, text, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from store.errors import InvalidValue, Superseded
from store.opening import Located, check_schema, located
from store.schema import SCHEMA_VERSION, SHARDS_DEFAULT, runtime
from store.sqlite_file import SqliteFile, store_error
from store.urls import parsed_url, shown_url

SCRIPTS = Path(__file__).parent / "migrations"
HOLDER = "eventray store migrate"


async def schema_version_of(url: str) -> int:
    """Return the schema version of the store at a URL. Raises what `open_store` does but for OtherSchema."""
    return (await _located(url)).identity.schema_version


async def migrate(url: str) -> int:
    """Bring the store at a URL to today's schema; return the version that it had. All or nothing.

    Takes the store meanwhile. Raises StoreHeld where a runtime holds it, OtherSchema for one that is newer, and what
    `open_store` does.
    """
    found = await _located(url)
    stored = found.identity.schema_version
    if stored >= SCHEMA_VERSION:
        check_schema(url, found.identity)
        return stored
    store = found.open()
    try:
        generation = await store.take(HOLDER)
        try:
            await _upgrade_at(found, generation)
        finally:
            await store.release(generation)
    finally:
        await store.close()
    return stored


def upgrade(connection: Connection) -> None:
    """Run the migrations that a database has not seen, all of them on an empty one, in the open transaction."""
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    command.upgrade(config, f"{SCHEMA_VERSION:04d}")
    connection.execute(update(runtime).values(schema_version=SCHEMA_VERSION))


async def _located(url: str) -> Located:
    if parsed_url(url).scheme == "memory":
        raise InvalidValue(
            "store",
            ascii(shown_url(url)),
            "a memory store is made anew each time: give sqlite:///FILE or postgresql://",
        )
    return await located(url, SHARDS_DEFAULT, create=False)


def _upgrade_held(connection: Connection, generation: int) -> None:
    """Upgrade, and keep everybody else from taking the store until that is committed. Raises Superseded."""
    held = update(runtime).where(runtime.c.generation == generation).values(beat=runtime.c.beat + 1)
    if connection.execute(held).rowcount != 1:
        raise Superseded(generation)
    upgrade(connection)


async def _upgrade_at(found: Located, generation: int) -> None:
    if isinstance(found.place, SqliteFile):
        await asyncio.to_thread(_upgrade_file, found.place, generation)
        return
    from store.postgres_errors import DRIVER_ERRORS
    from store.postgres_errors import store_error as postgres_error

    engine = found.place.engine(found.place.connect)
    try:
        async with engine.begin() as connection:
            await connection.execute(text("SET LOCAL statement_timeout = 0"))
            await connection.run_sync(_upgrade_held, generation)
    except DRIVER_ERRORS as error:
        raise postgres_error(error) from error
    finally:
        await engine.dispose()


def _upgrade_file(file: SqliteFile, generation: int) -> None:
    engine = create_engine("sqlite://", creator=file.connect, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _upgrade_held(connection, generation)
    except DBAPIError as error:
        raise store_error(error.orig if isinstance(error.orig, Exception) else error) from error
    finally:
        engine.dispose()
