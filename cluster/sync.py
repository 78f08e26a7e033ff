"""The runtime for code that knows no asyncio: the same methods, blocking.

An event loop in a thread of its own does the work. Not here: any of that work.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Mapping
from concurrent.futures import CancelledError
from datetime import datetime
from types import TracebackType
from typing import Any, Generic, ParamSpec, Self, TypeVar

from sqlalchemy import Select

from actors.aggregate import Aggregate
from actors.commands import Command
from actors.wire import Receipt
from cluster.application import Application
from cluster.client import ClientClosed
from cluster.operations import ActorAddress
from cluster.runtime import Runtime
from cluster.status import RuntimeStatus
from cluster.subscriptions import Subscription
from projections.callbacks import Callback
from projections.progress import Start
from projections.projection import Projection
from store.errors import EventrayError
from store.events import Event

Given = ParamSpec("Given")
Result = TypeVar("Result")
SomeAggregate = TypeVar("SomeAggregate", bound=Aggregate)


class SyncRuntime:
    """A runtime on Ray. Its methods may be called from any thread, and block until they are done."""

    def __init__(self, runtime: Runtime, loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
        self._runtime = runtime
        self._loop = loop
        self._thread = thread
        self._closed = False

    @classmethod
    def open(cls, url: str, **keywords: Any) -> SyncRuntime:
        """Open a runtime, to be used in a `with`, or to be closed. Takes what `Runtime.open` takes."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="eventray", daemon=True)
        thread.start()

        async def begin() -> Runtime:
            return await Runtime.open(url, **keywords)

        try:
            return cls(_blocking(begin(), loop), loop, thread)
        except BaseException:  # Ctrl-C too: the thread would keep its loop
            _end(loop, thread)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is under way, then end what this runtime started. Calling it twice is safe."""
        if self._closed:
            return
        self._closed = True
        try:
            _blocking(self._runtime.close(), self._loop)
        finally:
            _end(self._loop, self._thread)

    def submit(self, command: Command, **keywords: Any) -> Receipt:
        """Have a command decided; see `Operations.submit`."""
        return self._done(self._runtime.submit, command, **keywords)

    def submit_many(self, commands: Iterable[Command], **keywords: Any) -> list[Receipt | EventrayError]:
        """Submit commands; return a receipt or an error each, in order; see `Operations.submit_many`."""
        return self._done(self._runtime.submit_many, commands, **keywords)

    def query(
        self, projection: type[Projection], key: Any, *, after: Receipt | None = None, timeout_s: float | None = None
    ) -> Mapping[str, Any] | None:
        """Return a row of a read model; see `Operations.query`."""
        return self._done(self._runtime.query, projection, key, after=after, timeout_s=timeout_s)

    def select(self, projection: type[Projection], statement: Select[Any], **keywords: Any) -> list[dict[str, Any]]:
        """Return the rows of a query over a projection's tables; see `Operations.select`."""
        return self._done(self._runtime.select, projection, statement, **keywords)

    def catch_up(self, projection: type[Projection], *, timeout_s: float | None = None) -> None:
        """Return once a read model shows all that the log holds now; see `Operations.catch_up`."""
        self._done(self._runtime.catch_up, projection, timeout_s=timeout_s)

    def subscribe(
        self, event_type: type[Event] | None, handler: Callback, *, name: str | None = None, start: Start = "now"
    ) -> Subscription:
        """Have a function called with events; see `Operations.subscribe`."""
        return self._done(self._runtime.subscribe, event_type, handler, name=name, start=start)

    def unsubscribe(self, subscription: Subscription) -> None:
        """End a subscription; see `Operations.unsubscribe`."""
        if not self._closed:
            self._done(self._runtime.unsubscribe, subscription)

    def stream(
        self, event_type: type[Event] | None = None, *, name: str | None = None, start: Start = "now"
    ) -> Generator[Event, None, None]:
        """Yield events as they come; see `Operations.stream`."""
        events = self._runtime.stream(event_type, name=name, start=start)
        try:
            while not self._closed and (event := self._done(_next, events)) is not None:
                yield event
        finally:
            if not self._closed:
                self._done(events.aclose)

    def load(
        self,
        aggregate_class: type[SomeAggregate],
        aggregate_id: str,
        version: int | None = None,
        as_of: datetime | None = None,
    ) -> SomeAggregate:
        """Return an aggregate as it is or was; see `Operations.load`."""
        return self._done(self._runtime.load, aggregate_class, aggregate_id, version, as_of)

    def actor(self, aggregate_class: type[SomeAggregate], aggregate_id: str) -> SyncActorAddress[SomeAggregate]:
        """Return the address of one aggregate; see `Operations.actor`."""
        return SyncActorAddress(self._runtime.actor(aggregate_class, aggregate_id), self)

    def status(self) -> RuntimeStatus:
        """Say how the runtime is; see `Runtime.status`."""
        return self._done(self._runtime.status)

    def scale(self, hosts: int) -> RuntimeStatus:
        """Keep so many hosts from now on; see `Runtime.scale`."""
        return self._done(self._runtime.scale, hosts)

    def rebalance(self) -> RuntimeStatus:
        """Wait until hosts and shards are spread evenly; see `Runtime.rebalance`."""
        return self._done(self._runtime.rebalance)

    @property
    def application(self) -> Application:
        """The application that this runtime serves."""
        return self._runtime.application

    def _done(
        self, work: Callable[Given, Coroutine[Any, Any, Result]], *given: Given.args, **more: Given.kwargs
    ) -> Result:
        """Do a coroutine function's work on the loop's thread, and wait for it."""
        if self._closed:
            raise ClientClosed
        return _blocking(work(*given, **more), self._loop)


class SyncActorAddress(Generic[SomeAggregate]):
    """One aggregate, wherever it lives."""

    def __init__(self, address: ActorAddress[SomeAggregate], runtime: SyncRuntime) -> None:
        self._address = address
        self._runtime = runtime
        self.stream = address.stream

    def submit(self, command: Command, **keywords: Any) -> Receipt:
        """Submit a command to this aggregate; see `ActorAddress.submit`."""
        return self._runtime._done(self._address.submit, command, **keywords)

    def load(self, version: int | None = None, as_of: datetime | None = None) -> SomeAggregate:
        """Return a copy of it as it is or was; see `Operations.load`."""
        return self._runtime._done(self._address.load, version, as_of)


async def _next(events: AsyncIterator[Event]) -> Event | None:
    return await anext(events, None)


def _blocking(work: Coroutine[Any, Any, Result], loop: asyncio.AbstractEventLoop) -> Result:
    """Run a coroutine on the loop's thread and wait for it; Ctrl-C cancels it, and it is given the time to end.

    Raises ClientClosed where another thread closes the runtime meanwhile.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)
    try:
        return future.result()
    except KeyboardInterrupt:
        future.cancel()
        raise
    except CancelledError as error:
        raise ClientClosed from error


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """End the loop once its tasks have ended: who waits for one is told, and what a cancelled one undoes is undone."""
    asyncio.run_coroutine_threadsafe(_end_tasks(), loop).result()
    asyncio.run_coroutine_threadsafe(loop.shutdown_default_executor(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


async def _end_tasks() -> None:
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            if not task.cancelling():  # twice would cut off what it undoes
                task.cancel()
        await asyncio.wait(tasks)
