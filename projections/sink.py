"""The port between a subscriber and what it does with events.

Not here: following the log (`subscriber.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple, Protocol

from store.errors import EventrayError
from store.records import Checkpoint, EventRecord

NO_DELAYS: Mapping[int, float] = {}


class Taken(NamedTuple):
    """What a sink did with a batch."""

    applied: int
    """Events by which this call moved checkpoints."""
    positions: dict[int, int]
    """Where each shard of the batch is now. Before its last record: the rest was not taken, and comes again. Elsewhere
    than from the checkpoint to there: somebody else has moved it."""
    failed: dict[int, EventrayError]
    """Shards whose next event can't be taken, and why: they are tried again later, ever more slowly."""
    again_in_s: Mapping[int, float] = NO_DELAYS
    """When to try those again, where the sink says so."""


class Sink(Protocol):
    """What a subscriber does with events, and where it keeps how far it is."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def subscriber(self) -> str:
        """The name that its checkpoints are kept under."""
        ...

    @property
    def restored_remedy(self) -> str:
        """What to do where the log was restored to before a checkpoint."""
        ...

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        """Make what is missing; return the checkpoint of each shard: `begin`'s, kept from now on, where it had none.

        Called with all shards that are followed from now on, each time that some come to them.
        """
        ...

    def let_go(self, shards: Collection[int]) -> None:
        """These shards come no more; another process may follow them already."""
        ...

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        """Take records: of each shard the next ones after its checkpoint, in order; move the checkpoints.

        An error that it raises holds up all shards: the batch is taken again later, ever more slowly.
        """
        ...

    async def tend(self) -> dict[int, int]:
        """Look after what is in no batch; called about once a second, between takes.

        Returns the checkpoints that somebody else has put elsewhere: the subscriber goes on from there.
        """
        ...
