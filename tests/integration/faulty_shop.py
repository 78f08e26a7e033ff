"""The shop, on a store whose writer loses a commit's reply, once; on SQLite it may also stop between UPDATE and COMMIT.

A test names it as its application; hosts import it, so the fault happens in their process. A file beside the store's
(with PostgreSQL: in the directory that EVENTRAY_FAULTS names) says what is to happen; taking the file away is the first
thing that the fault does, so it strikes once.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from actors import Aggregate, Command
from actors.customers import Customer, Order
from cluster import Application
from projections.customers import CustomerProjection
from store import Event, OutcomeUnknown
from store.postgres import PostgresStore
from store.records import ShardAppend
from store.sqlite import SqliteStore

FAULTS = "EVENTRAY_FAULTS"


class Touched(Event):
    probe_id: str


class Touch(Command):
    probe_id: str


class Probe(Aggregate):
    """Does nothing of use: a class of this module in the application makes each host import the module."""

    def touch(self, _command: Touch) -> None:
        self.raise_event(Touched(probe_id=self.aggregate_id))

    def on_touched(self, event: Touched) -> None:
        pass


app = Application(aggregates=[Customer, Order, Probe], projections=[CustomerProjection])

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

_insert = PostgresStore._insert


async def _faulty_insert(self: PostgresStore, session: Any, appends: Sequence[ShardAppend]) -> set[int]:
    fenced = await _insert(self, session, appends)
    if FAULTS in os.environ and any(append.records for append in appends) and _taken(postgres_lost_reply_flag()):
        session.terminate()
        raise OutcomeUnknown("the reply was lost")
    return fenced


PostgresStore._insert = _faulty_insert  # type: ignore[method-assign]
