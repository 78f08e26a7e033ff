"""What a projection host counts: its store's operations, pushes, and what each subscriber takes.

Not here: how far behind they are: whoever hangs can't tell, so the exporter looks for itself (`watching.py`).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from cluster.metrics.counting import Counts, Samples
from cluster.metrics.definitions import (
    APPLIED_EVENTS,
    APPLY_SECONDS,
    AUDIT_AGE_SECONDS,
    AUDIT_FINDINGS,
    AUDITED_ROWS,
    BLOCKED_SHARDS,
    GAP_READS,
    HANDLED_EVENTS,
    HANDLER_FAILURES,
    HANDLER_SKIPPED,
    HANDLER_STUCK,
    ISSUED_COMMANDS,
    PUSHED_EVENTS,
    PUSHES,
    RESTING_KEYS,
    RETRIES,
)
from cluster.metrics.store import MeteredStore
from projections.forwarding import ForwardingSink
from projections.host import ProjectionHealth
from projections.sink import Sink, Taken
from store.errors import EventrayError
from store.ports import EventStore
from store.records import EventRecord


class FollowerCounts:
    """See `FollowerMeter`."""

    def __init__(self) -> None:
        self.counts = Counts()

    def around(self, store: EventStore) -> EventStore:
        return MeteredStore(store, self.counts)

    def around_sink(self, sink: Sink) -> Sink:
        return MeteredSink(sink, self.counts)

    def around_call(self, handler: str, record: EventRecord) -> AbstractContextManager[None]:
        return nullcontext()

    def pushed(self, events: int) -> None:
        self.counts.add(PUSHES)
        self.counts.add(PUSHED_EVENTS, events)


class MeteredSink(ForwardingSink):
    """Counts what is taken, and what fails; hands all calls on."""

    def __init__(self, inner: Sink, counts: Counts) -> None:
        super().__init__(inner)
        self._counts = counts

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        counts, name, began_s = self._counts, self.name, time.perf_counter()
        try:
            taken = await self.inner.take(batch)
        except EventrayError as error:
            counts.add(RETRIES, 1, name, type(error).__name__)
            raise
        finally:
            counts.observe(APPLY_SECONDS, time.perf_counter() - began_s, 1, name)
        counts.add(APPLIED_EVENTS, taken.applied, name)
        for failure in taken.failed.values():
            counts.add(RETRIES, 1, name, type(failure).__name__)
        return taken


def follower_samples(health: ProjectionHealth) -> Samples:
    """Return what a projection host says of itself, as samples."""
    lags = {projection_of(lag.subscriber): lag for lag in health.lags}
    on = [handler for handler in health.handlers if not handler.off]
    return {
        GAP_READS: {(name,): lag.gap_reads for name, lag in lags.items()},
        BLOCKED_SHARDS: {(name,): len(lag.blocked) for name, lag in lags.items()},
        HANDLED_EVENTS: {(each.handler,): each.handled for each in on},
        HANDLER_FAILURES: {(each.handler,): each.failed for each in on},
        HANDLER_SKIPPED: {(each.handler,): each.skipped for each in on},
        HANDLER_STUCK: {(each.handler,): each.stuck for each in on},
        ISSUED_COMMANDS: {
            (each.process_manager, outcome): number
            for each in health.process_managers
            for outcome, number in (
                ("acknowledged", each.acknowledged),
                ("refused", each.refused),
                ("failed", each.failed),
            )
        },
        RESTING_KEYS: {(each.process_manager,): each.resting for each in health.process_managers},
        AUDITED_ROWS: {(each.projection,): each.rows for each in health.audits},
        AUDIT_FINDINGS: {(each.projection,): each.differences for each in health.audits},
        AUDIT_AGE_SECONDS: {
            (each.projection,): max(0.0, time.time() - each.last_at)
            for each in health.audits
            if each.last_at is not None
        },
    }


def projection_of(subscriber: str) -> str:
    """Return the name that people know, `customers` of `customers@1`."""
    return subscriber.partition("@")[0]
