"""Finding the read models of a store by its URL.

Not here: what is in them (`read_models.py`).
"""

from __future__ import annotations

from pathlib import Path

from projections.database import Database
from projections.sqlite import SqliteReadDatabase
from store.opening import postgres_database
from store.urls import parsed_url


def database_of(store_url: str) -> Database:
    """Return where the read models of a store are: on PostgreSQL beside its events; SQLite: `shop.read.db` beside
    `shop.db`; memory: in memory.

    Does no I/O. Raises InvalidValue for a URL that can't be meant.
    """
    scheme, path = parsed_url(store_url)
    if scheme == "postgresql":
        database = postgres_database(store_url)
        from projections.postgres import PostgresReadDatabase  # needs the driver, which the line above has found

        return PostgresReadDatabase(database)
    if scheme == "memory":
        return SqliteReadDatabase(None)
    return SqliteReadDatabase(read_model_path(Path(path).absolute()))


def read_model_path(store: Path) -> Path:
    """Return the file of the read models of a store that is an SQLite file."""
    return store.with_name(f"{store.stem}.read{store.suffix}")
