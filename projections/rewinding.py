"""Putting a handler elsewhere in the log, so that it takes events again or leaves some out: a replay of that one.

Only its checkpoints are moved; whoever runs the handler goes on from there. Not here: handing it the events.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from projections.progress import Start
from store.ports import EventStore
from store.records import Checkpoint, micros

PAGE_SIZE = 1_000


async def rewind(
    store: EventStore, handler: str, start: Start | datetime, on_events: Callable[[int], None] = lambda count: None
) -> int:
    """Let a handler go on at the log's beginning, behind all that is in it now, or at the first event of a time.

    The time is when a host wrote the event; in each shard what was written since then comes, and all that follows it.
    One transaction; keys that were parked at events that come again are parked no more. Returns how many events of all
    types are now before the handler. `on_events` hears how many more were looked at. Raises StoreUnavailable.
    """
    heads = await store.heads()
    to: dict[int, Checkpoint] = {}
    for shard, head in heads.items():
        if start == "now":
            position = head
        elif start == "beginning":
            position = 0
        else:
            position = await _before(store, shard, micros(start), on_events)
        to[shard] = await checkpoint_at(store, shard, position)
    await store.reset(handler, to)
    return sum(heads[shard] - checkpoint.position for shard, checkpoint in to.items())


async def _before(store: EventStore, shard: int, since: int, on_events: Callable[[int], None]) -> int:
    """Return the position before the first event recorded then or later. Clocks may go back: all before it are read."""
    position = 0
    while records := await store.read_shard(shard, position, PAGE_SIZE):
        on_events(len(records))
        for record in records:
            if record.recorded_at >= since:
                return record.position - 1
        position = records[-1].position
    return position


async def checkpoint_at(store: EventStore, shard: int, position: int) -> Checkpoint:
    """Return the checkpoint behind the event at a position, which is in the log, or at its beginning (0)."""
    if position == 0:
        return Checkpoint(0, None)
    (record,) = await store.read_shard(shard, position - 1, 1)
    return Checkpoint(position, record.event_id)
