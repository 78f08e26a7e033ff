"""What can go wrong on the way from the log to a read model.

The rules are those of `store/errors.py`: the first docstring line is the message, all fields are positional.
"""

from __future__ import annotations

from store.errors import EventrayError


class ConsistencyTimeout(EventrayError):
    """The command did succeed, but {0} has not shown it within {3} s: it is at {4} of shard {1}, not yet at {2}.{5}

    Read again later, or without `after`; do not send the command again.
    """

    def __init__(
        self, projection: str, shard: int, position: int, timeout_s: float, reached: int, reason: str = ""
    ) -> None:
        super().__init__(projection, shard, position, timeout_s, reached, reason)
        self.projection, self.shard, self.position = projection, shard, position
        self.timeout_s, self.reached, self.reason = timeout_s, reached, reason


class ProjectionFailed(EventrayError):
    """Projection {0} can't apply {3} ({1} version {2}) and waits before it: {4}

    The event's shard stands still for this projection until a retry goes through; other shards go on.
    """

    def __init__(self, projection: str, stream: str, version: int, event_type: str, reason: str) -> None:
        super().__init__(projection, stream, version, event_type, reason)


class DeliveryFailed(EventrayError):
    """Subscriber {0} failed at {3} ({1} version {2}) and waits before it: {4}

    The event's shard stands still for this subscriber until a retry goes through; other shards go on.
    """

    def __init__(self, subscriber: str, stream: str, version: int, event_type: str, reason: str) -> None:
        super().__init__(subscriber, stream, version, event_type, reason)


class ReadModelRejected(EventrayError):
    """The read model's database refused what it was asked to do, and nothing was changed: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class ReadModelUnavailable(EventrayError):
    """The read model's database can't be used now: {0}

    Nothing was changed, unless the reply to a commit was lost: then the checkpoint tells.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class ReadModelMissing(EventrayError):
    """There is no read model of {0} in {1}: start a runtime with that projection on this store; it fills it."""

    def __init__(self, projection: str, database: str) -> None:
        super().__init__(projection, database)


class ReadModelVersion(EventrayError):
    """The read model of {0} is of version {1}, the application has the older version {2}: deploy {1} or a higher one.

    A lower version never replaces a higher one by itself: it may be that of a process that has not ended yet.
    """

    def __init__(self, projection: str, stored: int, asked: int) -> None:
        super().__init__(projection, stored, asked)


class NotThisVersion(EventrayError):
    """The read model of {0} is still of version {1}, and the application has {2}: audit it once that one is read."""

    def __init__(self, projection: str, stored: int, asked: int) -> None:
        super().__init__(projection, stored, asked)


class RebuildStopped(EventrayError):
    """The rebuild of {0} has stopped, and what was read before still is: {1}

    Once that is put right, `eventray rebuild` goes on where it was.
    """

    def __init__(self, projection: str, reason: str) -> None:
        super().__init__(projection, reason)


class RestoredBehind(EventrayError):
    """{0} has taken events up to position {2} of shard {1}, but the log {3}: the store was restored, or is another one.

    Nothing is taken until that is settled. The last field is the remedy.
    """

    def __init__(self, subscriber: str, shard: int, position: int, found: str, remedy: str) -> None:
        super().__init__(subscriber, shard, position, found, remedy)

    def __str__(self) -> str:
        return (
            "{0} has taken events up to position {2} of shard {1}, but the log {3}: the store was restored to an"
            " earlier state, or is another one. Remedy: {4}."
        ).format(*self.args)


class NotFollowed(EventrayError):
    """{0} is not followed here for shard {1}: ask the projection host that owns it."""

    def __init__(self, projection: str, shard: int) -> None:
        super().__init__(projection, shard)


class RetryLater(EventrayError):
    """{0}; to be tried again in {1} s.

    For handlers to raise: the next attempt waits at least so long.
    """

    def __init__(self, reason: str, after_s: float) -> None:
        super().__init__(reason, after_s)
        self.after_s = after_s


class Undeliverable(EventrayError):
    """{0}; no later attempt could do better.

    For handlers to raise: the event is parked or skipped at once, as the policy says.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class NotSent(EventrayError):
    """It was not sent, as far as is known here: {0}"""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)


class CallTimedOut(EventrayError):
    """It took longer than {0} s."""

    def __init__(self, timeout_s: float) -> None:
        super().__init__(timeout_s)


class CallEnded(EventrayError):
    """The function raised {0}, which ends nothing here but this call."""

    def __init__(self, raised: str) -> None:
        super().__init__(raised)

    @classmethod
    def by(cls, error: BaseException) -> CallEnded:
        """Return one that an error has caused."""
        ended = cls(type(error).__name__)
        ended.__cause__ = error
        return ended


class CallInterrupted(EventrayError):
    """Another call has blocked the event loop of handler {0}: this one is tried again on a new one."""

    def __init__(self, handler: str) -> None:
        super().__init__(handler)


class HandlerStuck(EventrayError):
    """{1} calls of handler {0} have not returned: it stands still until one does, or its process is started again."""

    def __init__(self, handler: str, calls: int) -> None:
        super().__init__(handler, calls)


class TooManyParked(EventrayError):
    """Handler {0} has parked {1} keys, as many as it may, and stands still at {4} ({2} version {3}): {5}

    Retry or discard some (`eventray dead-letters`), or allow more.
    """

    def __init__(self, handler: str, parked: int, stream: str, version: int, event_type: str, reason: str) -> None:
        super().__init__(handler, parked, stream, version, event_type, reason)
