"""How far a subscriber is, what keeps it, and the bounds that it keeps: values alone. Not here: following the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from store.errors import EventrayError

Start = Literal["beginning", "now"]
"""Where a subscriber begins that has no checkpoint yet: at the log's beginning, or behind all that is in it."""


@dataclass(frozen=True)
class SubscriberLimits:
    """Bounds of one subscriber."""

    batch_size_max: int = 5_000
    """Events applied in one transaction."""
    of_one_shard_max: int = 50_000
    """Of the events that are read from the store and wait, those of one shard, so that one with many leaves room to
    others."""
    buffer_size_max: int = 50_000
    """Pushed events held; what is pushed past it is read from the store later."""
    apply_interval_s: float = 0.04
    """At most between the beginnings of two transactions, unless a reader waits or a whole batch is there: each costs
    as much as a hundred events, and what it takes from a small machine the hosts miss."""
    apply_share: float = 0.5
    """The interval is shorter where transactions are quick: they take this part of the time. 0: it is never shorter."""
    heads_interval_s: float = 1.0
    """How often checkpoints are compared with the store's heads."""
    retry_first_s: float = 0.2
    retry_max_s: float = 30.0


class Progress(NamedTuple):
    """What one step did."""

    applied: int
    """Events by which checkpoints moved, those of types that the sink doesn't want too."""
    more: bool
    """There is more to do at once."""


class Lag(NamedTuple):
    """How far a subscriber is behind the log, and why."""

    subscriber: str
    shards: int
    applied: int
    """Events since it was started here."""
    behind: int
    """Events in the log that it has not taken, as of `heads_age_s` ago."""
    heads_age_s: float
    """Since the heads were last read from the store. Where it grows, `behind` says nothing."""
    blocked: dict[int, str]
    """Shards that stand still, and the error each waits for."""
    failure: str
    """Why nothing is applied at all, or nothing of shards that are to be followed; empty if all is well."""
    gap_reads: int
    """How often the store was read for events that no push had brought."""


@dataclass
class Trouble:
    """Something that failed and is tried again."""

    reason: str
    attempts: int
    retry_at: float
    since: float
    """When it failed first; no attempt has been good since."""

    @classmethod
    def after(
        cls,
        earlier: Trouble | None,
        error: EventrayError,
        now: float,
        limits: SubscriberLimits,
        delay_s: float | None = None,
    ) -> Trouble:
        """The next trouble, tried again after twice the time, or after `delay_s`."""
        attempts = earlier.attempts + 1 if earlier else 1
        if delay_s is None:
            delay_s = min(limits.retry_max_s, limits.retry_first_s * 2 ** min(attempts - 1, 20))
        return cls(str(error), attempts, now + delay_s, earlier.since if earlier else now)
