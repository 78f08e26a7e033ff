"""An event loop whose clock jumps to the next timer, so that minutes of waiting take no time and always go alike."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class NothingWillHappen(Exception):
    """The loop has no timer and nothing ready: whoever waits now waits for ever."""


class _Jumping(selectors.DefaultSelector):
    """Waits for nothing: the time that it was asked to wait has passed at once."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if not events and timeout is None:
            raise NothingWillHappen
        if not events and timeout is not None and timeout > 0:
            self.now_s += timeout + 1e-6
        return events


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its `time()` starts at 1000 s and moves only when everybody waits."""

    def __init__(self) -> None:
        self._jumping = _Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to the end, in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
