"""Parked keys in the store's own database, in SQLAlchemy Core: what `Parking` promises, in an open transaction.

Whoever changes which keys are parked holds the lock on the shard's checkpoint. Not here: what handlers do with them
(`projections/handler_sink.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from store import checkpoints
from store.records import Advance, Checkpoint, ParkedCount, ParkedKey
from store.schema import parked_keys

KEYS_AT_ONCE = 500
"""In one IN list: databases bound the number of parameters."""


async def read(connection: AsyncConnection, handler: str | None, wished: bool) -> list[ParkedKey]:
    """See `Parking.parked`."""
    query = select(parked_keys).order_by(parked_keys.c.handler, parked_keys.c.parked_at, parked_keys.c.partition_key)
    if handler is not None:
        query = query.where(parked_keys.c.handler == handler)
    if wished:
        query = query.where(parked_keys.c.wish != "")
    return [ParkedKey(*row) for row in await connection.execute(query)]


async def counts(connection: AsyncConnection) -> dict[str, ParkedCount]:
    """See `Parking.parked_counts`."""
    columns = parked_keys.c
    query = select(columns.handler, func.count(), func.min(columns.parked_at)).group_by(columns.handler)
    return {handler: ParkedCount(*count) for handler, *count in await connection.execute(query)}


async def advance(
    connection: AsyncConnection,
    handler: str,
    advances: Sequence[Advance],
    parks: Sequence[ParkedKey],
    passed: Mapping[int, set[str]],
) -> dict[int, int]:
    """See `Parking.advance`."""
    found = await checkpoints.locked(connection, handler, [each.shard for each in advances])
    positions = {shard: checkpoint.position for shard, checkpoint in found.items()}
    keys = {park.partition_key for park in parks}.union(*passed.values())
    parked = await _parked_among(connection, handler, keys)
    due = {each.shard for each in advances if positions.get(each.shard) == each.from_position}
    due -= {shard for shard, of_shard in passed.items() if of_shard - parked}
    due -= {park.shard for park in parks if park.partition_key in parked}
    rows = [park._asdict() for park in parks if park.shard in due]
    if rows:
        await connection.execute(insert(parked_keys), rows)
    return positions | await checkpoints.move(connection, handler, [each for each in advances if each.shard in due])


async def keep(connection: AsyncConnection, before: ParkedKey, after: ParkedKey) -> bool:
    """See `Parking.keep_parked`."""
    kept = update(parked_keys).where(*_is(before)).values(**after._asdict())
    return (await connection.execute(kept)).rowcount == 1


async def unpark(connection: AsyncConnection, before: ParkedKey, checkpoint: int) -> bool:
    """See `Parking.unpark`."""
    found = await checkpoints.locked(connection, before.handler, [before.shard])
    if before.shard not in found or found[before.shard].position != checkpoint:
        return False
    return (await connection.execute(delete(parked_keys).where(*_is(before)))).rowcount == 1


async def wish(connection: AsyncConnection, handler: str, partition_keys: Collection[str] | None, wished: str) -> int:
    """See `Parking.wish`."""
    asked = update(parked_keys).where(parked_keys.c.handler == handler).values(wish=wished)
    if partition_keys is not None:
        asked = asked.where(parked_keys.c.partition_key.in_(partition_keys))
    return (await connection.execute(asked)).rowcount


async def reset(connection: AsyncConnection, subscriber: str, to: Mapping[int, Checkpoint]) -> None:
    """See `Parking.reset`."""
    await checkpoints.keep(connection, subscriber, to)
    await checkpoints.put(connection, subscriber, to)
    for shard, (position, _) in sorted(to.items()):
        ahead = (parked_keys.c.shard == shard, parked_keys.c.position > position)
        await connection.execute(delete(parked_keys).where(parked_keys.c.handler == subscriber, *ahead))


def _is(parked: ParkedKey) -> list[ColumnElement[bool]]:
    names = ("handler", "partition_key", "position", "attempts", "failed_at", "wish")
    return [parked_keys.c[name] == getattr(parked, name) for name in names]


async def _parked_among(connection: AsyncConnection, handler: str, keys: Collection[str]) -> set[str]:
    found: set[str] = set()
    ordered = sorted(keys)
    for start in range(0, len(ordered), KEYS_AT_ONCE):
        some = parked_keys.c.partition_key.in_(ordered[start : start + KEYS_AT_ONCE])
        query = select(parked_keys.c.partition_key).where(parked_keys.c.handler == handler, some)
        found.update((await connection.execute(query)).scalars())
    return found
