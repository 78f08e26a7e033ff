"""What a subscriber has of the log and its sink has not taken yet, each shard's in order and without a gap.

Records are pushed, or read from the store where pushes left something out. Not here: when either is done, and what
becomes of the records (`subscriber.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

from store.ports import EventReader
from store.records import EventRecord


class Backlog:
    """The records of some shards that wait. Belongs to one event loop."""

    def __init__(self, size_max: int) -> None:
        """`size_max`: past it what is pushed is left to be read later."""
        self.records: list[EventRecord] = []
        """What is to be taken next, from the beginning on."""
        self.behind: set[int] = set()
        """Shards of which something has to be read from the store."""
        self._next: dict[int, int] = {}
        """The position each shard's next record must have; between checkpoint and here is what waits."""
        self._size_max = size_max

    def push(self, records: Sequence[EventRecord], blocked: Container[int]) -> None:
        """Take committed records, each shard's in position order, but those of `blocked` shards.

        What comes twice is trimmed; after a gap, or beyond the bound, the shard is read from the store instead.
        """
        following, queue = self._next, self.records
        room = self._size_max - len(queue)
        for record in records:
            expected = following.get(record.shard)
            if expected is None or record.position < expected:
                continue
            if record.position == expected and room > 0 and record.shard not in blocked:
                queue.append(record)
                following[record.shard] = expected + 1
                room -= 1
            else:
                self.behind.add(record.shard)

    async def read(self, store: EventReader, shard: int, room: int) -> Sequence[EventRecord]:
        """Read a shard's next records, at most so many; return what there was, also what pushes brought meanwhile."""
        records = await store.read_shard(shard, self._next[shard] - 1, room)
        if len(records) < room:
            self.behind.discard(shard)
        return records

    def add(self, shard: int, records: Sequence[EventRecord]) -> bool:
        """Put records behind what waits of their shard, but for what pushes brought; return whether any was new."""
        fresh = [record for record in records if record.position >= self._next[shard]]
        if not fresh or fresh[0].position != self._next[shard]:
            return False
        self.records += fresh
        self._next[shard] = fresh[-1].position + 1
        return True

    def wants(self, shard: int, position: int) -> None:
        """Let a shard be read where what waits does not go up to there."""
        if self._next[shard] <= position:
            self.behind.add(shard)

    def compare(self, heads: Mapping[int, int]) -> None:
        """Let each shard be read whose log goes on behind what waits."""
        self.behind |= {shard for shard, expected in self._next.items() if heads.get(shard, 0) >= expected}

    def go_on_from(self, positions: Mapping[int, int]) -> None:
        """Forget what waits of these shards; what comes behind these positions is read."""
        self.records = [record for record in self.records if record.shard not in positions]
        self._next |= {shard: position + 1 for shard, position in positions.items()}
        self.behind |= positions.keys()

    def taken(self, positions: Mapping[int, int]) -> None:
        """Forget what waits of these shards up to these positions."""
        self.records = [record for record in self.records if record.position > positions.get(record.shard, 0)]

    def let_go(self, shards: Collection[int]) -> None:
        """Forget these shards."""
        self.records = [record for record in self.records if record.shard not in shards]
        self.behind -= set(shards)
        for shard in shards:
            self._next.pop(shard, None)
