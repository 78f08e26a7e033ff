"""Reading a shard's whole log in pages of bounded size, for work over all of history.

Not here: following a log that grows (`projections/subscriber.py`).
"""

from __future__ import annotations

import gc
from bisect import bisect_right
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager

from store.columns import column
from store.ports import EventReader
from store.records import EventRecord

PAGE_RECORDS_MAX = 250
"""More is slower: a page's objects then outlive the collector's youngest generation, and the processor's caches."""
PAGE_BYTES = 4 * 1024 * 1024
"""How much of events' own fields a page is meant to hold; their metadata, each of which is small, come on top."""
SNAPSHOTS_PAGE = 1_000
"""Snapshots beside whose events one query looks: a fraction of a second also where all lie apart on a slow disk."""
FIRST_PAGE_RECORDS = 16
GROWTH = 4


async def read_log(
    reader: EventReader, shard: int, after_position: int, up_to: int
) -> AsyncIterator[Sequence[EventRecord]]:
    """Yield the records of a shard with positions above `after_position`, at most `up_to`, in order, page by page.

    Pages grow from a few records until they hold 250 or about 4 MiB, so that memory is bounded whatever the events'
    size. Ends where the log does, if that is before `up_to`.
    """
    limit = FIRST_PAGE_RECORDS
    while after_position < up_to:
        page = await reader.read_shard(shard, after_position, min(limit, up_to - after_position))
        positions = column(page, "position")
        if page and positions[-1] > up_to:  # only where positions have gaps
            page = page[: bisect_right(positions, up_to)]
        if not page:
            return
        yield page
        after_position = positions[len(page) - 1]
        record_bytes = sum(map(len, column(page, "data"))) // len(page) + 1
        limit = max(1, min(limit * GROWTH, PAGE_RECORDS_MAX, PAGE_BYTES // record_bytes))


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Look for garbage in cycles rarely within the block: events make none, and looking at each page costs much.

    For a process that does nothing else.
    """
    thresholds = gc.get_threshold()
    gc.set_threshold(200_000, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
