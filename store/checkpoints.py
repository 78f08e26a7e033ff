"""Checkpoints in the store's own database, in SQLAlchemy Core: of subscribers that keep no read model.

Not here: those of read models, which are in the read models' database.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import bindparam, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store.records import Advance, Checkpoint
from store.schema import checkpoints

_keep = text(
    "INSERT INTO checkpoints (subscriber, shard, position, event_id) VALUES (:subscriber, :shard, :position, :event_id)"
    " ON CONFLICT DO NOTHING"
)
_move = (
    update(checkpoints)
    .where(checkpoints.c.subscriber == bindparam("of_subscriber"), checkpoints.c.shard == bindparam("of_shard"))
    .values(position=bindparam("to_position"), event_id=bindparam("to_event_id"))
)


async def keep(connection: AsyncConnection, subscriber: str, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
    """See `Checkpoints.keep_checkpoints`."""
    found = await locked(connection, subscriber, begin.keys())
    missing = [
        {"subscriber": subscriber, "shard": shard, "position": position, "event_id": event_id}
        for shard, (position, event_id) in sorted(begin.items())
        if shard not in found
    ]
    if missing:
        await connection.execute(_keep, missing)
        found = await locked(connection, subscriber, begin.keys())  # another may have been faster
    return found


async def move(connection: AsyncConnection, subscriber: str, advances: Sequence[Advance]) -> dict[int, int]:
    """See `Checkpoints.move_checkpoints`."""
    found = await locked(connection, subscriber, [advance.shard for advance in advances])
    positions = {shard: checkpoint.position for shard, checkpoint in found.items()}
    due = [advance for advance in advances if positions.get(advance.shard) == advance.from_position]
    moved = {advance.shard: Checkpoint(advance.to_position, advance.event_id) for advance in due}
    await put(connection, subscriber, moved)
    return positions | {shard: checkpoint.position for shard, checkpoint in moved.items()}


async def put(connection: AsyncConnection, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
    """Put checkpoints there, wherever they are; the transaction holds their locks."""
    rows = [
        {"of_subscriber": subscriber, "of_shard": shard, "to_position": position, "to_event_id": event_id}
        for shard, (position, event_id) in sorted(to.items())
    ]
    if rows:
        await connection.execute(_move, rows)


async def read(connection: AsyncConnection, subscriber: str) -> dict[int, Checkpoint]:
    """See `Parking.checkpoints`."""
    query = select(checkpoints.c.shard, checkpoints.c.position, checkpoints.c.event_id)
    rows = await connection.execute(query.where(checkpoints.c.subscriber == subscriber))
    return {shard: Checkpoint(position, event_id) for shard, position, event_id in rows}


async def locked(connection: AsyncConnection, subscriber: str, shards: Collection[int]) -> dict[int, Checkpoint]:
    """Return the checkpoints of those shards, locked in shard order to the transaction's end."""
    query = (
        select(checkpoints.c.shard, checkpoints.c.position, checkpoints.c.event_id)
        .where(checkpoints.c.subscriber == subscriber, checkpoints.c.shard.in_(shards))
        .order_by(checkpoints.c.shard)
        .with_for_update()
    )
    return {shard: Checkpoint(position, event_id) for shard, position, event_id in await connection.execute(query)}
