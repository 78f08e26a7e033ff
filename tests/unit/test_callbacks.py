"""What the event bus does with one batch: whom it calls with what, and what counts as taken."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from actors.customers import CustomerCreated, OrderCreated
from projections import callbacks
from projections.callbacks import Callback, CallbackSink, wanted_types
from projections.sink import Taken
from store import Event, EventRecord, open_store
from store.ports import EventStore
from store.records import Checkpoint
from tests.logs import EVENTS, Log, created, ordered


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = await open_store("memory://", shards=1)
    yield await Log.on(store)
    await store.close()


async def sink_of(callback: Callback, store: EventStore, event_type: type[Event] | None = None) -> CallbackSink:
    """Return a sink whose progress is kept."""
    sink = CallbackSink("bus", callback, EVENTS, wanted_types(EVENTS, event_type), store)
    await sink.prepare({0: Checkpoint(0, None)})
    return sink


async def three(log: Log) -> list[EventRecord]:
    return await log.write(created("a"), ordered("a", "1"), ordered("a", "2"))


async def test_only_the_wanted_types_are_handed_over_and_all_count(log: Log) -> None:
    heard: list[OrderCreated] = []
    sink = await sink_of(heard.append, log.store, OrderCreated)
    assert await sink.take(await three(log)) == Taken(3, {0: 3}, {})
    assert [event.order_id for event in heard] == ["a-1", "a-2"]
    sink.close()


async def test_after_its_turn_what_was_taken_is_kept_and_the_rest_comes_again(
    log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that a slow function has its checkpoint moved however many events are there."""
    monkeypatch.setattr(callbacks, "TURN_S", 0.05)
    heard: list[Event] = []

    async def slow(event: Event) -> None:
        heard.append(event)
        await asyncio.sleep(0.1)

    sink = await sink_of(slow, log.store)
    batch = await three(log)
    assert await sink.take(batch) == Taken(1, {0: 1}, {})
    assert (await log.store.checkpoints("bus"))[0].position == 1
    assert await sink.take(batch[1:]) == Taken(1, {0: 2}, {})
    assert len(heard) == 2


async def test_one_that_is_to_stop_takes_no_further_event(log: Log) -> None:
    heard: list[Event] = []

    async def stop_at_the_first(event: Event) -> None:
        heard.append(event)
        sink.stop()

    sink = await sink_of(stop_at_the_first, log.store)
    assert await sink.take(await three(log)) == Taken(1, {0: 1}, {})
    assert len(heard) == 1


async def test_a_failure_while_it_is_to_stop_is_no_failure_and_the_event_comes_again(log: Log) -> None:
    """What is cut off by the end must not be told as the function's own."""

    async def cut_off(event: CustomerCreated) -> None:
        sink.stop()
        raise ConnectionError(event.customer_id)

    sink = await sink_of(cut_off, log.store)
    assert await sink.take(await three(log)) == Taken(0, {0: 0}, {})


async def test_an_event_that_it_fails_at_holds_up_its_shard(log: Log) -> None:
    async def refuses(event: Event) -> None:
        if isinstance(event, OrderCreated):
            raise ValueError(event.order_id)

    sink = await sink_of(refuses, log.store)
    taken = await sink.take(await three(log))
    assert (taken.applied, taken.positions) == (1, {0: 1})
    assert "ValueError: a-1" in str(taken.failed[0])


def ending(_event: Event) -> None:
    sys.exit(3)


async def cancelled(_event: Event) -> None:
    task = asyncio.ensure_future(asyncio.sleep(60))
    task.cancel()
    await task


@pytest.mark.parametrize("callback", [ending, cancelled])
async def test_what_would_end_who_calls_it_is_a_failure_like_others(log: Log, callback: Callback) -> None:
    sink = await sink_of(callback, log.store)
    batch = await three(log)
    async with asyncio.timeout(5):
        for _ in range(2):
            taken = await sink.take(batch)
            assert (taken.applied, taken.positions, list(taken.failed)) == (0, {0: 0}, [0])
            assert "which ends nothing here but this call" in str(taken.failed[0])
    sink.close()


async def test_a_cancellation_is_a_failure_also_after_an_event_at_which_a_task_group_failed(log: Log) -> None:
    """Which leaves the task looking cancelled, on Python before 3.13."""

    async def refuses() -> None:
        raise ValueError

    async def callback(event: Event) -> None:
        if isinstance(event, OrderCreated):
            await cancelled(event)
        with contextlib.suppress(ExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(refuses())

    sink = await sink_of(callback, log.store)
    taken = await sink.take(await three(log))
    assert (taken.positions, list(taken.failed)) == ({0: 1}, [0])


async def test_a_plain_function_that_returns_after_the_loop_has_been_closed_ends_its_thread_quietly() -> None:
    calling: list[callbacks.CallingThread] = []
    called, release = threading.Event(), threading.Event()

    def wait(_event: Event) -> None:
        called.set()
        release.wait(10)

    async def begin() -> None:
        calling.append(callbacks.CallingThread("late", wait))
        call = asyncio.ensure_future(calling[0](created("a")))
        await asyncio.to_thread(called.wait, 10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)

    await asyncio.to_thread(asyncio.run, begin())
    thread = calling[0]._thread
    assert thread is not None
    release.set()
    await asyncio.to_thread(thread.join, 10)
    assert not thread.is_alive()


def test_functions_that_never_return_do_not_keep_a_process_from_ending() -> None:
    script = """
import asyncio, threading
from projections.calling import Caller
from projections.callbacks import CallingThread

async def main():
    calls = [CallingThread("bus", wait)("event"), Caller("plain", 60, 8).call(wait, "event")]
    calls.append(Caller("async", 60, 8).call(block, "event"))
    for call in calls:
        asyncio.ensure_future(call)
    while len(called) < 3:
        await asyncio.sleep(0.001)

def wait(event):
    called.append(event)
    threading.Event().wait()

async def block(event):
    wait(event)

called = []
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=20)


async def test_an_object_whose_call_is_a_coroutine_is_awaited_and_in_no_thread(log: Log) -> None:
    class Heard:
        def __init__(self) -> None:
            self.threads: list[int] = []

        async def __call__(self, _event: Event) -> None:
            await asyncio.sleep(0)
            self.threads.append(threading.get_ident())

    heard = Heard()
    sink = await sink_of(heard, log.store)
    assert await sink.take(await three(log)) == Taken(3, {0: 3}, {})
    assert heard.threads == [threading.get_ident()] * 3


async def test_an_answer_that_nobody_waits_for_any_more_is_of_no_matter() -> None:
    release, heard, complaints = threading.Event(), list[Event](), list[dict[str, Any]]()
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: complaints.append(context))

    def wait(event: Event) -> None:
        release.wait(10)
        heard.append(event)

    calling = callbacks.CallingThread("patient", wait)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(calling(created("a")), 0.05)
    release.set()
    await asyncio.wait_for(calling(created("b")), 10)
    assert (len(heard), complaints) == (2, [])
    calling.close()
