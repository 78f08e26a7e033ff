"""Every error of the store, under the one root of the project.

The first line of an error's docstring is its message; its fields are positional and all of them reach
`Exception.__init__`, so that it crosses process borders (pickle, Ray, the wire) unchanged. Not here: the errors of
the layers above, which keep an `errors.py` of their own by the same rules.
"""

from __future__ import annotations

from typing import Any, ClassVar


class EventrayError(Exception):
    """Something in Eventray went wrong: {0}"""

    known: ClassVar[dict[str, type[EventrayError]]] = {}
    """All error classes by name, so that one that crossed the wire is raised as itself again."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        EventrayError.known[cls.__name__] = cls

    def __str__(self) -> str:
        message = (self.__doc__ or type(self).__name__).strip().split("\n")[0]
        return message.format(*self.args)


def told(error: BaseException) -> str:
    """Return class and text of an error, also of a user's whose text can't be made."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException as broken:  # noqa: BLE001 - it is a user's text
        return f"{type(error).__name__}, whose text can't be made ({type(broken).__name__})"


class ConcurrencyError(EventrayError):
    """Stream {0} is at version {2}, not at the expected {1}: load it again and decide anew."""

    def __init__(self, stream: str, expected_version: int, actual_version: int) -> None:
        super().__init__(stream, expected_version, actual_version)
        self.stream, self.expected_version, self.actual_version = stream, expected_version, actual_version


class InvalidValue(EventrayError):
    """{0} = {1}: {2}"""

    def __init__(self, field: str, value: str, remedy: str) -> None:
        super().__init__(field, value, remedy)
        self.field, self.value, self.remedy = field, value, remedy


class StoreRejected(EventrayError):
    """The store refused the events and wrote none of them: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class StoreUnavailable(EventrayError):
    """The store can't be used now, and no event was written: {0}

    `passing` says that the same call may go through later (a lock, a lost connection); otherwise someone has to act (a
    full disk, a read-only file). What is not an event may have been written where a reply was lost: who owns what, a
    checkpoint. The same call may then be made again.
    """

    def __init__(self, reason: str, passing: bool) -> None:
        super().__init__(reason, passing)
        self.passing = passing


class StoreDamaged(StoreUnavailable):
    """The store's own files are damaged, and no event was written: {0}. `eventray audit store` says where: restore it.

    The database itself can't make out what it holds.
    """


class OutcomeUnknown(EventrayError):
    """The reply to a commit was lost, so the events may or may not be stored: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class StoreHeld(EventrayError):
    """The store is held by another runtime ({0}), which is alive: join that one, or stop it first."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder


class Superseded(EventrayError):
    """Generation {0} of the store has been taken over by another: this one must end."""

    def __init__(self, generation: int) -> None:
        super().__init__(generation)


class NotAStore(EventrayError):
    """{0} is not an Eventray store: {1}"""

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(url, reason)


class OtherSchema(EventrayError):
    """{0} has schema version {1}, and this Eventray needs {2}: {3}"""

    def __init__(self, url: str, stored: int, needed: int, remedy: str) -> None:
        super().__init__(url, stored, needed, remedy)


class ShardCountMismatch(EventrayError):
    """The store was made with {0} shards, {1} were asked for: leave the number out, or export and import it anew."""

    def __init__(self, stored: int, asked: int) -> None:
        super().__init__(stored, asked)


class UnknownEventType(EventrayError):
    """No event class is registered for the stored type {0} (schema version {1}): add it to the application."""

    def __init__(self, event_type: str, schema_version: int) -> None:
        super().__init__(event_type, schema_version)


class NewerSchema(EventrayError):
    """Event {0} version {1} of type {2} has schema version {3}, this code knows {4} at most: run the newer code."""

    def __init__(self, stream: str, version: int, event_type: str, stored_version: int, known_version: int) -> None:
        super().__init__(stream, version, event_type, stored_version, known_version)


class UndecodableEvent(EventrayError):
    """Event {0} version {1} of type {2} can't be decoded: {3}"""

    def __init__(self, stream: str, version: int, event_type: str, reason: str) -> None:
        super().__init__(stream, version, event_type, reason)


class BrokenArchive(EventrayError):
    """Line {0} of the archive, {1}: {2}"""

    def __init__(self, line: int, field: str, reason: str) -> None:
        super().__init__(line, field, reason)
        self.line, self.field = line, field


class OtherContent(EventrayError):
    """The store holds something else than this archive ({0}): import into a new one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class UnfinishedImport(EventrayError):
    """An import of {0} events was interrupted: run `eventray store import` with its file again, to the end.

    Handlers would take what it has brought for new events.
    """

    def __init__(self, events: int) -> None:
        super().__init__(events)


class DamagedLog(EventrayError):
    """The log of shard {0} breaks off at position {1}, before its head {2}: see what `eventray audit store` finds."""

    def __init__(self, shard: int, position: int, head: int) -> None:
        super().__init__(shard, position, head)
