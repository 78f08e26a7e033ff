"""The event bus of one runtime: who has subscribed in this process, and the pushed records that all of them share.

Each subscription follows the log by itself, in a task of its own: a slow or failing one holds up nobody. Not here:
following the log (`projections/subscriber.py`), calling the function (`projections/callbacks.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

import structlog

from cluster.client import ClientClosed
from cluster.transport import HostGone
from projections.callbacks import Callback, CallbackSink, wanted_types
from projections.progress import Lag, Start, SubscriberLimits
from projections.subscriber import Subscriber
from store.codec import EventRegistry
from store.errors import EventrayError, InvalidValue
from store.events import Event
from store.identity import checked_id, uuid7
from store.ports import EventStore
from store.records import EventRecord
from store.values import shown

log = structlog.get_logger(__name__)

LISTEN_S = 5.0
"""How long one call waits for pushes."""
LISTEN_PATIENCE_S = 2.0
"""How much longer its answer may take."""
LISTEN_PAUSE_S = 0.2
"""After a call that failed."""
STOP_S = 5.0
"""How long a function may take to return when its subscription ends; then it is cancelled."""
LIMITS = SubscriberLimits(batch_size_max=1_000, apply_interval_s=0.0)

Listen = Callable[[str, float], Awaitable[list[EventRecord]]]


class Subscription:
    """A function that gets events. It ends with `unsubscribe`, or with its runtime."""

    def __init__(
        self, name: str, subscriber: Subscriber, sink: CallbackSink, on_end: Callable[[Subscription], None]
    ) -> None:
        self.name = name
        self._subscriber, self._sink, self._on_end = subscriber, sink, on_end
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<the subscription {self.name}>"

    def lag(self) -> Lag:
        """Return how far it is behind the log, and what keeps it."""
        return self._subscriber.lag()

    async def start(self) -> None:
        """Begin to follow. Raises RestoredBehind, StoreUnavailable."""
        await self._subscriber.start()
        self._task = asyncio.create_task(self._subscriber.run(), name=f"subscription {self.name}")
        self._task.add_done_callback(self._ended)

    def push(self, records: list[EventRecord]) -> None:
        """Take committed records; never waits."""
        self._subscriber.push(records)

    async def unsubscribe(self) -> None:
        """End it, after the event in hand if that takes no longer than 5 s. Calling it twice is safe.

        A named one goes on where it was at its next subscription.
        """
        task, self._task = self._task, None
        if task is None:
            return
        self._sink.stop()
        self._subscriber.stop()
        await asyncio.wait({task}, timeout=STOP_S)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self._sink.close()

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a subscription has ended", subscription=self.name, exc_info=error)
        self._on_end(self)


class Subscriptions:
    """All subscriptions of one runtime."""

    def __init__(self, store: EventStore, events: EventRegistry, listen: Listen) -> None:
        """`listen(name, timeout_s)` awaits pushed records; see `Followers.listen`."""
        self._store, self._events, self._listen = store, events, listen
        self._listener = f"listener-{uuid7()}"
        self._open: dict[str, Subscription] = {}
        self._sharing: asyncio.Task[None] | None = None
        self._closed = False

    async def subscribe(
        self,
        event_type: type[Event] | None,
        callback: Callback,
        name: str | None,
        start: Start,
        on_end: Callable[[], None] = lambda: None,
    ) -> Subscription:
        """See `Operations.subscribe`. `on_end` is called once no event will come any more."""
        self._check_open()
        if not callable(callback):
            raise InvalidValue("handler", shown(callback), "give a function of an event")
        if start not in ("now", "beginning"):
            raise InvalidValue("start", repr(start), 'give "now" or "beginning"')
        if name is not None and (not checked_id("name", name).strip() or name in self._open):
            remedy = "unsubscribe it first" if name in self._open else "give a name, or None"
            raise InvalidValue("name", repr(name), remedy)
        kept = None if name is None else self._store
        name = name or f"subscriber-{uuid7()}"
        sink = CallbackSink(name, callback, self._events, wanted_types(self._events, event_type), kept)

        def ended(subscription: Subscription) -> None:
            self._open.pop(subscription.name, None)
            on_end()

        subscriber = Subscriber(self._store, sink, range(self._store.shards), start=start, limits=LIMITS)
        subscription = self._open[name] = Subscription(name, subscriber, sink, ended)
        try:
            if self._sharing is None:
                self._sharing = asyncio.create_task(self._share(), name="pushes to subscriptions")
            await subscription.start()
            self._check_open()
        except BaseException:  # cancelled too: its name is free again, and its thread ends
            self._open.pop(name, None)
            await subscription.unsubscribe()
            sink.close()
            raise
        return subscription

    async def stream(
        self, event_type: type[Event] | None, name: str | None, start: Start
    ) -> AsyncGenerator[Event, None]:
        """See `Operations.stream`."""
        handed: asyncio.Queue[tuple[Event, asyncio.Future[None]] | None] = asyncio.Queue()

        async def hand_over(event: Event) -> None:
            taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            handed.put_nowait((event, taken))
            await taken

        subscription = await self.subscribe(event_type, hand_over, name, start, lambda: handed.put_nowait(None))
        taken: asyncio.Future[None] | None = None
        try:
            while (item := await handed.get()) is not None:
                event, taken = item
                yield event
                if not taken.done():
                    taken.set_result(None)
        finally:
            if taken is not None and not taken.done():
                taken.set_exception(NotTaken())
            await subscription.unsubscribe()

    async def close(self) -> None:
        """End them all, and take no more."""
        self._closed = True
        await asyncio.gather(*(subscription.unsubscribe() for subscription in list(self._open.values())))
        if self._sharing is not None:
            self._sharing.cancel()
            await asyncio.gather(self._sharing, return_exceptions=True)
            self._sharing = None

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed

    async def _share(self) -> None:
        """Hand what is pushed to all; what is missed meanwhile they read from the store."""
        while True:
            try:
                async with asyncio.timeout(LISTEN_S + LISTEN_PATIENCE_S):
                    records = await self._listen(self._listener, LISTEN_S)
            except (HostGone, TimeoutError) as error:
                log.info("nobody hands on events now; the log is read each second", reason=str(error))
                await asyncio.sleep(LISTEN_PAUSE_S)
                continue
            for subscription in list(self._open.values()):
                subscription.push(records)


class NotTaken(EventrayError):
    """The stream was left at this event; a stream of the same name begins with it."""
