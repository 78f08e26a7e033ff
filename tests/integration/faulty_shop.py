"""The shop, on a store whose writer stops its own process between UPDATE and COMMIT, or loses a commit's reply, once.

A test names it as its application; hosts import it, so the fault happens in their process. A file beside the store's
says what is to happen; taking the file away is the first thing that the fault does, so it strikes once.
"""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

from actors import Aggregate, Command
from actors.customers import Customer, Order
from cluster import Application
from projections.customers import CustomerProjection
from store import Event, OutcomeUnknown
from store.sqlite import SqliteStore


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
