"""Forgetting live aggregates: those that are idle, and of the others the least recently used, down to a bound.

What is forgotten is read again when it is asked for. Not here: when (`hosting.py`), and what is needed (`shard.py`).
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator
from itertools import islice, takewhile
from operator import itemgetter

from actors.shard import Shard


def forget_unused(shards: Collection[Shard], live_max: int, idle_since_s: float) -> None:
    """Forget what was last used at `idle_since_s` or before, and more if over `live_max` are left, oldest use first.

    None that anything undone stands on is forgotten, so more than `live_max` may stay for a while.
    """
    excess = sum(len(shard.live) for shard in shards) - live_max
    oldest_uses = [used_s for shard in shards for used_s, _ in islice(shard.live.by_use(), 1)]
    if excess <= 0 and min(oldest_uses, default=idle_since_s + 1) > idle_since_s:
        return
    by_use = heapq.merge(*map(_unneeded, shards), key=itemgetter(0))
    chosen = [*islice(by_use, max(excess, 0)), *takewhile(lambda found: found[0] <= idle_since_s, by_use)]
    for _, shard, stream in chosen:
        shard.live.forget(stream)


def _unneeded(shard: Shard) -> Iterator[tuple[float, Shard, str]]:
    return ((used_s, shard, stream) for used_s, stream in shard.unneeded())
