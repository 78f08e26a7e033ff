"""Waiting for what a runtime's opening does not wait for: for those who measure from then on.

Not here: opening (`runtime.py`), the exporter's place (`exporting.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from cluster.status import RuntimeStatus

LOOK_S = 0.1


async def until_all_serve(status: Callable[[], Awaitable[RuntimeStatus]], timeout_s: float = 10.0) -> None:
    """Return once no process of the runtime is about to begin, or after `timeout_s`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while _some_begin(await status()):  # noqa: ASYNC110 - nobody here is told
                await asyncio.sleep(LOOK_S)


def _some_begin(status: RuntimeStatus) -> bool:
    processes = [*status.hosts, *status.projection_hosts, *([status.exporter] if status.exporter else [])]
    return any(process.state == "starting" and not process.failure for process in processes)
