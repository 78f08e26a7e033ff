"""`eventray events --follow`: events as they are stored, until Ctrl-C. No Ray is started: the log is read.

Not here: how an event is shown (`reading.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from projections.progress import SubscriberLimits
from projections.sink import Taken
from projections.subscriber import Subscriber
from store.identity import checked_stream
from store.opening import open_store
from store.records import Checkpoint, EventRecord

LIMITS = SubscriberLimits(batch_size_max=1_000, apply_interval_s=0.0, heads_interval_s=0.2)
PAGE_SIZE = 1_000

Show = Callable[[EventRecord], None]


async def follow(url: str, stream: str | None, show: Show) -> None:
    """Show each event that is stored from now on; of one stream, those that it has first. Never returns.

    Raises InvalidValue for what can be no stream, and what `open_store` does.
    """
    if stream is not None:
        checked_stream(stream)
    store = await open_store(url, create=False)
    try:
        sink = ShowingSink(stream, show)
        subscriber = Subscriber(store, sink, range(store.shards), start="now", limits=LIMITS)
        await subscriber.start()
        while stream is not None and (page := await store.read_stream(stream, sink.version, PAGE_SIZE)):
            sink.show(page)
        await subscriber.run()
    finally:
        await store.close()


class ShowingSink:
    """Shows events of one stream, or of all (None); see `Sink`."""

    name = subscriber = "events --follow"
    restored_remedy = "begin again"

    def __init__(self, stream: str | None, show: Show) -> None:
        self._stream, self._show = stream, show
        self.version = 0
        """The last one shown of that stream."""

    def show(self, records: Sequence[EventRecord]) -> None:
        """Show those that are wanted and were not shown yet."""
        for record in records:
            if self._stream is None:
                self._show(record)
            elif record.stream == self._stream and record.version > self.version:
                self._show(record)
                self.version = record.version

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        return dict(begin)

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        self.show(batch)
        return Taken(len(batch), {record.shard: record.position for record in batch}, {})

    def let_go(self, shards: Collection[int]) -> None:
        """It follows all shards until it ends."""

    async def tend(self) -> dict[int, int]:
        return {}
