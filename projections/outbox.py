"""The outbox of one process manager: what waits to be sent with the build that is read, and what became of the rest.

Not here: the SQL (`outbox_sql.py`), sending (`relay.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from projections import outbox_sql
from projections.outbox_sql import OutboxState, Outcome, Waiting
from projections.process_manager import ProcessManager
from projections.read_models import ReadModels


class Outbox:
    """Each method is one transaction, and raises ReadModelMissing, ReadModelVersion, ReadModelUnavailable."""

    def __init__(self, read_models: ReadModels, process_manager: type[ProcessManager]) -> None:
        self.process_manager = process_manager
        self._read_models = read_models
        self._name = process_manager.name

    async def waiting(self, shards: Collection[int], but: Collection[str], limit: int) -> list[Waiting]:
        """Return the first commands that follow from events of these shards, in order.

        None of them is for a partition key in `but`.
        """
        return await self._read_models.read_live(
            self.process_manager,
            lambda connection, live: outbox_sql.waiting(connection, live.subscriber(self._name), shards, but, limit),
        )

    async def settle(self, outcomes: Sequence[Outcome]) -> None:
        """Let the commands leave that are done with, and count each once, whoever else does; note other failures."""
        await self._read_models.write_live(
            self.process_manager,
            lambda connection, live: outbox_sql.settle(connection, self._name, live.subscriber(self._name), outcomes),
        )

    async def holds(self, shard: int, position: int) -> bool:
        """Return whether a command waits that follows from an event of the shard up to that position."""
        return await self._read_models.read_live(
            self.process_manager,
            lambda connection, live: outbox_sql.holds(connection, live.subscriber(self._name), shard, position),
        )

    async def state(self) -> OutboxState:
        """Return what waits, and what became of the commands that don't."""
        return await self._read_models.read_live(
            self.process_manager,
            lambda connection, live: outbox_sql.state(connection, self._name, live.subscriber(self._name)),
        )
