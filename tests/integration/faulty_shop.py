"""The shop, on a store whose writer loses a commit's reply, or stops between UPDATE and COMMIT, once.

A test names it as its application; hosts import it, so the fault happens in their process. A file beside the store's
(with PostgreSQL: in the directory that EVENTRAY_FAULTS names) says what is to happen; taking the file away is the first
thing that the fault does, so it strikes once. On PostgreSQL a process is stopped only on the node that the file names;
it puts its process id behind the file's name. There COPY is for a few rows already, so that small loads use it too.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import structlog

from actors import Aggregate, Command
from actors.customers import Customer, CustomerCreated, CustomerPromoted, Order
from cluster import Application
from projections import Handler
from projections.customers import CustomerProjection
from projections.customers.loyalty import LoyaltyProgramme
from store import Event, OutcomeUnknown, postgres
from store.postgres import PostgresStore
from store.records import EventRecord, ShardAppend
from store.sqlite import SqliteStore
from tests.torture.journal import Journal

log = structlog.get_logger(__name__)

FAULTS = "EVENTRAY_FAULTS"
COPY_ROWS_MIN = 4
REFUSED = "the database has refused an append of a former epoch"
NOTICING_S = 0.05
"""How long a process that comes back takes to see that its connection has been ended meanwhile."""


class Touched(Event):
    probe_id: str


class Touch(Command):
    probe_id: str


class EndProcess(Command):
    probe_id: str


class Probe(Aggregate):
    """Does nothing of use: a class of this module in the application makes each host import the module."""

    def touch(self, _command: Touch) -> None:
        self.raise_event(Touched(probe_id=self.aggregate_id))

    def end_process(self, _command: EndProcess) -> None:
        os._exit(1)

    def on_touched(self, event: Touched) -> None:
        pass


class Mail(Handler, start="beginning"):
    """Writes to each customer who has come or was promoted: a line in a file, which all who ever write it share."""

    def on_news(self, event: CustomerCreated | CustomerPromoted) -> None:
        with Journal(mails(Path(os.environ[FAULTS]))) as journal:
            journal.write("mail", event=str(event.id), key=self.idempotency_key(event))


def mails(directory: Path) -> Path:
    return directory / "mails.jsonl"


def application(acting: bool) -> Application:
    """The shop; where it acts, it also sends mails, and promotes who has spent enough."""
    return Application(
        [Customer, Order, Probe],
        [CustomerProjection],
        handlers=[Mail] if acting else [],
        process_managers=[LoyaltyProgramme] if acting else [],
    )


app = application(acting=FAULTS in os.environ)

_commit = SqliteStore._commit


def stop_flag(store: Path) -> Path:
    return store.with_suffix(".stop")


def lost_reply_flag(store: Path) -> Path:
    return store.with_suffix(".lost")


def postgres_lost_reply_flag() -> Path:
    return Path(os.environ[FAULTS], "postgres.lost")


def _taken(flag: Path) -> bool:
    try:
        flag.unlink()
    except FileNotFoundError:
        return False
    return True


def _faulty_commit(self: SqliteStore, connection: sqlite3.Connection) -> None:
    if _taken(stop_flag(self._file.path)):
        os.kill(os.getpid(), signal.SIGSTOP)
    _commit(self, connection)
    if _taken(lost_reply_flag(self._file.path)):
        raise OutcomeUnknown("the reply was lost")


SqliteStore._commit = _faulty_commit  # type: ignore[method-assign]

# --- PostgreSQL ---

_append = PostgresStore._append
_insert = PostgresStore._insert
_copy = PostgresStore._copy
_portions = postgres._portions


def append_stop_flag() -> Path:
    return Path(os.environ[FAULTS], "append.stop")


def commit_stop_flag() -> Path:
    return Path(os.environ[FAULTS], "commit.stop")


def _is_for_here(flag: Path) -> bool:
    """Whether the flag is there, and meant for this process's node."""
    with suppress(FileNotFoundError):
        return bool(flag.read_text() == ray.get_runtime_context().get_node_id())
    return False


def _stops(flag: Path) -> bool:
    """Stop this process if the flag is meant for its node; return, once it is continued, whether it was."""
    with suppress(FileNotFoundError):
        if _is_for_here(flag):
            flag.rename(flag.with_suffix(f".{os.getpid()}"))
            os.kill(os.getpid(), signal.SIGSTOP)
            return True
    return False


async def _faulty_append(self: PostgresStore, appends: Sequence[ShardAppend]) -> set[int]:
    if any(append.records for append in appends) and _stops(append_stop_flag()):
        await asyncio.sleep(NOTICING_S)
    postgres.COPY_ROWS_MIN = 1 if _is_for_here(commit_stop_flag()) else COPY_ROWS_MIN  # it is in a COPY that one stops
    return await _append(self, appends)


async def _faulty_insert(self: PostgresStore, session: Any, appends: Sequence[ShardAppend]) -> set[int]:
    fenced = _told(appends, await _insert(self, session, appends))
    if any(append.records for append in appends) and _taken(postgres_lost_reply_flag()):
        session.terminate()
        raise OutcomeUnknown("the reply was lost")
    return fenced


async def _faulty_copy(self: PostgresStore, session: Any, appends: Sequence[ShardAppend]) -> set[int]:
    return _told(appends, await _copy(self, session, appends))


def _faulty_portions(records: Iterable[EventRecord]) -> Iterator[list[EventRecord]]:
    yield from _portions(records)
    _stops(commit_stop_flag())  # all is copied, and COMMIT comes next


def _told(appends: Sequence[ShardAppend], fenced: set[int]) -> set[int]:
    """Tell of events that the database has refused, in the statement that was to store them."""
    if refused := [append.shard for append in appends if append.records and append.shard in fenced]:
        log.warning(REFUSED, shards=refused)
    return fenced


if FAULTS in os.environ:
    PostgresStore._append = _faulty_append  # type: ignore[method-assign]
    PostgresStore._insert = _faulty_insert  # type: ignore[method-assign]
    PostgresStore._copy = _faulty_copy  # type: ignore[method-assign]
    postgres._portions = _faulty_portions
    postgres.COPY_ROWS_MIN = COPY_ROWS_MIN
