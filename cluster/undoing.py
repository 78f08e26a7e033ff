"""Undoing in the end what a blocking call has begun, also where its caller was cancelled (Ctrl-C) while it ran.

A thread can't be cancelled: what it begins after that would be nobody's. Not here: what is begun (`ray_session.py`,
`local_ray.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import TypeVar

Begun = TypeVar("Begun")


async def begun(begin: Callable[[], Begun], undo: Callable[[Begun], None], ending: AsyncExitStack) -> Begun:
    """Return what `begin` returns, called in a thread; `ending` then calls `undo` with it, in a thread too.

    Where this is cancelled meanwhile, however often, it ends once `begin` has returned. Raises what `begin` raises;
    nothing is undone then.
    """
    beginning = asyncio.get_running_loop().run_in_executor(None, begin)
    cancelled: asyncio.CancelledError | None = None
    while not beginning.done():
        try:
            await asyncio.wait({beginning})
        except asyncio.CancelledError as error:
            cancelled = error
    if beginning.exception() is None:
        ending.push_async_callback(asyncio.to_thread, undo, beginning.result())
    if cancelled is not None:
        raise cancelled
    return beginning.result()
