"""What a host says of itself when it is asked. Not here: who asks, and what follows (`cluster/supervision.py`)."""

from __future__ import annotations

from typing import NamedTuple

from actors.snapshots import SnapshotCounts


class HostHealth(NamedTuple):
    """What a host says of itself; taken on its event loop, `loop_age_s` ago."""

    shards: dict[int, int]
    """Epoch by shard."""
    heads: dict[int, int]
    """Position of the last stored event by shard."""
    live_aggregates: int
    pending_commands: int
    oldest_pending_s: float
    loop_age_s: float
    commits: int
    """Transactions committed since the host began."""
    events: int
    """Events stored since the host began."""
    fenced: int
    """Shards lost to a higher epoch since the host began."""
    snapshots: SnapshotCounts = SnapshotCounts()
    unknown_outcomes: int = 0
    """Appends whose reply was lost since the host began."""
    duplicates: int = 0
    """Commands since the host began that were answered with the receipt of an earlier sending."""
