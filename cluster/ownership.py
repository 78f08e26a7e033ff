"""Which host serves which shard, and changing that: free shards are given to a host, served ones are moved.

The truth is in the store; this is what the coordinator knows of it, and the steps by which it changes it. A move: the
old host finishes what these shards have in hand and releases them, the store says who is meant to serve them, the new
host claims them with empty memory. Where a step fails, the shards are free, and given anew. Not here: when, and to
whom (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import structlog
from tenacity import AsyncRetrying, RetryCallState, stop_after_delay, stop_never, wait_random_exponential

from actors.health import HostHealth
from cluster.settings import Settings
from cluster.supervision import Processes, ProcessLost
from store.errors import StoreUnavailable
from store.ports import EventStore

log = structlog.get_logger(__name__)

Answer = TypeVar("Answer")


class HostProcesses(Processes, Protocol):
    """Hosts."""

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        """Let a host claim those of the shards that are assigned to it; return their epochs."""
        ...

    async def release(self, name: str, shards: Iterable[int]) -> None:
        """Let a host finish what these shards have in hand, and forget them."""
        ...

    async def push_to(self, name: str, projection_hosts: Mapping[str, Sequence[int]]) -> None:
        """Tell a host to which processes the committed events of which shards are pushed."""
        ...


class Transit(NamedTuple):
    """A shard on its way."""

    source: str | None
    """The host that gives it up; None: nobody serves it."""
    target: str


class Ownership:
    """Who serves each shard of one store, for one generation of its coordinator."""

    def __init__(self, store: EventStore, hosts: HostProcesses, settings: Settings, generation: int) -> None:
        self.owners: dict[int, str] = {}
        """The host that serves each shard, the longest served first; those that nobody serves are missing."""
        self.epochs: dict[int, int] = {}
        """As of the last claim that is known here."""
        self.transits: dict[int, Transit] = {}
        """The shards that are on their way; `owners` names their old host until they have arrived."""
        self.hosts: set[str] = set()
        """The hosts that may serve shards: from when they are open until `over`."""
        self.moved = 0
        """Shards that have been moved from one host to another since the coordinator began."""
        self._store = store
        self._hosts = hosts
        self._settings = settings
        self._generation = generation
        self._missing: dict[str, set[int]] = {}

    def bound_for(self) -> dict[int, str]:
        """Return the host of each shard, and where it goes if it is on its way."""
        return {**self.owners, **{shard: transit.target for shard, transit in self.transits.items()}}

    def free(self) -> list[int]:
        """Return the shards that nobody serves and that are not on their way."""
        return [n for n in range(self._store.shards) if n not in self.owners and n not in self.transits]

    def served_by(self, host: str) -> dict[int, int]:
        """Return the epochs of the shards that a host serves."""
        return {shard: self.epochs.get(shard, 0) for shard, owner in self.owners.items() if owner == host}

    def concerns(self, host: str) -> bool:
        """Whether a host serves shards, or gives or gets some."""
        return host in self.owners.values() or any(host in transit for transit in self.transits.values())

    def serves(self, host: str, epochs: Mapping[int, int]) -> None:
        """A host serves these shards, by these epochs."""
        self.epochs |= epochs
        self.owners |= dict.fromkeys(epochs, host)

    def over(self, host: str) -> None:
        """A host has been fenced and ended: its shards are free."""
        self.hosts.discard(host)
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner != host}
        self._missing.pop(host, None)

    def found(self, host: str, health: HostHealth) -> None:
        """A host says what it serves: what it should serve and lacks, for the second time, is free.

        So it is when a coordinator dies between two steps of a move, or its last words to a host arrive late.
        """
        should = {shard for shard, owner in self.owners.items() if owner == host and shard not in self.transits}
        lacking = should - health.shards.keys()
        for shard in lacking & self._missing.get(host, set()):
            log.warning("a host does not serve what it should; it is given anew", host=host, shard=shard)
            del self.owners[shard]
        self._missing[host] = lacking & self.owners.keys()

    def give(self, shards: Iterable[int], host: str) -> Awaitable[None]:
        """Let a host serve shards that nobody serves, on their way from now on. What it can't claim stays free.

        To be awaited. Raises ProcessLost, Superseded, and StoreUnavailable where that won't pass.
        """
        shards = list(shards)
        return self._on_the_way(dict.fromkeys(shards, Transit(None, host)), self._assign_and_claim(shards, host))

    def move(self, shards: Iterable[int], source: str, target: str) -> Awaitable[None]:
        """Move shards, which are on their way from now on, from a host that serves them to another.

        To be awaited; where it fails, they are free, or still served. Raises ProcessLost, Superseded, and
        StoreUnavailable where that won't pass.
        """
        shards = list(shards)
        return self._on_the_way(dict.fromkeys(shards, Transit(source, target)), self._move(shards, source, target))

    def _on_the_way(self, transits: Mapping[int, Transit], moving: Awaitable[None]) -> Awaitable[None]:
        """Note what is on its way at once: who looks before the moving begins must not begin another one."""
        self.transits |= transits

        async def arrive() -> None:
            try:
                await moving
            finally:
                for shard in transits:
                    del self.transits[shard]

        return arrive()

    async def _move(self, shards: list[int], source: str, target: str) -> None:
        await self._release(shards, source)
        for shard in shards:
            self.owners.pop(shard, None)
        await self._assign_and_claim(shards, target)
        self.moved += len(shards)

    async def _release(self, shards: list[int], source: str) -> None:
        """Let a host finish and forget shards; if that takes too long, it is fenced by the next claim instead."""
        try:
            async with asyncio.timeout(self._settings.release_timeout_s):
                await self._hosts.release(source, shards)
        except TimeoutError:
            log.warning("a host is slow to release shards; they are taken from it", host=source, shards=shards)

    async def _assign_and_claim(self, shards: list[int], host: str) -> None:
        await while_it_may_pass(lambda: self._store.assign(self._generation, dict.fromkeys(shards, host)))
        claimed: Mapping[int, int] = await while_it_may_pass(lambda: self._hosts.claim(host, shards))
        if host not in self.hosts:
            raise ProcessLost(host, "it was lost while it claimed shards")
        self.serves(host, claimed)
        if missing := set(shards) - claimed.keys():
            log.warning("a host could not claim shards", host=host, shards=sorted(missing))


async def while_it_may_pass(work: Callable[[], Awaitable[Answer]], within_s: float | None = None) -> Answer:
    """Do it, again and again while the store can't be used for reasons that may pass; for so long, if that is said."""
    stop = stop_never if within_s is None else stop_after_delay(within_s)
    async for again in AsyncRetrying(retry=_may_pass, wait=wait_random_exponential(0.02, 1), stop=stop, reraise=True):
        with again:
            return await work()
    raise AssertionError("it neither returned nor raised")


def _may_pass(state: RetryCallState) -> bool:
    error: BaseException | None = state.outcome.exception() if state.outcome else None
    return isinstance(error, StoreUnavailable) and error.passing
