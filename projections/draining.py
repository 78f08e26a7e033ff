"""Taking up a parked key: its events from the one that failed to the handler's checkpoint, in order; then no more.

Each step is conditional on the row being as it was read, so two who drain one key at once leave nothing out. Not here:
when that is due, and who may (`handler_sink.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import structlog

from projections.calling import Stopping
from projections.deliveries import Deliveries, Failure
from projections.errors import CallInterrupted, HandlerStuck
from store.ports import EventStore
from store.records import EventRecord, ParkedKey, micros

log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000


async def drain(
    store: EventStore, deliveries: Deliveries, row: ParkedKey, checkpoint: int, is_over: Callable[[], bool]
) -> None:
    """Give the handler the events of a parked key that wait up to the checkpoint, leaving out the first if so wished.

    At the first that fails the row is kept there, with the new error and without the wish. Once `is_over`, it is kept
    where it has come to, to be gone on with. Raises StoreUnavailable: what was taken since it was kept comes again.
    """
    at = row.position
    if row.wish == "discard":
        about = {"handler": row.handler, "partition_key": row.partition_key, "event_id": row.event_id.hex()}
        log.warning("an event that a handler failed at is left out, as was asked for", error=row.error, **about)
        at += 1
    while at <= checkpoint:
        records = await store.read_shard(row.shard, at - 1, PAGE_SIZE)
        for record in records:
            if record.position > checkpoint:
                break
            if record.partition_key == row.partition_key and deliveries.wants(record):
                try:
                    if is_over():
                        raise Stopping
                    failure = await deliveries.deliver(record)
                except (CallInterrupted, HandlerStuck, Stopping):
                    return await _keep(store, row, row._replace(position=record.position, wish="retry"))
                if failure is not None:
                    return await _keep(store, row, _failed_again(row, record, failure))
            at = record.position + 1
        if len(records) < PAGE_SIZE:
            break
    if await store.unpark(row, checkpoint):
        log.info("a parked key has been taken up again", handler=row.handler, partition_key=row.partition_key)
    return None


async def _keep(store: EventStore, before: ParkedKey, after: ParkedKey) -> None:
    """Whoever was faster has kept his own: then the next turn goes on from there."""
    if after != before and not await store.keep_parked(before, after):
        log.info("a parked key was changed meanwhile", handler=before.handler, partition_key=before.partition_key)


def _failed_again(row: ParkedKey, record: EventRecord, failure: Failure) -> ParkedKey:
    attempts = row.attempts + 1 if record.event_id == row.event_id else 1
    return row._replace(
        position=record.position,
        event_id=record.event_id,
        attempts=attempts,
        error=failure.error,
        traceback=failure.traceback,
        failed_at=micros(datetime.now(UTC)),
        wish="",
    )
