"""The sink of the event bus: each event of the wanted types to a function, one at a time, in shard order.

At least once: a checkpoint moves after the function has returned. Not here: who subscribes
(`cluster/subscriptions.py`), and handlers that an application names.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import structlog

from actors.metadata import because_of
from projections.errors import CallEnded, DeliveryFailed
from projections.sink import Taken
from store.codec import EventRegistry
from store.errors import EventrayError, InvalidValue, told
from store.events import Event
from store.logs import described
from store.ports import Checkpoints
from store.records import Advance, Checkpoint, EventRecord

log = structlog.get_logger(__name__)

TURN_S = 0.5
"""After so long in one batch a checkpoint is due."""

Callback = Callable[[Any], Any]
"""A function of an event; what it returns is awaited if it can be."""


def wanted_types(events: EventRegistry, event_type: type[Event] | None) -> frozenset[str]:
    """Return the stored names of the types derived from that one, of all if it is None. Raises InvalidValue if none."""
    try:
        names = {name for name, kind in events.types.items() if event_type is None or issubclass(kind, event_type)}
    except TypeError:  # no class at all
        names = set()
    if not names:
        shown = getattr(event_type, "__name__", repr(event_type))
        raise InvalidValue("event_type", shown, "give one of the application's event types, or a base class of some")
    return frozenset(names)


class CallbackSink:
    """Events to a function; see `Sink`. With `checkpoints` its progress is kept under its name."""

    def __init__(
        self,
        name: str,
        callback: Callback,
        events: EventRegistry,
        wanted: frozenset[str],
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.name = self.subscriber = name
        self.restored_remedy = "subscribe under another name"
        self._stopping = False
        self._events, self._wanted, self._checkpoints = events, wanted, checkpoints
        self._thread = None if _is_async(callback) else CallingThread(name, callback)
        self._call = self._thread or callback

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        if self._checkpoints is None:
            return dict(begin)
        return await self._checkpoints.keep_checkpoints(self.subscriber, begin)

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Call the function with one event after the other, for about half a second; then move the checkpoints.

        An event that it fails at holds up its shard. Raises StoreUnavailable: then what was taken comes again.
        """
        first: dict[int, int] = {}
        last: dict[int, EventRecord] = {}
        failed: dict[int, EventrayError] = {}
        until = time.monotonic() + TURN_S
        applied = 0
        for record in batch:
            first.setdefault(record.shard, record.position)
            if record.shard in failed:
                continue
            if record.type in self._wanted:
                if self._is_stopping() or time.monotonic() > until:
                    break
                try:
                    await self._deliver(record)
                except Exception as error:  # noqa: BLE001 - whatever the user's function raises
                    if self._is_stopping():
                        break
                    failed[record.shard] = self._failure(record, error)
                    continue
            last[record.shard] = record
            applied += 1
        positions = {shard: position - 1 for shard, position in first.items()}
        positions |= await self._keep(
            [Advance(shard, first[shard] - 1, record.position, record.event_id) for shard, record in last.items()]
        )
        return Taken(applied, positions, failed)

    def let_go(self, shards: Collection[int]) -> None:
        """A subscription follows all shards as long as it lasts."""

    async def tend(self) -> dict[int, int]:
        return {}

    def stop(self) -> None:
        """Take no further event, and count one that the function now fails at as not taken."""
        self._stopping = True

    def _is_stopping(self) -> bool:
        return self._stopping

    def close(self) -> None:
        """Let go of the function."""
        if self._thread is not None:
            self._thread.close()

    async def _deliver(self, record: EventRecord) -> None:
        event = self._events.decode(record)
        with because_of(event):
            result = self._call(event)
            if result is None:
                return
            task = asyncio.current_task()
            cancelling = task.cancelling() if task else 0  # above 0 also after a TaskGroup that failed
            try:
                await result
            except asyncio.CancelledError as error:
                if task is None or task.cancelling() > cancelling:
                    raise
                raise CallEnded.by(error) from error

    def _failure(self, record: EventRecord, error: Exception) -> DeliveryFailed:
        reason = told(error)
        log.warning("a subscriber failed at an event", subscriber=self.name, reason=reason, **described(record))
        return DeliveryFailed(self.name, record.stream, record.version, record.type, reason)

    async def _keep(self, advances: Sequence[Advance]) -> dict[int, int]:
        if self._checkpoints is None or not advances:
            return {advance.shard: advance.to_position for advance in advances}
        return await self._checkpoints.move_checkpoints(self.subscriber, advances)


class CallingThread:
    """Calls a plain function in a thread of its own, so that its waiting holds up no event loop.

    A daemon: a function that never returns doesn't keep the process from ending.
    """

    def __init__(self, name: str, function: Callback) -> None:
        self._name, self._function = name, function
        self._calls: queue.SimpleQueue[tuple[contextvars.Context, Any, asyncio.Future[None]] | None]
        self._calls = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def __call__(self, event: Event) -> None:
        """Raises what the function raises, but CallEnded for what is no Exception."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"eventray-{self._name}", daemon=True)
            self._thread.start()
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._calls.put((contextvars.copy_context(), event, future))
        await future

    def close(self) -> None:
        """Let the thread end once the function has returned."""
        self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            context, event, future = call
            error: Exception | None = None
            try:
                context.run(self._function, event)
            except Exception as raised:  # noqa: BLE001 - it is raised where the call is awaited
                error = raised
            except BaseException as raised:  # noqa: BLE001 - it would end this thread, and nobody would hear of it
                error = CallEnded.by(raised)
            try:
                future.get_loop().call_soon_threadsafe(_settle, future, error)
            except RuntimeError:  # the event loop has been closed meanwhile
                return


def _settle(future: asyncio.Future[None], error: Exception | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)


def _is_async(function: Callback) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
