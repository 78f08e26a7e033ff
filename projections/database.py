"""The database that read models are in: what is asked of it.

Not here: which one it is (`opening.py`), how a transaction is run (`sqlite.py`, `postgres.py`), what is read and
written in it (`read_models.py`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Dialect
from sqlalchemy.exc import DBAPIError

from projections.errors import ReadModelRejected, ReadModelUnavailable
from store.errors import EventrayError, StoreRejected

T = TypeVar("T")
Work = Callable[[Connection], T]
"""What is done in one transaction. It may be run again from its beginning, where a rival undid the transaction."""


class Database(ABC):
    """Transactions on one database. Making it does no I/O."""

    name: str
    """For people, without a password."""
    dialect: Dialect

    @property
    def is_there(self) -> bool:
        """Whether there is a database at all; reading doesn't make one."""
        return True

    @abstractmethod
    async def read(self, work: Work[T], for_long: bool = False) -> T:
        """Run `work`, which may change nothing, in one snapshot.

        Raises ReadModelUnavailable, and ReadModelRejected for a value it can't take.

        A server that needs too long for all of it is taken for lost, unless it is `for_long`.
        """

    @abstractmethod
    async def write(self, work: Work[T]) -> T:
        """Run `work` in one transaction and commit it, unless it raised.

        Raises ReadModelRejected with nothing changed, ReadModelUnavailable with nothing changed unless the reply to
        the commit was lost.
        """

    async def write_alone(self, work: Work[T]) -> T:
        """As `write`, and nobody else runs any `work` in this way meanwhile: for making tables."""
        return await self.write(work)

    @abstractmethod
    def refusal(self, error: DBAPIError) -> str | None:
        """Return why a query was refused, if it would be again however often it is asked; None: that may pass.

        Only for queries that somebody else has written: of Eventray's own, what can't pass says that a table was
        dropped or the database is another one, and who follows the log waits until somebody has put that right.
        """

    @abstractmethod
    async def close(self) -> None:
        """Let go of the connections. Calling it twice is safe."""


def read_model_error(error: EventrayError) -> EventrayError:
    """Return the read model's error for one of the store's, whose databases these are."""
    reason = str(error.args[0])
    return ReadModelRejected(reason) if isinstance(error, StoreRejected) else ReadModelUnavailable(reason)
