"""What a coordinator says of its runtime. Values only; not here: how they are shown."""

from __future__ import annotations

from typing import NamedTuple

from actors.health import HostHealth
from cluster.spreading import Node


class ProcessStatus(NamedTuple):
    """One place and the process in it."""

    title: str
    """Of the place; stays when the process is replaced."""
    name: str | None
    """The process that serves, or is to; a Ray actor's name in the runtime's namespace."""
    node: str | None
    """The id of its Ray node; None: not known yet."""
    state: str
    """`serving`, `starting`, or `leaving` (it is being emptied)."""
    shards: dict[int, int]
    """Epoch by shard that it serves; 0 for those that a projection host follows."""
    health: HostHealth | None
    """What it said at the last poll."""
    failure: str
    """Why the last process in this place was lost or could not begin; empty while one serves."""


class Moving(NamedTuple):
    """A shard on its way."""

    shard: int
    source: str | None
    """The host that gives it up; None: nobody served it."""
    target: str


class RuntimeStatus(NamedTuple):
    """A runtime as its coordinator sees it."""

    store_id: str
    generation: int
    """Of the store's holder: this coordinator."""
    detached: bool
    """Whether it runs until it is told to end, and not as long as the process that opened it."""
    hosts_wanted: int
    nodes: list[Node]
    hosts: list[ProcessStatus]
    projection_hosts: list[ProcessStatus]
    moving: list[Moving]
    free: list[int]
    """Shards that nobody serves."""
    moved: int
    """Shards moved from host to host since the coordinator began."""
    settled: bool
    """Whether all is as wanted: every host serves, every shard is where it belongs."""
    metrics: str = ""
    """The URL at which the exporter serves; empty while it doesn't."""
    exporter: ProcessStatus | None = None
    """None: settings want none, or it has not begun."""
