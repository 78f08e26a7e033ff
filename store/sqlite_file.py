"""An SQLite file as a store: connections to it, the meaning of its driver's errors, and making a new one.

Not here: what is read and written (`sqlite.py`).
"""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, urlencode

from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DatabaseError
from sqlalchemy.pool import NullPool

from store.errors import EventrayError, NotAStore, StoreDamaged, StoreRejected, StoreUnavailable
from store.schema import CORE_TABLES, StoreIdentity, create_tables, read_identity

BUSY_TIMEOUT_S = 2.0
CREATE_TIMEOUT_S = 10.0
CHECKPOINT_PAGES = 4000
"""Pages of write-ahead log (16 MB) before they go to the file: index pages change often, and so go there less often."""
CACHE_KIB = 16 * 1024
"""Pages that a connection keeps at hand. By default it is 2 MiB: a commit over all shards changes as much, and would
read its pages anew each time; and a stream's events lie scattered over the log."""
TEMPORARY_AT_HAND = "PRAGMA temp_store=MEMORY"
"""For a connection that writes some hundred rows a statement: those given, and the pages that it may have to take back,
go to temporary files by default, which takes a quarter to a third of a transaction's time (docs/performance.md)."""
REFUSED_ROW = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH}
DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
PASSING = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
UNFIT_VALUE = (OverflowError, UnicodeEncodeError, sqlite3.InterfaceError, sqlite3.ProgrammingError)
"""What binding a row's values raises: a number over 64 bits, a lone surrogate, a type that SQLite doesn't know."""


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code of a driver error; 0 if it bears none."""
    return int(getattr(error, "sqlite_errorcode", None) or 0) & 0xFF


def store_error(error: Exception) -> EventrayError:
    """Return the store's error for an error of the driver after which nothing is stored."""
    code = primary_code(error)
    if code in REFUSED_ROW or (not code and isinstance(error, UNFIT_VALUE)):
        return StoreRejected(str(error))
    reason = f"{error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
    return StoreDamaged(reason, False) if code in DAMAGED else StoreUnavailable(reason, code in PASSING)


def use_write_ahead_log(connection: sqlite3.Connection) -> None:
    """Set the file's mode. SQLite answers "busy" at once where two do it together, so it is tried again."""
    deadline = time.monotonic() + CREATE_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            if primary_code(error) not in PASSING or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


class SqliteFile:
    """The file behind a store, and how to connect to it."""

    def __init__(self, url: str, path: Path) -> None:
        self.url, self.path = url, path
        self.location = f"file:{quote(str(path.absolute()))}"
        """The file as an SQLite URI; with `mode`, which never lets SQLite create it."""
        self.mode = {"mode": "rw"}

    def connect(self) -> sqlite3.Connection:
        """Open a connection in autocommit mode, each commit of which is synced to the disk. Raises sqlite3.Error."""
        connection = sqlite3.connect(
            f"{self.location}?{urlencode(self.mode)}",
            uri=True,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA cache_size=-{CACHE_KIB}")
        return connection

    def open(self, shards: int, create: bool) -> StoreIdentity:
        """Return the identity of the store in the file, made with that many shards if there is none and `create`.

        Raises NotAStore, leaving the file as it is and none behind; StoreUnavailable if it can't be read or made.
        """
        try:
            self._check_path(create)
        except OSError as error:
            raise StoreUnavailable(f"{self.path}: {error.strerror}", False) from error
        engine = create_engine("sqlite://", creator=self.connect, poolclass=NullPool)
        try:
            self._choose_mode()
            if not self._tables():
                if not create:
                    raise NotAStore(self.url, "the file is empty")
                self._create(engine, shards)
            return self._identity(engine)
        except DatabaseError as error:
            raise self._unreadable(error.orig or error) from error
        except sqlite3.DatabaseError as error:
            raise self._unreadable(error) from error
        finally:
            engine.dispose()

    def _check_path(self, create: bool) -> None:
        """Check what is at the path before SQLite sees it; make an empty file if there is none and `create`.

        A file that is there is left for SQLite alone to open: closing any other descriptor of it would drop all locks
        that this process holds on it (POSIX says so), and with them the log of those who have it open.
        """
        if self.path.exists() and not os.access(
            self.path, os.R_OK, effective_ids=os.access in os.supports_effective_ids
        ):
            raise StoreUnavailable(f"{self.path} can't be read: Permission denied", False)
        if self.path.is_dir():
            raise NotAStore(self.url, "it is a directory: name a file in it")
        if not self.path.exists():
            if not create:
                raise NotAStore(self.url, "there is no such file")
            if not self.path.parent.is_dir():
                raise NotAStore(self.url, f"the directory {self.path.parent} does not exist: make it first")
            self.path.touch()

    def _choose_mode(self) -> None:
        """Find a way to read the file: where neither it nor its directory may be written, it can't be locked."""
        log = self.path.with_name(self.path.name + "-wal")
        try:
            with closing(self.connect()) as connection:
                connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError as error:
            unlockable = primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY)
            if not unlockable or (log.exists() and log.stat().st_size):
                raise
            self.mode = {"immutable": "1"}

    def _tables(self) -> set[str]:
        """Return the names of the file's tables. Raises NotAStore if they are not a store's."""
        with closing(self.connect()) as connection:
            names = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if names and not names >= CORE_TABLES:
            raise NotAStore(self.url, "the file is an SQLite database of something else")
        return names

    def _create(self, engine: Engine, shards: int) -> None:
        """Make the tables in one transaction; another process may be doing the same."""
        with closing(self.connect()) as first:
            use_write_ahead_log(first)
        with engine.begin() as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if not inspect(connection).get_table_names():
                create_tables(connection, shards)

    def _identity(self, engine: Engine) -> StoreIdentity:
        with engine.connect() as connection:
            identity = read_identity(connection)
        if identity is None:
            raise NotAStore(self.url, "its table `runtime` is empty")
        return identity

    def _unreadable(self, error: BaseException) -> EventrayError:
        if primary_code(error) == sqlite3.SQLITE_NOTADB:
            return NotAStore(self.url, "the file is not an SQLite database")
        if primary_code(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
            return NotAStore(self.url, f"the file is damaged, or its tables are those of something else ({error})")
        assert isinstance(error, Exception)
        return store_error(error)
