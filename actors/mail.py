"""Commands while a host holds them: what arrived, what was decided of it, and the call that waits for the answer.

Plain data, one object per command and one future per call. Not here: deciding (`shard.py`), committing (`writer.py`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from typing import Any

from actors.commands import Command
from actors.registry import CommandBinding
from actors.wire import CommandMessage, Receipt
from store import EventrayError, EventRecord
from store.logs import command_fields
from store.records import Snapshot

Answer = Receipt | EventrayError


class Turn:
    """One time that a host's shards decide, all of them together."""

    __slots__ = ("began_s", "ended_s", "recorded_at")

    def __init__(self, began_s: float, recorded_at: int) -> None:
        self.began_s = self.ended_s = began_s
        """On the host's monotonic clock."""
        self.recorded_at = recorded_at
        """What its events are recorded at: microseconds since 1970, UTC."""


class OpenCall:
    """One call of a client: its answers in the order of its commands, complete when the last one is there."""

    __slots__ = ("answered_s", "answers", "arrived_s", "done", "missing", "turn")

    def __init__(self, size: int, arrived_s: float) -> None:
        self.answers: list[Answer | None] = [None] * size
        self.missing = size
        self.arrived_s = self.answered_s = arrived_s
        """When it came, and when its last answer was there, on the host's monotonic clock."""
        self.turn: Turn | None = None
        """In which its last command was decided; None: none was."""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not size:
            self.done.set_result(None)

    def answer(self, index: int, answer: Answer) -> None:
        """Put one answer in its place. The first one stays, so that a late second one changes nothing."""
        if self.answers[index] is None:
            self.answers[index] = answer
            self.missing -= 1
            if not self.missing and not self.done.done():
                self.answered_s = time.monotonic()
                self.done.set_result(None)

    def fail(self, error: Exception) -> None:
        """End the call without answers: its commands' outcomes are unknown."""
        if not self.done.done():
            self.done.set_exception(error)
            self.done.exception()  # who waits gets it too; that nobody does is no news


class Pending:
    """One command from its arrival to its answer."""

    __slots__ = (
        "arrival",
        "arrived_s",
        "attempts",
        "binding",
        "call",
        "command",
        "expires_s",
        "followers",
        "found",
        "index",
        "key",
        "looked_up",
        "message",
        "outcome",
        "partition_key",
        "presumed_new",
        "read_streams",
        "records",
        "records_bytes",
        "snapshot",
        "stream",
        "streams",
        "suspect",
    )

    def __init__(
        self,
        arrival: int,
        arrived_s: float,
        message: CommandMessage,
        binding: CommandBinding,
        command: Command,
        call: OpenCall,
        index: int,
    ) -> None:
        self.arrival = arrival
        """Rises with each command that arrives at the host; the order in which a shard decides."""
        self.arrived_s = arrived_s
        self.expires_s = arrived_s + message.patience_ms / 1000
        self.message = message
        self.binding = binding
        self.command = command
        self.partition_key = binding.partition_key(command)
        self.stream = binding.stream(command)
        self.key = (message.command_id, self.stream)
        """What may cause events once."""
        self.read_streams = binding.read_streams(self.partition_key)
        self.streams = (self.stream, *self.read_streams)
        """What has to be in memory before it can be decided, unless its own is presumed to be new."""
        self.call = call
        self.index = index
        self.looked_up = message.first_send
        """Whether the log has been asked for this id; a drawn id's first send needs not ask."""
        self.found: EventRecord | None = None
        """The first event that this id caused, if the log has one."""
        self.outcome: Answer | None = None
        """What was decided; told only once all that it was decided on is stored."""
        self.presumed_new = False
        """Whether its events were decided without its stream having been read."""
        self.records: Sequence[EventRecord] = ()
        """The events decided and not yet known to be stored."""
        self.records_bytes = 0
        """What these take in memory, about."""
        self.snapshot: Snapshot | None = None
        """The aggregate's, taken after these events, to be kept once they are stored."""
        self.followers: list[Pending] = []
        """Copies of this command that arrived while its events were on their way to the log."""
        self.attempts: tuple[bytes, ...] = ()
        """Ids of first events that were sent to the store without learning what became of them."""
        self.suspect = False
        """Whether it was part of an append that the store refused, and is decided again with care."""

    def described(self) -> dict[str, Any]:
        """Return the fields by which log lines tell this command."""
        metadata = json.loads(self.message.metadata or "{}")
        about = {"stream": self.stream, "command": self.message.command_type}
        return about | command_fields(self.message.command_id, metadata)

    def undo(self) -> None:
        """Forget what was decided; the log is asked for the id before it is decided again."""
        if self.records:
            self.attempts += (self.records[0].event_id,)
        self.outcome, self.records, self.records_bytes, self.snapshot, self.followers = None, (), 0, None, []
        self.looked_up, self.found, self.presumed_new = False, None, False
