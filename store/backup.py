"""Backing up a store whole, as its database does it. SQLite: a copy of the file, while others go on writing.

The copy is given back: nobody holds it, and it names no processes, so that opening it ends none of those that serve
the original. Not here: archives, which any backend can be filled from (`exporting.py`), and read models, which are
derived.
"""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from sqlalchemy.engine import make_url

from store.archive import Progress
from store.errors import EventrayError, InvalidValue
from store.sqlite_file import SqliteFile, primary_code, store_error
from store.urls import parsed_url, shown_url, without_secrets

STEP_PAGES = 2_048
UNWRITABLE = {sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_FSYNC, sqlite3.SQLITE_IOERR_TRUNCATE}
"""Since nothing is written to the store, these are of the copy."""
GIVEN_BACK = """
    BEGIN;
    UPDATE runtime SET released = 1;
    UPDATE shards SET assigned_to = NULL, claimed_by = NULL;
    DELETE FROM hosts;
    COMMIT;
"""


def back_up(url: str, target: Path, progress: Progress) -> int:
    """Copy an SQLite store to a new file, as it is at this moment, to the disk; return the file's size in bytes.

    Writers go on meanwhile. The file appears under its name once it is whole; of a failure nothing is left. `progress`
    hears of pages, not events. Raises InvalidValue where something has that name already, which is never overwritten,
    where it can't be written or its disk is full, and for stores that are no SQLite file; NotAStore, StoreUnavailable.
    """
    source = SqliteFile(url, _path_of(url))
    source.open(shards=1, create=False)
    if os.path.lexists(target):
        raise InvalidValue("file", str(target), "it exists, and is not overwritten: name another")
    unfinished = target.with_name(f"{target.name}.partial")
    try:
        unfinished.unlink(missing_ok=True)
        unfinished.touch()  # SQLite would not say which of the two files it can't open, or why
        with closing(source.connect()) as reading, closing(sqlite3.connect(unfinished)) as writing:
            # The pages of one snapshot: without it SQLite begins anew whenever somebody has written between two steps.
            reading.execute("BEGIN")
            reading.execute("SELECT count(*) FROM runtime").fetchone()
            reading.backup(
                writing, pages=STEP_PAGES, progress=lambda _, left, total: progress(total - left, total), sleep=0
            )
            writing.executescript(GIVEN_BACK)
            writing.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        os.link(unfinished, target)  # unlike a renaming, this never replaces what has the name meanwhile
        unfinished.unlink()
        _sync_directory(target.absolute().parent)
        return target.stat().st_size
    except FileExistsError as error:
        raise InvalidValue("file", str(target), "it exists, and is not overwritten: name another") from error
    except OSError as error:
        raise InvalidValue("file", str(target), f"it can't be written ({error.strerror}): name another") from error
    except sqlite3.Error as error:
        raise _copying_error(error, target) from error
    finally:
        with suppress(OSError):  # what was to be said has been
            unfinished.unlink(missing_ok=True)


def server_command(url: str, target: Path) -> str | None:
    """Return the shell command that backs up a PostgreSQL store, without its password; None for other stores.

    A store in a schema of its own is backed up alone. (libpq knows no `search_path` in a URL, which asyncpg does.)
    """
    if parsed_url(url).scheme != "postgresql":
        return None
    made = without_secrets(make_url(url))
    schema = made.query.get("search_path")
    database = made.difference_update_query(["search_path"]).render_as_string(hide_password=False)
    command = f"pg_dump --format=custom --file={shlex.quote(str(target))} --dbname={shlex.quote(database)}"
    return f"{command} --schema={shlex.quote(schema)}" if isinstance(schema, str) else command


def _copying_error(error: sqlite3.Error, target: Path) -> EventrayError:
    if primary_code(error) == sqlite3.SQLITE_FULL:
        remedy = "its disk is full, and nothing was backed up: make room there, or name a file on another disk"
        return InvalidValue("file", str(target), remedy)
    if getattr(error, "sqlite_errorcode", 0) in UNWRITABLE:
        return InvalidValue("file", str(target), f"it can't be written ({error.sqlite_errorname}): name another")
    return store_error(error)


def _path_of(url: str) -> Path:
    parsed = parsed_url(url)
    if parsed.scheme != "sqlite":
        raise InvalidValue("store", shown_url(url), "only an SQLite store (sqlite:///FILE) can be backed up here")
    return Path(parsed.path)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
