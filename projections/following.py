"""All that an application derives from the log, followed on one event loop: projections, process managers, handlers.

Each is a subscriber of its own, in a task of its own. Ray-free. Not here: following (`subscriber.py`), and what is done
with events (`projection_sink.py`, `managing.py`, `handler_sink.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import structlog

from projections.deliveries import AroundCall, nothing_around
from projections.errors import NotFollowed
from projections.handler import Handler
from projections.handler_sink import HandlerSink, HandlerState
from projections.managing import Managing, ProcessManagerSubscriber
from projections.progress import Lag, SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import ProjectionSubscriber
from projections.read_models import ReadModels
from projections.relay import RelayState
from projections.sampling import AuditState, SampleLimits, StandingAudit
from projections.sink import Sink
from projections.subscriber import Subscriber
from store.codec import EventRegistry
from store.ports import EventStore
from store.records import EventRecord

log = structlog.get_logger(__name__)

HANDLER_INTERVAL_S = 0.2
"""Between two transactions of a handler, which are in the store's own database, beside the hosts' appends."""

HANDLER_SHARD_EVENTS = 50
"""Of one shard, that wait to be handled: a handler is slow, and is to be at several shards at once."""


class Following:
    """The subscribers of one application on one store."""

    def __init__(
        self,
        store: EventStore,
        read_models: ReadModels,
        projections: Iterable[type[Projection]],
        handlers: Iterable[Handler],
        events: EventRegistry,
        limits: SubscriberLimits | None = None,
        around_sink: Callable[[Sink], Sink] | None = None,
        audit: SampleLimits | None = None,
        managing: Managing | None = None,
        around_call: AroundCall = nothing_around,
    ) -> None:
        """`managing`: the process managers. `around_sink` may put something around each sink, `around_call` around each
        call of a handler.

        Raises InvalidValue where a method of one is none for its type.
        """
        projections, limits = tuple(projections), limits or SubscriberLimits()
        handler_limits = replace(
            limits,
            apply_interval_s=max(HANDLER_INTERVAL_S, limits.apply_interval_s),
            apply_share=0.0,
            of_one_shard_max=HANDLER_SHARD_EVENTS,
        )
        self._subscribers: dict[str, Subscriber] = {}
        self._sinks: dict[str, HandlerSink] = {}
        self._off = {handler.name: handler.off for handler in handlers if handler.off}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._shards: frozenset[int] = frozenset()
        self._changes: dict[str, asyncio.Task[None]] = {}
        audited = (*projections, *(managing.process_managers if managing else ()))
        self._audit = StandingAudit(store, read_models, audited, events, lambda: self._shards, audit)
        self._auditing: asyncio.Task[None] | None = None
        for projection in projections:
            follower = ProjectionSubscriber(store, read_models, projection, events, limits=limits)
            self._subscribers[projection.name] = follower
        self._managers = _managers(store, read_models, managing, limits)
        self._subscribers |= self._managers
        for handler in handlers:
            if handler.name in self._off:
                log.info("a handler is off", handler=handler.name, reason=self._off[handler.name])
                continue
            self._sinks[handler.name] = handler_sink = HandlerSink(store, handler, events, around_call=around_call)
            self._subscribers[handler.name] = Subscriber(
                store, handler_sink, start=handler.start, limits=handler_limits
            )
        if around_sink is not None:
            for subscriber in self._subscribers.values():
                subscriber.sink = around_sink(subscriber.sink)

    @property
    def shards(self) -> frozenset[int]:
        """Those that were last asked for; some may still be let go of."""
        return self._shards

    async def follow(self, shards: Iterable[int]) -> None:
        """Follow these shards from now on and no others; returns once all subscribers do.

        Each changes after its step under way, so a handler that is slow is late, and holds up none of the others. May
        be called again meanwhile. Raises RestoredBehind, ReadModelVersion, ReadModelUnavailable, StoreUnavailable; the
        others change nevertheless.
        """
        self._shards = frozenset(shards)
        for name, subscriber in self._subscribers.items():
            if name not in self._changes or self._changes[name].done():
                self._changes[name] = asyncio.create_task(self._change(name, subscriber))
        changes = list(self._changes.values())
        if changes:
            await asyncio.wait(changes)
        for change in changes:
            change.result()
        log.info("shards are followed from now on", shards=sorted(self._shards), subscribers=list(self._subscribers))
        if self._auditing is None:
            self._auditing = asyncio.create_task(self._audit.run(), name="the standing audit")
            self._auditing.add_done_callback(_log_end)

    async def _change(self, name: str, subscriber: Subscriber) -> None:
        while subscriber.shards != (shards := self._shards):
            await subscriber.follow(shards)
        if name not in self._tasks:
            self._tasks[name] = asyncio.create_task(subscriber.run(), name=name)
            self._tasks[name].add_done_callback(_log_end)

    def push(self, records: Sequence[EventRecord]) -> None:
        """Take committed records; never waits."""
        for subscriber in self._subscribers.values():
            subscriber.push(records)

    async def wait_for(self, name: str, shard: int, position: int, timeout_s: float) -> None:
        """Return once that one has taken the shard's events up to `position`.

        Raises ConsistencyTimeout past `timeout_s`, NotFollowed for a name or shard that isn't followed here.
        """
        subscriber = self._subscribers.get(name)
        if subscriber is None:
            raise NotFollowed(name, shard)
        await subscriber.wait_for(shard, position, timeout_s)

    def lags(self) -> list[Lag]:
        """Return how far each is behind the log; may be called from any thread."""
        return [subscriber.lag() for subscriber in self._subscribers.values()]

    def handlers(self) -> list[HandlerState]:
        """Return how each handler is, also those that are off; may be called from any thread."""
        off = [HandlerState(name, reason, 0, 0, 0, 0, 0) for name, reason in self._off.items()]
        return [*(sink.state() for sink in self._sinks.values()), *off]

    def audits(self) -> list[AuditState]:
        """Return what the standing audit of each projection has come to; may be called from any thread."""
        return self._audit.states()

    def process_managers(self) -> list[RelayState]:
        """Return how each process manager's relay is; may be called from any thread."""
        return [manager.relay.state() for manager in self._managers.values()]

    def ended(self) -> str:
        """Return which one has ended, and why; empty while all go on. May be called from any thread."""
        for name, task in dict(self._tasks).items():
            if task.done():
                return f"{name}: {self._subscribers[name].lag().failure or 'it has been stopped'}"
        return ""

    async def stop(self) -> None:
        """End: projections and process managers once they have taken all that the log holds, handlers after what they
        have in hand. What process managers have issued and not sent is sent when they are started again.
        """
        await self._end_audit()
        for name, subscriber in self._subscribers.items():
            if name in self._sinks:
                self._sinks[name].stop()
                subscriber.stop()
            else:
                subscriber.finish()
        await self._end_changes()
        tasks, self._tasks = self._tasks, {}
        if tasks:
            await asyncio.wait(tasks.values())
        for sink in self._sinks.values():
            sink.close()

    async def abandon(self) -> None:
        """End at once, wherever each is."""
        await self._end_audit()
        await self._end_changes()
        tasks, self._tasks = self._tasks, {}
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        for sink in self._sinks.values():
            sink.close()

    async def _end_audit(self) -> None:
        if self._auditing is not None:
            self._auditing.cancel()
            await asyncio.gather(self._auditing, return_exceptions=True)

    async def _end_changes(self) -> None:
        for change in self._changes.values():
            change.cancel()
        await asyncio.gather(*self._changes.values(), return_exceptions=True)


def _managers(
    store: EventStore, read_models: ReadModels, managing: Managing | None, limits: SubscriberLimits
) -> dict[str, ProcessManagerSubscriber]:
    if managing is None:
        return {}
    return {
        each.name: ProcessManagerSubscriber(
            store,
            read_models,
            each,
            managing.registry,
            managing.commands,
            limits=limits,
            relay_limits=managing.limits,
        )
        for each in managing.process_managers
    }


def _log_end(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a subscriber has ended", subscriber=task.get_name(), exc_info=error)
