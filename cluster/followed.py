"""Which projection host follows which shards, and who has to be told: projection hosts what to follow, hosts whom to
push to.

Nothing of it is in the store, since nothing depends on it: a checkpoint moves only from where it is, so two projection
hosts that follow one shard count each event once. A shard that moves is let go of first and then given, so that a
handler gets no event twice but from a process that is too slow. Each word is said again after a while, in case it was
lost, or an older one came later. Not here: the processes and their places (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Generic, Protocol, TypeVar

import structlog

from cluster.placement import place
from cluster.supervision import Processes, ProcessLost

log = structlog.get_logger(__name__)

Word = TypeVar("Word")

LET_GO_S = 1.0
"""How long one may take to do as it is told; then it does so later, and others go on without it."""


class ProjectionProcesses(Processes, Protocol):
    """Projection hosts."""

    async def follow(self, name: str, shards: Collection[int]) -> None:
        """Let one follow these shards and no others; returns once it does. Raises what keeps it from that."""
        ...

    async def followed(self, name: str) -> list[int]:
        """Return the shards that one was last told to follow."""
        ...


class Telling(Generic[Word]):
    """What each process of a kind was last told. One word to each is under way at a time, so that none overtakes."""

    def __init__(self, tell: Callable[[str, Word], Awaitable[None]], again_s: float) -> None:
        """`again_s`: after so long the same is said again."""
        self._tell = tell
        self._again_s = again_s
        self._told: dict[str, tuple[Word, float]] = {}
        self._under_way: set[str] = set()

    def busy(self, name: str) -> bool:
        """Whether a word to that one is under way."""
        return name in self._under_way

    def due(self, name: str, word: Word) -> bool:
        """Whether that one is to be told this now."""
        if name in self._under_way:
            return False
        told, at_s = self._told.get(name, (None, 0.0))
        return told != word or asyncio.get_running_loop().time() - at_s >= self._again_s

    def tell(self, name: str, word: Word) -> Awaitable[None]:
        """Tell it; under way from now on. To be awaited; raises what `tell` does, and then it is due again later."""
        self._under_way.add(name)

        async def said() -> None:
            try:
                async with asyncio.timeout(LET_GO_S):
                    await self._tell(name, word)
            except TimeoutError:
                log.warning("a process is slow to do as it is told; it is told again", process=name)
            finally:
                if name in self._under_way:
                    self._under_way.discard(name)
                    self._told[name] = word, asyncio.get_running_loop().time()

        return said()

    def over(self, name: str) -> None:
        """That one is gone; a word to it that is under way is of no matter any more."""
        self._told.pop(name, None)
        self._under_way.discard(name)


class FollowedShards:
    """The shards of one store and the projection hosts that follow them."""

    def __init__(self, shards: int, processes: ProjectionProcesses, again_s: float) -> None:
        self.owners: dict[int, str] = {}
        """The projection host of each shard, those that have been there for longest first; a free one is missing."""
        self._shards = shards
        self._processes = processes
        self._telling = Telling[frozenset[int]](self._follow, again_s)

    def by_host(self) -> dict[str, list[int]]:
        """Return the shards of each projection host that has some."""
        found: dict[str, list[int]] = {}
        for shard in sorted(self.owners):
            found.setdefault(self.owners[shard], []).append(shard)
        return found

    def of(self, host: str) -> frozenset[int]:
        """Return the shards of a projection host."""
        return frozenset(shard for shard, owner in self.owners.items() if owner == host)

    def over(self, host: str) -> None:
        """A projection host has ended: its shards are free."""
        self.owners = {shard: owner for shard, owner in self.owners.items() if owner != host}
        self._telling.over(host)

    def settled(self, serving: Sequence[str]) -> bool:
        """Whether each shard is where it belongs, if these serve."""
        return self.owners == place(self._shards, serving, self.owners)

    async def begin(self, serving: Sequence[str]) -> None:
        """Let these follow all shards; returns once they do. Raises what keeps one from that."""
        self.owners = place(self._shards, serving, {})
        await asyncio.gather(*(self._processes.follow(host, self.of(host)) for host in serving))

    async def resume(self, hosts: Sequence[str]) -> None:
        """Find out what these follow already."""
        for host, shards in zip(hosts, await asyncio.gather(*map(self._followed, hosts)), strict=True):
            self.owners |= dict.fromkeys(shards, host)

    def due(self, there: Sequence[str], serving: Sequence[str]) -> list[tuple[str, Awaitable[None]]]:
        """Begin to tell whoever is to be told now; each of it is to be awaited, and raises what keeps it from that.

        `there`: all processes; `serving`: those that are to follow shards. One that has to let go of some does that
        first; what it has let go of is free, and given by a later call.
        """
        target = place(self._shards, serving, self.owners)
        words: list[tuple[str, Awaitable[None]]] = []
        for host in there:
            if self._telling.busy(host):
                continue
            owned = self.of(host)
            shards = frozenset(shard for shard in owned if target.get(shard) == host)
            if shards == owned:
                shards |= {shard for shard, to in target.items() if to == host and shard not in self.owners}
                self.owners |= dict.fromkeys(sorted(shards - owned), host)
            if self._telling.due(host, shards):
                words.append((host, self._telling.tell(host, shards)))
        return words

    async def _follow(self, host: str, shards: frozenset[int]) -> None:
        try:
            await self._processes.follow(host, shards)
        finally:
            self.owners = {shard: owner for shard, owner in self.owners.items() if owner != host or shard in shards}

    async def _followed(self, host: str) -> list[int]:
        try:
            async with asyncio.timeout(LET_GO_S):
                return await self._processes.followed(host)
        except (TimeoutError, ProcessLost):
            return []
