"""What the client asks of whatever carries bytes to hosts, and the one error it knows of it.

Not here: what the bytes say (`actors/wire.py`), how Ray carries them.
"""

from __future__ import annotations

from typing import Protocol

from store.errors import EventrayError


class HostGone(EventrayError):
    """Host {0} can't be reached; the call may or may not have been executed: {1}"""

    def __init__(self, host: str, reason: str) -> None:
        super().__init__(host, reason)
        self.host, self.reason = host, reason


class Transport(Protocol):
    """How bytes reach a host."""

    async def call(self, host: str, payload: bytes) -> bytes:
        """Execute a packed call on a host and return its packed answers.

        Raises HostGone where the host has died, is unavailable or unknown, and StaleCall where it refused the number.
        Cancelling it gives up the answer, not the execution.
        """
        ...
