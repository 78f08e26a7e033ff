"""Who listens to what is pushed to this process: for each a bounded queue, which it empties by its calls.

A listener that is slow, or gone, misses pushes and holds up nobody: the store is the truth. Not here: following the log
(`subscriber.py`), and how listeners call (`host.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Generic, TypeVar

Push = TypeVar("Push")


class Listener(Generic[Push]):
    """One listener's queue."""

    def __init__(self, pushes_max: int) -> None:
        self.waiting: deque[Push] = deque(maxlen=pushes_max)
        self.wake = asyncio.Event()
        self.forget_at = 0.0


class Listeners(Generic[Push]):
    """All who listen to what one process is pushed, in whatever form."""

    def __init__(
        self, pushes_max: int = 1_000, silence_max_s: float = 30.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`pushes_max`: kept for one listener, the newest; who doesn't call for `silence_max_s` is forgotten."""
        self._pushes_max, self._silence_max_s, self._clock = pushes_max, silence_max_s, clock
        self._listeners: dict[str, Listener[Push]] = {}

    def push(self, push: Push) -> None:
        """Keep it for all who listen; never waits."""
        now = self._clock()
        for name, listener in list(self._listeners.items()):
            if now > listener.forget_at:
                del self._listeners[name]
            listener.waiting.append(push)
            listener.wake.set()

    async def listen(self, name: str, timeout_s: float) -> list[Push]:
        """Return what was pushed since this listener's last call; waits for something to come, at most `timeout_s`.

        The first call begins it.
        """
        listener = self._listeners.setdefault(name, Listener(self._pushes_max))
        listener.forget_at = self._clock() + timeout_s + self._silence_max_s
        if not listener.waiting and timeout_s > 0:
            listener.wake.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await listener.wake.wait()
            except TimeoutError:
                return []
        pushes = list(listener.waiting)
        listener.waiting.clear()
        return pushes
