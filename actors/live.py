"""The aggregates that a shard keeps in memory, and when each was last used.

Not here: which of them may be forgotten (`shard.py`), and how many there may be (`hosting.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from actors.aggregate import Aggregate


class LiveAggregates(dict[str, Aggregate]):
    """Aggregates by stream. A dict, since every command looks into it; change it by these methods only."""

    def __init__(self) -> None:
        super().__init__()
        self._used_s: dict[str, float] = {}
        """When each was last used, on the host's monotonic clock; least recently used first."""

    def add(self, loaded: Mapping[str, Aggregate], now_s: float) -> None:
        """Take in aggregates that were just loaded or made."""
        self.update(loaded)
        for stream in loaded:
            self.use(stream, now_s)

    def use(self, stream: str, now_s: float) -> Aggregate:
        """Return the aggregate of a stream; it is the one used last from now on."""
        aggregate, used_s = self[stream], self._used_s
        used_s.pop(stream, None)  # so that it is put at the end
        used_s[stream] = now_s
        return aggregate

    def forget(self, stream: str) -> None:
        """Drop an aggregate, if it is there."""
        self.pop(stream, None)
        self._used_s.pop(stream, None)

    def forget_all(self) -> None:
        """Drop all of them."""
        self.clear()
        self._used_s.clear()

    def by_use(self) -> Iterator[tuple[float, str]]:
        """Yield when each was last used, and its stream, least recently used first."""
        return ((used_s, stream) for stream, used_s in self._used_s.items())
