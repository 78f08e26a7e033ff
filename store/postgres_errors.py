"""What an error of the PostgreSQL driver means to the store, by SQLSTATE and constraint name.

Message texts are for people: they come in the server's language and change with its version. Not here: trying again.
"""

from __future__ import annotations

import ssl

import asyncpg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from store.errors import EventrayError, OutcomeUnknown, StoreDamaged, StoreRejected, StoreUnavailable

LOST = (OSError, asyncpg.InterfaceError, asyncpg.InternalClientError, PoolTimeout)
"""What a lost or silent connection raises where the server sent no SQLSTATE. TimeoutError is an OSError."""
UNFIT_VALUE = (OverflowError, UnicodeEncodeError, TypeError)
"""What COPY raises for a value that has no form in its column; elsewhere the driver makes a 22000 of it."""
DRIVER_ERRORS = (asyncpg.PostgresError, *LOST, *UNFIT_VALUE, DBAPIError)

REFUSED_ROW = ("22", "23")
ENDED_SESSION = ("08", "57P01", "57P02", "57P03", "57P05", "25P03", "40003")
"""The server has ended the session, or it can't be had now; what a commit under way became is not known."""
UNDONE_BY_RIVAL = ("40001", "40P01")
PASSING = (*UNDONE_BY_RIVAL, "55P03", "57014", "53200", "53300")
DAMAGED = ("XX001", "XX002")
"""The server can't make out what is in a table, or in an index."""
WRITER_RECORDED_TWICE = "hosts_pk"
"""Two processes of one host's name claim at once; the second, run again, replaces the first's row."""


def driver_error(error: BaseException) -> BaseException:
    """Return asyncpg's own error where SQLAlchemy has wrapped it."""
    if isinstance(error, DBAPIError) and error.orig is not None:
        return error.orig.__cause__ or error.orig
    return error


def sqlstate(error: BaseException) -> str:
    """Return the SQLSTATE of an error of the driver; empty if the server sent none."""
    return str(getattr(driver_error(error), "sqlstate", None) or "")


def undone_by_rival(error: BaseException) -> bool:
    """Tell whether the transaction was rolled back only because of another, so that running it again may succeed."""
    constraint = getattr(driver_error(error), "constraint_name", None)
    return sqlstate(error) in UNDONE_BY_RIVAL or constraint == WRITER_RECORDED_TWICE


def store_error(error: BaseException, committing: bool = False) -> EventrayError:
    """Return the store's error for one of the driver; `committing`: the commit had been sent."""
    cause, state = driver_error(error), sqlstate(error)
    reason = f"{cause or type(cause).__name__} ({_named(cause, state)})"
    if state.startswith(REFUSED_ROW) or (not state and isinstance(cause, UNFIT_VALUE)):
        return StoreRejected(reason)
    if state.startswith(ENDED_SESSION) or (not state and isinstance(cause, (*LOST, InterfaceError, OperationalError))):
        unsafe = isinstance(cause, ssl.SSLError)
        return OutcomeUnknown(reason) if committing else StoreUnavailable(reason, not unsafe)
    return StoreDamaged(reason, False) if state in DAMAGED else StoreUnavailable(reason, state in PASSING)


def _named(error: BaseException, state: str) -> str:
    return " ".join(filter(None, (getattr(error, "constraint_name", None), state or type(error).__name__)))
