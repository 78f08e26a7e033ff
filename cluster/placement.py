"""Which host gets which shards, and whether a host is well: the decisions of the coordinator.

Pure functions of what is told. Not here: doing anything about it (`coordination.py`, `supervision.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from actors.health import HostHealth
from cluster.settings import Settings
from store.errors import InvalidValue
from store.values import is_count, shown


def place(shards: int, hosts: Sequence[str], owners: Mapping[int, str]) -> dict[int, str]:
    """Return a host for each shard: as evenly as can be, moving no more shards than that takes.

    `owners` says where shards are now, those that have been there for longest first: these stay. Shards of hosts that
    are not in `hosts` are free. Counts differ by at most one, the first of `hosts` having more. The same arguments, in
    the same order, give the same placement.
    """
    if not hosts:
        return {}
    kept: dict[str, list[int]] = {host: [] for host in hosts}
    for shard, owner in owners.items():
        if owner in kept:
            kept[owner].append(shard)
    free = [shard for shard in range(shards) if owners.get(shard) not in kept]
    quotas = _quotas(shards, kept)
    for host, held in kept.items():
        free.extend(held[quotas[host] :])
        del held[quotas[host] :]
    waiting = sorted(free, reverse=True)
    for host in hosts:
        while len(kept[host]) < quotas[host]:
            kept[host].append(waiting.pop())
    return {shard: host for host, held in kept.items() for shard in held}


def check_hosts(hosts: int, shards: int) -> None:
    """Raise InvalidValue for a number of hosts that can't be had."""
    if not is_count(hosts, shards):
        raise InvalidValue("hosts", shown(hosts), f"give 1 to {shards}: each needs a shard of its own")


def _quotas(shards: int, kept: Mapping[str, Iterable[int]]) -> dict[str, int]:
    """How many shards each host gets: the odd ones go to those that hold the most, so that these needn't move."""
    least, odd = divmod(shards, len(kept))
    fullest = sorted(kept, key=lambda host: -len(list(kept[host])))[:odd]
    return {host: least + (host in fullest) for host in kept}


def is_well(health: HostHealth, settings: Settings) -> bool:
    """Tell whether a host that answered does its work: its event loop turns and no command waits for too long."""
    return health.loop_age_s <= settings.loop_age_max_s and health.oldest_pending_s <= settings.oldest_pending_max_s


class Polls:
    """The polls of one process, in a row, by the clock that the caller goes by."""

    def __init__(self, settings: Settings, now_s: float) -> None:
        self._settings = settings
        self.missed = 0
        """Polls missed in a row."""
        self.next_s = now_s + settings.poll_interval_s
        """When to ask next."""

    def asked(self, now_s: float) -> None:
        """A poll begins."""
        self.next_s = now_s + self._settings.poll_interval_s

    def answered(self, well: bool) -> None:
        """A poll has ended; an answer that came too late, or says that the process hangs, is a missed one."""
        self.missed = 0 if well else self.missed + 1

    @property
    def doubtful(self) -> bool:
        """One more missed poll and it is lost: its successor may get ready."""
        return self.missed == self._settings.polls_missed_max - 1 > 0

    @property
    def lost(self) -> bool:
        """It has missed too many."""
        return self.missed >= self._settings.polls_missed_max
