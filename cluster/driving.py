"""Feeding many commands to a runtime with a bounded number under way: what `submit`, the demo and benchmarks share.

Items are started in their order, so commands of one partition key are decided in that order. Not here: where the
items come from, and what becomes of their outcomes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from actors.wire import Receipt
from store.errors import EventrayError

Item = TypeVar("Item")
Outcome = Receipt | EventrayError


async def drive(
    submit: Callable[[Item], Awaitable[Receipt]],
    items: AsyncIterator[Item],
    in_flight_max: int,
    on_outcome: Callable[[Item, Outcome], None],
) -> bool:
    """Submit each item and pass its outcome on as it comes; return whether all were submitted.

    Cancelled (Ctrl-C) before all have ended, it takes no further item, waits for what is under way, and returns False.
    An exception that is no EventrayError ends it and is raised.
    """
    slots = asyncio.Semaphore(in_flight_max)
    under_way: set[asyncio.Task[None]] = set()
    failures: list[BaseException] = []

    async def one(item: Item) -> None:
        outcome: Outcome
        try:
            outcome = await submit(item)
        except EventrayError as error:
            outcome = error
        on_outcome(item, outcome)

    def finished(task: asyncio.Task[None]) -> None:
        under_way.discard(task)
        slots.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            failures.append(error)

    complete = True
    try:
        async for item in items:
            await slots.acquire()
            if failures:
                break
            task = asyncio.create_task(one(item))
            under_way.add(task)
            task.add_done_callback(finished)
        await _ended(under_way)
    except asyncio.CancelledError:
        complete = False
        if (this := asyncio.current_task()) is not None:
            this.uncancel()
    await _ended(under_way)
    if failures:
        raise failures[0]
    return complete


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    while tasks:
        await asyncio.wait(tasks)
