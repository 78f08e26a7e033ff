"""Calling functions of the users', away from the event loop that everything else runs on.

A coroutine runs on an event loop of its own thread, a plain function on a thread made for the call. One that blocks, or
never returns, holds up nothing but itself; after its time it is given up. Not here: what is called, and when again.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

from projections.errors import CallEnded, CallInterrupted, CallTimedOut, HandlerStuck

CANCEL_S = 1.0
"""How long a coroutine may take to end once it is cancelled; then its event loop is taken to be blocked."""
STOP_S = 1.0
"""How long calls may go on once all is to end."""


class Stopping(Exception):
    """The call was left to itself, since all is to end: nobody knows what became of it."""


class Caller:
    """Calls functions for one name. Belongs to the event loop that calls it."""

    def __init__(self, name: str, timeout_s: float, stuck_max: int) -> None:
        self._name, self._timeout_s, self._stuck_max = name, timeout_s, stuck_max
        self._loop_thread: LoopThread | None = None
        self._stuck: set[threading.Thread] = set()
        self._stop: asyncio.Event | None = None

    @property
    def stuck(self) -> int:
        """Threads that were given up and have not ended."""
        self._stuck = {thread for thread in self._stuck if thread.is_alive()}
        return len(self._stuck)

    async def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call a function and wait until it has returned.

        Raises what it raises, but CallEnded for what is no Exception; CallTimedOut past the time; HandlerStuck, without
        calling, where too many calls have not returned; CallInterrupted where another call blocks the event loop;
        Stopping once `stop` was called and the function did not return soon.
        """
        if self.stuck >= self._stuck_max:
            raise HandlerStuck(self._name, self.stuck)
        if inspect.iscoroutinefunction(function):
            await self._call_async(function(*arguments))
        else:
            future: Future[None] = Future()
            context = contextvars.copy_context()
            work = threading.Thread(
                target=context.run, args=(_run, future, function, arguments), name=f"eventray {self._name}", daemon=True
            )
            work.start()
            if not await self._ended(future, self._timeout_s):
                self._stuck.add(work)
                raise CallTimedOut(self._timeout_s)
            future.result()

    async def _call_async(self, work: Coroutine[Any, Any, Any]) -> None:
        if self._loop_thread is None or not self._loop_thread.thread.is_alive():  # a handler may cancel all tasks
            self._loop_thread = LoopThread(self._name)
        loop_thread = self._loop_thread
        tasks: list[asyncio.Task[Any]] = []
        future = loop_thread.submit(_within(self._timeout_s, work, tasks))
        if await self._ended(future, self._timeout_s + CANCEL_S):
            return future.result()
        if self._loop_thread is loop_thread:
            self._loop_thread = None
        self._stuck.add(loop_thread.thread)
        if loop_thread.current() in tasks:
            raise CallTimedOut(self._timeout_s)
        raise CallInterrupted(self._name)

    def stop(self) -> None:
        """Let calls under way end soon."""
        self._stopping.set()

    def close(self) -> None:
        """Let go of the threads."""
        if self._loop_thread is not None:
            self._loop_thread.close()
            self._loop_thread = None

    @property
    def _stopping(self) -> asyncio.Event:
        if self._stop is None:
            self._stop = asyncio.Event()
        return self._stop

    async def _ended(self, running: Future[None], patience_s: float) -> bool:
        """Wait for a call, and cancel it if it takes too long; return whether it has ended. Raises Stopping."""
        future = asyncio.wrap_future(running)
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            either: set[asyncio.Future[Any]] = {future, stopping}
            await asyncio.wait(either, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done() and not future.done():
                await asyncio.wait({future}, timeout=min(patience_s, STOP_S))
                if not future.done():
                    raise Stopping
            if future.done() and not future.cancelled():
                future.exception()  # it is raised from the thread's own future
            return future.done()
        finally:
            stopping.cancel()
            if not future.done():
                future.add_done_callback(_look)
                future.cancel()


class LoopThread:
    """An event loop in a thread of its own, until it is closed."""

    def __init__(self, name: str) -> None:
        self._begun: Future[asyncio.AbstractEventLoop] = Future()
        self._end: asyncio.Event | None = None
        self.thread = threading.Thread(target=self._run, name=f"eventray {name}", daemon=True)
        self.thread.start()

    def submit(self, work: Coroutine[Any, Any, None]) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(work, self._begun.result())

    def current(self) -> asyncio.Task[Any] | None:
        """Return the task that runs there now."""
        return asyncio.current_task(self._begun.result())

    def close(self) -> None:
        """Cancel what runs there, and let the thread end."""
        if self._end is not None:
            with suppress(RuntimeError):  # it is closed
                self._begun.result().call_soon_threadsafe(self._end.set)

    def _run(self) -> None:
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            until_closed = loop.create_task(self._until_closed())
            while not until_closed.done():
                # What another task raises whoever awaits that one gets; RuntimeError: a handler has stopped the loop.
                with suppress(SystemExit, KeyboardInterrupt, RuntimeError, asyncio.CancelledError):
                    loop.run_until_complete(until_closed)

    async def _until_closed(self) -> None:
        self._end = asyncio.Event()
        self._begun.set_result(asyncio.get_running_loop())
        await self._end.wait()


async def _within(timeout_s: float, work: Coroutine[Any, Any, Any], tasks: list[asyncio.Task[Any]]) -> None:
    """Await `work` in a task that `tasks` is told of."""
    tasks.extend(task for task in [asyncio.current_task()] if task is not None)
    try:
        async with asyncio.timeout(timeout_s) as limit:
            await work
    except TimeoutError as error:
        if limit.expired():
            raise CallTimedOut(timeout_s) from error
        raise
    except Exception:
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise CallEnded.by(error) from error


def _run(future: Future[None], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        function(*arguments)
    except Exception as error:  # noqa: BLE001 - it is raised where the call is awaited
        _settle(future, error)
    except BaseException as error:  # noqa: BLE001 - it would end who awaits the call
        _settle(future, CallEnded.by(error))
    else:
        _settle(future, None)


def _settle(future: Future[None], error: BaseException | None) -> None:
    try:
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
    except InvalidStateError:  # nobody waits for it any more
        return


def _look(future: asyncio.Future[None]) -> None:
    if not future.cancelled():
        future.exception()
