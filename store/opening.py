"""Opening a store by its URL.

Not here: what the backends do (`memory.py`, `sqlite.py`, `postgres.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from store.errors import InvalidValue, OtherSchema, ShardCountMismatch
from store.memory import MemoryStore
from store.ports import EventStore
from store.schema import SCHEMA_VERSION, SHARDS_DEFAULT, StoreIdentity
from store.sqlite import SqliteStore
from store.sqlite_file import SqliteFile
from store.urls import parsed_url, shown_url
from store.values import is_count, shown

if TYPE_CHECKING:
    from store.postgres_database import PostgresDatabase

SHARDS_MAX = 4096
INSTALL_DRIVER = 'PostgreSQL needs its driver: pip install "eventray[postgres]"'


async def open_store(url: str, shards: int | None = None, create: bool = True) -> EventStore:
    """Open the store at a URL; if nothing is there and `create`, make it first, with `shards` shards (default 64).

    `shards` may be given for a store that exists: then it is checked. The store belongs to the running event loop.
    Raises InvalidValue (a URL or number that can't be meant), NotAStore (nothing there and not `create`, or something
    else; left as it is), OtherSchema (to be migrated, or made by a newer Eventray), ShardCountMismatch,
    StoreUnavailable (it can't be read or made).
    """
    check_shards(shards)
    scheme, path = parsed_url(url)
    if scheme == "memory":
        return MemoryStore(path, shards, create)
    found = await located(url, shards or SHARDS_DEFAULT, create)
    check_schema(url, found.identity)
    if shards not in (None, found.identity.shards):
        raise ShardCountMismatch(found.identity.shards, shards or 0)
    return found.open()


def check_shards(shards: int | None) -> None:
    """Raise InvalidValue for a number of shards that no store can have."""
    if shards is not None and not is_count(shards, SHARDS_MAX):
        raise InvalidValue("shards", shown(shards), f"give a number from 1 to {SHARDS_MAX}")


class Located(NamedTuple):
    """A store in SQL that is there, of whatever schema."""

    identity: StoreIdentity
    place: SqliteFile | PostgresDatabase
    open: Callable[[], EventStore]
    """Opens it, on the running event loop; with another schema than today's, for ownership alone."""


async def located(url: str, shards: int, create: bool) -> Located:
    """Find the store in SQL at a URL, made with that many shards if nothing is there and `create`; see `open_store`."""
    scheme, path = parsed_url(url)
    if scheme == "sqlite":
        file = SqliteFile(url, Path(path))
        identity = await asyncio.to_thread(file.open, shards, create)
        return Located(identity, file, lambda: SqliteStore(file, identity))
    database = postgres_database(url)
    from store.postgres import PostgresStore  # needs the driver, which the line above has found

    identity = await database.open(shards, create)
    return Located(identity, database, lambda: PostgresStore(database, identity))


def postgres_database(url: str) -> PostgresDatabase:
    """Return the PostgreSQL database at a URL. Does no I/O. Raises InvalidValue where its driver is not installed."""
    try:
        from store.postgres_database import PostgresDatabase
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise InvalidValue("store", ascii(shown_url(url)), INSTALL_DRIVER) from error
    return PostgresDatabase(url)


def check_schema(url: str, identity: StoreIdentity) -> None:
    """Raise OtherSchema unless the store has today's schema."""
    stored = identity.schema_version
    if stored != SCHEMA_VERSION:
        remedy = "use the newer one that has made it" if stored > SCHEMA_VERSION else "run `eventray store migrate`"
        raise OtherSchema(shown_url(url), stored, SCHEMA_VERSION, remedy)
