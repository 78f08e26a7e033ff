"""The nodes of the Ray cluster, as the coordinator sees them. Not here: what follows from that (`spreading.py`)."""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.exceptions import RayError

from cluster.ray_edge import reason_of
from cluster.spreading import Node
from cluster.supervision import ProcessLost

READ_TIMEOUT_S = 5.0


class RayNodes:
    """Asks Ray's control store; see `Nodes`."""

    def __init__(self, cpus: float, here_only: bool) -> None:
        """`cpus` is what one host takes. `here_only`: hosts may be on this process's machine only."""
        self._cpus = cpus
        self._here_only = here_only
        self._reading: asyncio.Future[list[Node]] | None = None

    async def read(self) -> list[Node]:
        """Return the nodes that are alive, in a fixed order. Raises ProcessLost where Ray can't be asked now."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.ensure_future(asyncio.to_thread(self._read))
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return await asyncio.shield(self._reading)
        except TimeoutError as error:
            raise ProcessLost("Ray's control store", f"no answer within {READ_TIMEOUT_S} s") from error
        except (RayError, RuntimeError) as error:
            raise ProcessLost("Ray's control store", reason_of(error)) from error

    def _read(self) -> list[Node]:
        nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
        alive = {str(node["NodeID"]): str(node["NodeManagerAddress"]) for node in nodes if node["Alive"]}
        draining = _control_store().get_draining_nodes(timeout=READ_TIMEOUT_S)
        free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
        here = alive.get(ray.get_runtime_context().get_node_id())
        return [
            Node(
                node_id,
                address,
                draining=node_id in draining,
                fit=not self._here_only or address == here,
                room=free.get(node_id, {}).get("CPU", 0.0) >= self._cpus,
            )
            for node_id, address in sorted(alive.items())
        ]


@cache
def _control_store() -> Any:
    return GcsClient(address=ray.get_runtime_context().gcs_address)
