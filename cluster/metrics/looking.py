"""Reading from SQL how far projections and handlers are. Changes nothing, and needs none of the runtime's processes.

Not here: what follows from it (`watching.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cluster.metrics.watching import Look, Seen
from projections.errors import ReadModelMissing
from projections.projection import Projection
from projections.read_models import ReadModels
from store.errors import EventrayError
from store.ports import EventStore

OLDEST_READ_MAX = 64
"""Shards whose oldest event that a subscriber has not taken is read; the others' are seldom older."""


class Looker:
    """Reads one store and its read models."""

    def __init__(
        self,
        store: EventStore,
        read_models: ReadModels,
        projections: Sequence[type[Projection]],
        handlers: Sequence[str],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._read_models = read_models
        self._projections = projections
        self._handlers = handlers
        self._clock = clock

    async def look(self) -> Look:
        """Return where all are. Raises StoreUnavailable; what is wrong with one subscriber is told of that one."""
        at_s = self._clock()
        heads = await self._store.heads()
        seen = {projection.name: await self._projection(projection, heads) for projection in self._projections}
        seen |= {handler: await self._handler(handler, heads) for handler in self._handlers}
        return Look(at_s, heads, seen, await self._store.audits())

    async def _projection(self, projection: type[Projection], heads: Mapping[int, int]) -> Seen:
        try:
            positions = await self._read_models.positions(projection)
            following = await self._read_models.following(projection)
        except ReadModelMissing:
            return Seen({})
        except EventrayError as error:
            return Seen({}, trouble=str(error))
        rebuilt = None
        if following is not None:
            total = sum(heads.values())
            held = sum(min(head, following.get(shard, 0)) for shard, head in heads.items())
            rebuilt = held / total if total else 1.0
        return Seen(positions, await self._oldest_at_s(positions, heads), rebuilt=rebuilt)

    async def _handler(self, handler: str, heads: Mapping[int, int]) -> Seen:
        checkpoints = await self._store.checkpoints(handler)
        positions = {shard: checkpoint.position for shard, checkpoint in checkpoints.items()}
        parked = await self._store.parked(handler)
        return Seen(
            positions,
            await self._oldest_at_s(positions, heads),
            parked=len(parked),
            oldest_parked_at_s=min((row.parked_at for row in parked), default=0) / 1e6 if parked else None,
        )

    async def _oldest_at_s(self, positions: Mapping[int, int], heads: Mapping[int, int]) -> float | None:
        if not positions:
            return None
        behind = {shard: head - positions.get(shard, 0) for shard, head in heads.items()}
        most = sorted((shard for shard, events in behind.items() if events > 0), key=lambda shard: -behind[shard])
        found = []
        for shard in most[:OLDEST_READ_MAX]:
            found += [each.recorded_at for each in await self._store.read_shard(shard, positions.get(shard, 0), 1)]
        return min(found) / 1e6 if found else None
