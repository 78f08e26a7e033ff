"""How far a read model is behind what has been acknowledged, and waiting until it isn't.

Not here: what makes it catch up (`projections/subscriber.py`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from actors.wire import Receipt
from cluster.operations import Operations
from projections.projection import Projection
from projections.read_models import ReadModels


class Lag(NamedTuple):
    """How far behind a read model was, and how long it took to catch up."""

    events: int
    seconds: float


async def catch_up(
    runtime: Operations, url: str, projection: type[Projection], key: Any, last_receipts: Mapping[int, Receipt]
) -> Lag:
    """Wait until a read model shows all of these receipts, one for each shard; return how far behind it was before.

    `key` is any key of the projection. Raises ConsistencyTimeout.
    """
    started = time.perf_counter()
    read_models = ReadModels(url)
    try:
        behind = await _behind(read_models, projection, last_receipts)
        events = sum(behind.values())
        while behind:
            shard = max(behind, key=behind.__getitem__)
            await runtime.query(projection, key, after=last_receipts[shard])
            behind = await _behind(read_models, projection, last_receipts)
    finally:
        await read_models.close()
    return Lag(events, time.perf_counter() - started)


async def _behind(
    read_models: ReadModels, projection: type[Projection], last_receipts: Mapping[int, Receipt]
) -> dict[int, int]:
    """How many events of each shard are missing, where any are."""
    positions = await read_models.positions(projection)
    missing = {shard: receipt.position - positions[shard] for shard, receipt in last_receipts.items()}
    return {shard: count for shard, count in missing.items() if count > 0}
