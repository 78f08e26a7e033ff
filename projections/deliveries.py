"""One event to one handler: decoding it, calling the method, and what it means if that fails.

Not here: when an event is tried again (`handler_sink.py`), threads and timeouts (`calling.py`).
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

from actors.metadata import because_of
from projections.calling import Caller, Stopping
from projections.errors import CallInterrupted, HandlerStuck, RetryLater, Undeliverable
from projections.event_methods import by_stored_name
from projections.handler import Handler
from store.codec import EventRegistry
from store.errors import told
from store.logs import described, subject
from store.records import EventRecord

ERROR_SIZE_MAX = 2_000
TRACEBACK_SIZE_MAX = 8_000
"""Of its end, which says what happened."""


AroundCall = Callable[[str, EventRecord], AbstractContextManager[None]]
"""Makes what is entered while a handler of that name works on an event; it hears of what the handler raises."""


def nothing_around(_handler: str, _record: EventRecord) -> AbstractContextManager[None]:
    """Where nobody measures."""
    return nullcontext()


@dataclass(frozen=True)
class Failure:
    """An attempt that failed, in texts that any database takes."""

    error: str
    traceback: str
    final: bool
    """No later attempt could do better."""
    after_s: float
    """The next attempt waits at least so long."""


class Deliveries:
    """What one handler is given."""

    def __init__(self, handler: Handler, events: EventRegistry, around_call: AroundCall = nothing_around) -> None:
        """Raises InvalidValue where a method of the handler is none for its type."""
        self._handler = handler
        self._around_call = around_call
        self._events, self._methods = by_stored_name(events, type(handler).event_methods())
        self._caller = Caller(handler.name, handler.policy.timeout_s, handler.policy.stuck_max)
        self.handled = 0
        """Events that it took, since it was started here."""
        self.failed = 0
        """Attempts that failed."""

    @property
    def stuck(self) -> int:
        """Calls that were given up and have not returned."""
        return self._caller.stuck

    def wants(self, record: EventRecord) -> bool:
        """Return whether the handler has a method for events of this type."""
        return record.type in self._methods

    async def deliver(self, record: EventRecord) -> Failure | None:
        """Call the handler with an event; return None when it took it.

        Raises HandlerStuck where nothing can be called now, CallInterrupted where another call is to blame, and
        Stopping once `stop` was called: nobody knows then.
        """
        token = subject.set(partial(described, record))
        try:
            event = self._events.decode(record)
            with self._around_call(self._handler.name, record), because_of(event):
                await self._caller.call(self._methods[record.type].function, self._handler, event)
        except (CallInterrupted, HandlerStuck, Stopping):
            raise
        except Exception as error:  # noqa: BLE001 - whatever the user's method raises
            self.failed += 1
            return failure_of(error)
        finally:
            subject.reset(token)
        self.handled += 1
        return None

    def stop(self) -> None:
        """Let calls under way end soon."""
        self._caller.stop()

    def close(self) -> None:
        """Let go of the threads."""
        self._caller.close()


def failure_of(error: BaseException) -> Failure:
    """Return what is kept of an error."""
    after_s = error.after_s if isinstance(error, RetryLater) else 0.0
    trace = "".join(traceback.format_exception(error))
    return Failure(
        error=_storable(told(error))[:ERROR_SIZE_MAX],
        traceback=_storable(trace)[-TRACEBACK_SIZE_MAX:],
        final=isinstance(error, Undeliverable),
        after_s=after_s,
    )


def _storable(text: Any) -> str:
    return str(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
