"""Handlers: the base class that users derive theirs from, and how one is to be retried.

A handler does something in the world for each event: at least once, in the order of a partition key. Not here: calling
it (`deliveries.py`), following the log (`subscriber.py`), parking what it can't take (`handler_sink.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

from tenacity import RetryCallState, wait_exponential, wait_random

from projections.event_methods import EventMethod, methods_of
from projections.progress import Start
from store.errors import InvalidValue
from store.events import Event


@dataclass(frozen=True)
class Policy:
    """What becomes of an event that a handler fails at, and what it may hold meanwhile."""

    attempts_max: int = 5
    wait_first_s: float = 0.5
    """Before the second attempt; then twice as long each time, and up to `wait_first_s` more by chance."""
    wait_max_s: float = 60.0
    then: Literal["park", "skip"] = "park"
    """After the last attempt. `park`: the event and all later ones of its partition key wait in the log, until somebody
    retries or discards it. `skip`: it is left out, and said in the log of the process."""
    parked_max: int = 1_000
    """Partition keys that are parked at once, of the shards that one process follows; past it the handler stands still
    there at the next event that it can't take."""
    timeout_s: float = 30.0
    """How long one call may take."""
    concurrency: int = 8
    """Shards whose events are handled at the same time, each one event after the other."""
    stuck_max: int = 8
    """Calls that were given up by `timeout_s` and have not returned; past it the handler stands still."""

    def __post_init__(self) -> None:
        """Raises InvalidValue."""
        for field, value in vars(self).items():
            if field != "then" and value <= 0:
                raise InvalidValue(field, str(value), "give a number above 0")
        if self.then not in ("park", "skip"):
            raise InvalidValue("then", repr(self.then), 'give "park" or "skip"')

    def wait_s(self, attempts: int) -> float:
        """Return how long to wait after so many attempts, by tenacity's exponential backoff with jitter."""
        state = RetryCallState(cast("Any", None), None, (), {})
        state.attempt_number = attempts
        doubling = wait_exponential(multiplier=self.wait_first_s, max=self.wait_max_s)
        return (doubling + wait_random(0, self.wait_first_s))(state)


class Handler:
    """A side effect of events. Derive from it; methods are found by what their parameter is annotated with:

        class WelcomeMail(Handler):
            async def on_created(self, event: CustomerCreated) -> None:
                await send_mail(event.email, key=self.idempotency_key(event))

    Methods may be plain or async; they run away from everything else, so that a slow one holds up only its own handler.
    Whatever a method raises is a failed attempt; see `Policy`, `RetryLater` and `Undeliverable`. An annotation may be a
    union, or a base class of several event types; other types are not even decoded.

    Each event comes at least once: again after a crash, and late from a host that has been superseded. Its
    `idempotency_key` is the same each time; hand it on, so that the receiver can tell.

    Class keywords: `name` (default: the class's name), under which its progress is kept; `start` ("now", or "beginning"
    of the log), where it begins that has no progress yet; `policy`. It is made without arguments, where the runtime is
    opened, and travels from there to Ray: settings are read in `__init__`, connections are opened later.
    """

    name: ClassVar[str] = ""
    start: ClassVar[Start] = "now"
    policy: ClassVar[Policy] = Policy()

    def __init_subclass__(
        cls, name: str | None = None, start: Start | None = None, policy: Policy | None = None, **kwargs: Any
    ) -> None:
        super().__init_subclass__(**kwargs)
        cls.name = name or cls.__name__
        cls.start = start or cls.start
        cls.policy = policy or cls.policy

    @property
    def off(self) -> str:
        """Why it does nothing here, for example which settings it lacks; empty: it is on.

        One that is off follows nothing: it goes on where it was once it is on again.
        """
        return ""

    def idempotency_key(self, event: Event) -> str:
        """Return what tells a repeated event from a new one: the event's id and this handler's name."""
        return f"{event.id}:{self.name}"

    @classmethod
    def event_methods(cls) -> dict[type[Event], EventMethod]:
        """Return its event methods by annotated type. Raises InvalidValue where a method is not one for its type."""
        if cls.start not in ("now", "beginning"):
            raise InvalidValue("start", repr(cls.start), 'give "now" or "beginning"')
        methods = methods_of(cls, Handler, 2, "a function of an event", may_be_async=True)
        for method in methods.values():
            if method.takes_many:
                raise InvalidValue("method", method.function.__qualname__, "a handler takes one event at a time")
        return methods
