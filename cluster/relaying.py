"""How the commands of process managers get from a projection host to the hosts: by a client of its own.

Not here: which commands and when (`projections/relay.py`), how a client sends (`client.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.client import CommandClient
from cluster.limits import ClientLimits
from cluster.ray_edge import RayTransport
from cluster.routing import Routes
from cluster.transport import Transport
from projections.issuing import Issued
from store.ports import EventStore

CLOSE_S = 0.5
"""How long what is under way may take when it closes: it is sent again by whoever comes next."""


class HostCommands:
    """Sends what process managers have issued; see `Commands`. Belongs to the event loop that it is made on.

    Routes come from the store, so it needs no coordinator.
    """

    def __init__(self, transport: Transport, routes: Routes, shards: int, limits: ClientLimits) -> None:
        self._client = CommandClient(transport, routes, shards, limits)

    async def submit(self, command: Issued) -> None:
        await self._client.room()
        await self._client.submit(
            command.partition_key,
            command.command_type,
            command.data,
            command.command_id,
            occurred_at=command.occurred_at,
            metadata=command.metadata,
        )

    async def close(self) -> None:
        """Let go of it. Calling it twice is safe."""
        await self._client.close(CLOSE_S)


@dataclass(frozen=True)
class CommandsOverRay:
    """Connects to the hosts of one runtime; travels to projection hosts."""

    namespace: str
    limits: ClientLimits

    def __call__(self, store: EventStore) -> HostCommands:
        return HostCommands(RayTransport(self.namespace), store, store.shards, self.limits)
