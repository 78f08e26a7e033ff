"""Which commands are decided without their aggregate's stream being read, since it is presumed to be new.

The stream of a new order has nothing to be read, and asking the log for it takes as long as if it had. So a command of
a type that has begun new streams time after time is decided on an aggregate without events. If the stream has some
after all, the log's unique key of stream and version refuses what was decided; then it is read, and decided again. Why
that is safe: docs/adr/0018-streams-presumed-to-be-new.md. Not here: deciding (`shard.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

PENALTY = 4
RARE = 100_000
"""Streams that were begun by a type between two refusals, with which the second one is no reason to presume less."""


class NewStreams:
    """What a host has learned of the streams of its commands, by the commands' type."""

    def __init__(self, presumed_after: int) -> None:
        """`presumed_after`, 1 or more: streams in a row that were begun, before the next one is presumed to be new."""
        self._presumed_after = presumed_after
        self._in_a_row: Counter[str] = Counter()
        self._needed: dict[str, int] = {}
        self._since_refused: Counter[str] = Counter()

    def presumes(self, command_type: str) -> bool:
        """Whether the stream of such a command is presumed to be new."""
        return self._in_a_row[command_type] >= self._needed.get(command_type, self._presumed_after)

    def began(self, command_type: str) -> None:
        """Such a command has begun a stream: its first event is stored."""
        self._in_a_row[command_type] += 1
        self._since_refused[command_type] += 1

    def began_none(self, command_type: str) -> None:
        """A stream that was read for such a command has events, or one that was presumed to be new was not begun."""
        self._in_a_row[command_type] = 0

    def refused(self, command_types: Iterable[str]) -> None:
        """The store has refused an append in which streams were presumed to be new, for commands of these types.

        Each such append has its price (it is decided anew, with care), so the next one of a type is made rarer, unless
        it is rare.
        """
        for command_type in command_types:
            needed = PENALTY * self._needed.get(command_type, self._presumed_after)
            rare = self._since_refused[command_type] >= RARE
            self._needed[command_type] = self._presumed_after if rare else needed
            self._in_a_row[command_type] = self._since_refused[command_type] = 0
