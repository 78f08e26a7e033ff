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
from store.records import ParkedCount

OLDEST_READ_MAX = 8
"""Shards whose oldest event that a subscriber has not taken is read: those that stand first, then those most behind."""


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
        self._before: dict[str, Mapping[int, int]] = {}
        """Where each subscriber was at the last look."""

    async def look(self) -> Look:
        """Return where all are. Raises StoreUnavailable; what is wrong with one subscriber is told of that one."""
        at_s = self._clock()
        heads = await self._store.heads()
        seen = {projection.name: await self._projection(projection, heads) for projection in self._projections}
        parked = await self._store.parked_counts() if self._handlers else {}
        seen |= {handler: await self._handler(handler, heads, parked.get(handler)) for handler in self._handlers}
        return Look(at_s, self._clock(), heads, seen, await self._store.audits())

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
        return Seen(positions, await self._oldest_at_s(projection.name, positions, heads), rebuilt=rebuilt)

    async def _handler(self, handler: str, heads: Mapping[int, int], parked: ParkedCount | None) -> Seen:
        checkpoints = await self._store.checkpoints(handler)
        positions = {shard: checkpoint.position for shard, checkpoint in checkpoints.items()}
        seen = Seen(positions, await self._oldest_at_s(handler, positions, heads))
        if parked is None:
            return seen
        return seen._replace(parked=parked.keys, oldest_parked_at_s=parked.oldest_at / 1e6)

    async def _oldest_at_s(
        self, subscriber: str, positions: Mapping[int, int], heads: Mapping[int, int]
    ) -> float | None:
        before, self._before[subscriber] = self._before.get(subscriber, {}), positions
        behind = {shard: head - at for shard, at in positions.items() if (head := heads.get(shard, 0)) > at}
        order = sorted(behind, key=lambda shard: (before.get(shard) != positions[shard], -behind[shard], shard))
        found = []
        for shard in order[:OLDEST_READ_MAX]:
            found += [each.recorded_at for each in await self._store.read_shard(shard, positions[shard], 1)]
        return min(found) / 1e6 if found else None
