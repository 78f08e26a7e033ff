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
from projections.handler import Policy
from store.ports import EventStore
from store.records import EventRecord, ParkedKey, micros

log = structlog.get_logger(__name__)

PAGE_SIZE = 1_000
UNDER_WAY = "a call that has not come back: it is under way, or has ended its process"
"""What is kept as the error of an attempt before it is made."""


async def drain(
    store: EventStore,
    deliveries: Deliveries,
    row: ParkedKey,
    checkpoint: int,
    policy: Policy,
    is_over: Callable[[], bool],
) -> None:
    """Give the handler the events of a parked key that wait up to the checkpoint, leaving out the first if so wished.

    At the first that fails the row is kept there, with the new error and without the wish. Once `is_over`, it is kept
    where it has come to, to be gone on with. Each attempt is counted in the row before it is made; one that has ended
    the process too often is not made again. Raises StoreUnavailable: what was taken since it was kept comes again.
    """
    if row.wish == "retry" and row.error == UNDER_WAY and row.attempts >= policy.attempts_max:
        return await _keep(store, row, ended_its_process(row, policy))
    at, kept = row.position, row
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
                if is_over():
                    return await _keep(store, kept, _stopped(row, record))
                begun = _begun(kept, record)
                if not await store.keep_parked(kept, begun):
                    log.info("a parked key was changed meanwhile", handler=row.handler)
                    return None
                kept = begun
                try:
                    failure = await deliveries.deliver(record)
                except (CallInterrupted, HandlerStuck, Stopping):
                    return await _keep(store, kept, _stopped(row, record))
                if failure is not None:
                    return await _keep(store, kept, _failed(kept, failure))
            at = record.position + 1
        if len(records) < PAGE_SIZE:
            break
    if await store.unpark(kept, checkpoint):
        log.info("a parked key has been taken up again", handler=row.handler, partition_key=row.partition_key)
    return None


def ended_its_process(row: ParkedKey, policy: Policy) -> ParkedKey:
    """Return the row of a key at whose event the process has ended as often as it may, each time."""
    error = f"it has ended its process, {row.attempts} times"
    about = {"handler": row.handler, "partition_key": row.partition_key, "event_id": row.event_id.hex()}
    log.error("a handler has ended its process at an event; it gets it no more", attempts=row.attempts, **about)
    return row._replace(wish="discard" if policy.then == "skip" else "", error=error, traceback="")


async def _keep(store: EventStore, before: ParkedKey, after: ParkedKey) -> None:
    """Whoever was faster has kept his own: then the next turn goes on from there."""
    if after != before and not await store.keep_parked(before, after):
        log.info("a parked key was changed meanwhile", handler=before.handler, partition_key=before.partition_key)


def _begun(row: ParkedKey, record: EventRecord) -> ParkedKey:
    attempts = row.attempts + 1 if record.event_id == row.event_id else 1
    return row._replace(
        position=record.position,
        event_id=record.event_id,
        attempts=attempts,
        error=UNDER_WAY,
        traceback="",
        failed_at=micros(datetime.now(UTC)),
        wish="retry",
    )


def _failed(row: ParkedKey, failure: Failure) -> ParkedKey:
    now = micros(datetime.now(UTC))
    return row._replace(error=failure.error, traceback=failure.traceback, failed_at=now, wish="")


def _stopped(row: ParkedKey, record: EventRecord) -> ParkedKey:
    """Return the row as it was, at the event that is to be gone on with; nothing was counted."""
    if record.event_id == row.event_id:
        return row._replace(wish="retry")
    return row._replace(
        position=record.position,
        event_id=record.event_id,
        attempts=0,
        error="it was stopped before this event",
        traceback="",
        wish="retry",
    )
