"""What can go wrong with a command, and how such an error crosses the wire.

The rules are those of `store/errors.py`: the first docstring line is the message, all fields are positional. Not here:
errors of the store itself, and who retries after which of them (the client does).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from store.errors import EventrayError
from store.values import INT64


class DomainError(EventrayError):
    """{0}

    The aggregate refused. Raise it with a message, or derive from it; the first docstring line is then the message:

        class InsufficientFunds(DomainError):
            '''Account {0} holds {1}, not {2}.'''

        raise InsufficientFunds("a-1", Decimal("3.00"), Decimal("5.00"))

    A subclass with an `__init__` of its own passes all its fields on to `super().__init__`, in the same order;
    otherwise callers in other processes get a plain DomainError with the same message.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        taken = EventrayError.known.get(cls.__name__)
        if taken is not None and not issubclass(taken, DomainError):
            raise TypeError(f"{cls.__name__} is the name of an error of Eventray's own: choose another")
        super().__init_subclass__(**kwargs)

    def __str__(self) -> str:
        template = (self.__doc__ or "").strip().split("\n")[0]
        if "{" not in template:
            return str(self.args[0]) if self.args else template or type(self).__name__
        try:
            return template.format(*self.args)
        except (IndexError, KeyError, ValueError):
            # The class asks for other fields than it was raised with; what it was raised with still tells most.
            return f"{type(self).__name__}{self.args or ''}"


class InvalidCommand(EventrayError):
    """{0} = {1}: {2}"""

    def __init__(self, field: str, value: str, remedy: str) -> None:
        super().__init__(field, value, remedy)
        self.field, self.value, self.remedy = field, value, remedy


class CommandIdReused(EventrayError):
    """Command id {0} has been used on {1} with another payload: give every command an id of its own."""

    def __init__(self, command_id: str, stream: str) -> None:
        super().__init__(command_id, stream)
        self.command_id, self.stream = command_id, stream


class NotOwner(EventrayError):
    """This host does not own shard {0} at epoch {1}: read the routes again."""

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__(shard, epoch)
        self.shard, self.epoch = shard, epoch


class Overloaded(EventrayError):
    """The host holds as many commands as it may: try again in {0} ms."""

    def __init__(self, retry_after_ms: int) -> None:
        super().__init__(retry_after_ms)
        self.retry_after_ms = retry_after_ms


class CommandTimeout(EventrayError):
    """No answer to command {0} within {1} s; its outcome is unknown. A retry under the same id is safe."""

    def __init__(self, command_id: str, timeout_s: float) -> None:
        super().__init__(command_id, timeout_s)
        self.command_id, self.timeout_s = command_id, timeout_s


class HostsLost(CommandTimeout):
    """{2} hosts were lost one after another with command {0} in hand (see their logs); its outcome is unknown.

    The last of them had nothing else in hand of this client's. So the command's code may end the process that runs it,
    or never return: a retry under the same id is safe for the log, and may cost another host.
    """

    def __init__(self, command_id: str, timeout_s: float, hosts: int) -> None:
        EventrayError.__init__(self, command_id, timeout_s, hosts)
        self.command_id, self.timeout_s, self.hosts = command_id, timeout_s, hosts


class DecideFailed(EventrayError):
    """{1} on {0} broke the code that decides it; nothing was stored: {2}"""

    def __init__(self, stream: str, command_type: str, reason: str) -> None:
        super().__init__(stream, command_type, reason)
        self.stream, self.command_type, self.reason = stream, command_type, reason


class StaleCall(EventrayError):
    """Call {0} is not newer than the last one of its session: an old copy, which must not act."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class NoEventMethod(EventrayError):
    """{0} has no method for {1}: add `def on_...(self, event: {1}) -> None`."""

    def __init__(self, aggregate: str, event: str) -> None:
        super().__init__(aggregate, event)


class BrokenHistory(EventrayError):
    """The history of {0} goes on with version {2}, not with {1}: load all its stored events, in order."""

    def __init__(self, stream: str, expected_version: int, actual_version: int) -> None:
        super().__init__(stream, expected_version, actual_version)


class ApplyFailed(EventrayError):
    """Event {2} at version {1} of {0} broke the method that applies it, so the stream can't be loaded: {3}"""

    def __init__(self, stream: str, version: int, event_type: str, reason: str) -> None:
        super().__init__(stream, version, event_type, reason)
        self.stream, self.version, self.event_type, self.reason = stream, version, event_type, reason


class MakeFailed(EventrayError):
    """{0} can't be made, so nothing is decided for it: {1}"""

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(stream, reason)
        self.stream, self.reason = stream, reason


def to_wire(error: EventrayError) -> list[Any]:
    """Return the error as `[class name, message, fields...]`, all of it plain values (JSON or msgpack can pack them).

    Decimals keep their type; a field of another type that isn't plain travels as its text.
    """
    return [type(error).__name__, _packable(str(error)), *(_packable(field) for field in error.args)]


def from_wire(wire: Sequence[Any]) -> EventrayError:
    """Return the error that `to_wire` packed, as its own class where this process knows that class.

    A class that is not known here, or can't be made from its fields, can only be a user's: DomainError(message), or
    InvalidCommand if it is one.
    """
    name, message, *fields = wire
    error_class = EventrayError.known.get(name)
    if error_class is None:
        return DomainError(message)
    arguments: list[Any] = [Decimal(field["decimal"]) if isinstance(field, dict) else field for field in fields]
    if not issubclass(error_class, DomainError | InvalidCommand):
        return error_class(*arguments)
    plain: EventrayError = DomainError(message)
    if issubclass(error_class, InvalidCommand) and [type(argument) for argument in arguments] == [str] * 3:
        plain = InvalidCommand(*arguments)
    try:
        error = error_class(*arguments)
        return error if str(error) == message else plain
    except Exception:  # noqa: BLE001 - whatever a user's class raises
        return plain


def _packable(value: object) -> object:
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int) and value in INT64:
        return int(value)
    if isinstance(value, Decimal):
        return {"decimal": str(value)}
    return str(value).encode(errors="backslashreplace").decode()
