"""Keeping a runtime as it is wanted: as many hosts, on the right nodes, each with its share of the shards.

One `step` compares what is with what is wanted, begins what can be done about it, and waits for none of that; what
ends wakes the next step. Ray-free. Not here: which host gets which shards (`placement.py`), the steps of a move
(`ownership.py`), which projection host follows what (`followed.py`), the places of processes (`places.py`), taking the
store (`coordination.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import structlog

from actors.health import HostHealth
from cluster.followed import FollowedShards, ProjectionProcesses, Telling
from cluster.ownership import HostProcesses, Ownership, while_it_may_pass
from cluster.placement import place
from cluster.places import Places, Spawn, cancelled
from cluster.settings import Settings
from cluster.spreading import Node, Suspects, node_for
from cluster.supervision import Duty, ProcessLost
from store.errors import EventrayError, Superseded
from store.ports import EventStore
from store.records import Route

log = structlog.get_logger(__name__)

BEGINNING_PATIENCE_S = 10.0
"""How long shards stay where they are while a host that is to get some begins; those that nobody serves never wait."""


class Nodes(Protocol):
    """The nodes of the cluster."""

    async def read(self) -> list[Node]:
        """Return those that are alive. Raises ProcessLost where that can't be told now."""
        ...


class Steward:
    """What goes on in one runtime, for one generation of its coordinator."""

    def __init__(
        self,
        store: EventStore,
        hosts: HostProcesses,
        followers: ProjectionProcesses,
        nodes: Nodes,
        settings: Settings,
        generation: int,
        spawn: Spawn,
    ) -> None:
        """`spawn` runs a coroutine beside the others; its error ends the coordinator."""
        self.wanted = 0
        """Hosts."""
        self.nodes: list[Node] = []
        """As last read; none if Ray could not be asked yet."""
        self.ownership = Ownership(store, hosts, settings, generation)
        self.followed = FollowedShards(store.shards, followers, settings.poll_interval_s)
        self.settled = asyncio.Event()
        """Set while all is as wanted."""
        self._store = store
        self._host_processes = hosts
        self._follower_processes = followers
        self._node_source = nodes
        self._settings = settings
        self._generation = generation
        self._spawn = spawn
        self._loop = asyncio.get_running_loop()
        self._suspects = Suspects()
        self._begins_s: dict[str, float] = {}
        """Since when a place is without a process that serves, by title."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._moving = False
        self._watching: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        duty = Duty(self._fence, self._host_serves, self._host_said, self._failed, self._over)
        self.hosts = Places("host", hosts, settings, generation, duty, self._choose_node, spawn)
        duty = Duty(_no_fence, self._follower_serves, _nothing_said, self._failed, self._over)
        self.followers = Places("projections", followers, settings, generation, duty, self._choose_node, spawn)
        """Of projection hosts."""
        self._pushing = Telling[dict[str, list[int]]](hosts.push_to, settings.poll_interval_s)

    async def begin(self, wanted: int) -> None:
        """Bring up the first processes and give the hosts all shards; returns once they serve.

        Raises what keeps them from that.
        """
        self.wanted = wanted
        await self._read_nodes()
        self._adjust()
        await asyncio.gather(*(each.serving for kind in self._kinds for each in kind.all))
        await self.followed.begin(self.followers.serving)  # first: what begins with "now" must miss nothing
        target = place(self._store.shards, self.hosts.serving, {})
        await asyncio.gather(*(self.ownership.give(_of(target, host), host) for host in {*target.values()}))

    async def resume(self, wanted: int, routes: Sequence[Route]) -> None:
        """Go on where an earlier coordinator of this runtime has stopped: its processes stay at work."""
        self.wanted = wanted
        await self._read_nodes()
        for name, node in sorted((await self._host_processes.adopt()).items()):
            self.ownership.hosts.add(name)
            self.hosts.add((name, node))
        adopted = await self._follower_processes.adopt()
        for name, node in sorted(adopted.items()):
            self.followers.add((name, node))
        await self.followed.resume(sorted(adopted))
        hosts = sorted(self.ownership.hosts)
        for host, said in zip(hosts, await asyncio.gather(*map(self._said_by, hosts)), strict=True):
            meant = {route.shard: route.epoch for route in routes if route.host == host}
            served = {shard: epoch for shard, epoch in meant.items() if said is None or said.get(shard) == epoch}
            self.ownership.serves(host, served)
        for lost in {route.host for route in routes if route.host is not None}.difference(hosts):
            await self._store.end_writer(lost)
        log.info("the runtime goes on", hosts=hosts, free=self.ownership.free())

    async def run(self) -> None:
        """Keep it as it is wanted, until cancelled."""
        self._watching = self._spawn(self._watch_nodes())
        while True:
            self.step()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.poll_interval_s):
                    await self._wake.wait()
            self._wake.clear()

    async def want(self, hosts: int) -> None:
        """Keep so many hosts from now on; the store says so first."""
        await while_it_may_pass(lambda: self._store.want_hosts(self._generation, hosts))
        self.wanted = hosts
        self.look()

    def look(self) -> None:
        """Let the next step tell anew whether all is as wanted."""
        self.settled.clear()
        self._wake.set()

    async def end_strays(self) -> None:
        """See `Places.end_strays`."""
        for kind in self._kinds:
            await kind.end_strays()

    async def stop(self) -> None:
        """End all processes, each after what it has in hand. `run` must have been cancelled."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.close_timeout_s)
        await self._end_tasks()
        for kind in self._kinds:
            await kind.stop()

    async def abandon(self) -> None:
        """End all processes at once."""
        await self._end_tasks()
        for kind in self._kinds:
            await kind.abandon()

    async def leave(self) -> None:
        """End what goes on here, and leave all processes at work."""
        await self._end_tasks()
        for kind in self._kinds:
            await kind.leave()

    # --- one step ---

    def step(self) -> None:
        """Begin what can be done now about what is not as wanted."""
        self._adjust()
        target = place(self._store.shards, self.hosts.serving, self.ownership.bound_for())
        self._give_free(target)
        self._tell()
        moves = self._moves(target)
        if moves and not self._moving and not self._awaits_a_beginner():
            self._moving = True
            self._do(self._move(*self._begun_move(moves)))
        self._give_up_places()
        moving = moves or self.ownership.free() or self.ownership.transits
        if moving or not self.followed.settled(self.followers.serving) or not self._all_serve():
            self.settled.clear()
        else:
            self.settled.set()

    def _adjust(self) -> None:
        suspects = self._suspects.at(self._loop.time())
        self.hosts.adjust(self.wanted, self.nodes, suspects, Counter(self.ownership.owners.values()))
        self.followers.adjust(
            self._followers_wanted(), self.nodes, suspects, Counter(self.followed.owners.values())
        )  # fmt: skip

    def _followers_wanted(self) -> int:
        """How many projection hosts there should be: as settings say, else one a node that hosts are spread over."""
        if (wanted := self._settings.projection_hosts) is None:
            wanted = min(sum(node.usable for node in self.nodes), self.wanted)
        return max(1, min(wanted, self._store.shards))

    def _all_serve(self) -> bool:
        stay = all(each.name is not None and not each.leaving for kind in self._kinds for each in kind.all)
        return stay and not any(kind.ending for kind in self._kinds)

    def _tell(self) -> None:
        """Tell projection hosts what to follow, and hosts whom to push to; where that fails, the log is read."""
        there = [each.name for each in self.followers.all if each.name is not None]
        for name, telling in self.followed.due(there, self.followers.serving):
            self._do(self._attempt(telling, "telling a projection host what to follow", projections=name))
        routes = self.followed.by_host()
        for each in self.hosts.all:
            if each.name is not None and routes and self._pushing.due(each.name, routes):
                telling = self._pushing.tell(each.name, routes)
                self._do(self._attempt(telling, "telling a host where to push to", host=each.name))

    def _give_free(self, target: dict[int, str]) -> None:
        free = self.ownership.free()
        for host in {target[shard] for shard in free if shard in target}:
            shards = [shard for shard in free if target[shard] == host]
            self._do(self._attempt(self.ownership.give(shards, host), "giving shards", host=host))

    def _moves(self, target: dict[int, str]) -> list[tuple[int, str, str]]:
        """Shards that are served by one host and belong to another, those of hosts that leave first."""
        leaving = {each.name: each.leaving for each in self.hosts.all if each.name is not None}
        moves = [
            (shard, owner, target[shard])
            for shard, owner in sorted(self.ownership.owners.items())
            if owner in leaving and target.get(shard, owner) != owner
        ]
        return sorted(moves, key=lambda move: not leaving[move[1]])

    def _begun_move(self, moves: Sequence[tuple[int, str, str]]) -> tuple[Awaitable[None], str, str]:
        """Begin the first of some moves, together with what else goes the same way, as much as goes at once."""
        _, source, target = moves[0]
        shards = [shard for shard, *way in moves if way == [source, target]][: self._settings.shards_moving_max]
        return self.ownership.move(shards, source, target), source, target

    async def _move(self, moving: Awaitable[None], source: str, target: str) -> bool:
        moved = await self._attempt(moving, "moving shards", source=source, target=target)
        await asyncio.sleep(self._settings.move_pause_s if moved else self._settings.poll_interval_s)
        self._moving = False
        return True

    def _awaits_a_beginner(self) -> bool:
        """Whether a host that is to get shards begins, so that moving them now would be moving them twice."""
        now_s = self._loop.time()
        absent = {each.title for each in self.hosts.all if each.name is None and not each.leaving}
        self._begins_s = {title: self._begins_s.get(title, now_s) for title in absent}
        return any(now_s - since_s < BEGINNING_PATIENCE_S for since_s in self._begins_s.values())

    def _give_up_places(self) -> None:
        """Give up the places that leave and have nothing left to do."""
        for each in [each for each in self.hosts.all if each.leaving]:
            if each.process is None or not self.ownership.concerns(each.process):
                self.hosts.give_up(each)
        for each in [each for each in self.followers.all if each.leaving]:
            if each.process is None or not self.followed.of(each.process):
                self.followers.give_up(each)

    # --- what processes do ---

    async def _fence(self, host: str) -> None:
        """What a lost host has not committed by now never will be. Only who holds the store may see to that.

        It is read, not tried by a beat: the lost host may have the SQLite file locked.
        """
        if (await self._store.holding()).generation != self._generation:
            raise Superseded(self._generation)
        await self._store.end_writer(host)

    def _host_serves(self, host: str) -> None:
        self.ownership.hosts.add(host)
        self._wake.set()

    def _host_said(self, host: str, health: HostHealth) -> None:
        self._suspects.served(next((each.node for each in self.hosts.all if each.name == host), None))
        self.ownership.found(host, health)

    def _follower_serves(self, _projection_host: str) -> None:
        self._wake.set()

    def _failed(self, node: str | None) -> None:
        self._suspects.failed(node, self._loop.time())

    def _over(self, name: str) -> None:
        self.ownership.over(name)
        self.followed.over(name)
        self._pushing.over(name)
        self._wake.set()

    async def _said_by(self, host: str) -> dict[int, int] | None:
        """Return the epochs of the shards that a host says it serves; None if it says nothing in time."""
        with suppress(ProcessLost, TimeoutError):
            async with asyncio.timeout(self._settings.poll_timeout_s):
                if (health := await self._host_processes.health(host)) is not None:
                    return health.shards
        return None

    # --- nodes ---

    async def _watch_nodes(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval_s)
            await self._read_nodes()

    async def _read_nodes(self) -> None:
        """Read which nodes there are; if that can't be told, those that there were stay."""
        try:
            nodes = await self._node_source.read()
        except ProcessLost as error:
            log.info("the nodes can't be read", reason=error.reason)
            return
        if nodes != self.nodes:
            self.nodes = nodes
            self._wake.set()

    def _choose_node(self, held: Iterable[str | None]) -> str | None:
        return node_for(held, self.nodes, self._suspects.at(self._loop.time()))

    # --- parts ---

    @property
    def _kinds(self) -> list[Places]:
        return [self.hosts, self.followers]

    async def _end_tasks(self) -> None:
        await cancelled([*self._tasks, *([self._watching] if self._watching else [])])

    def _do(self, work: Coroutine[Any, Any, bool]) -> None:
        """Run a part of a step beside the others; the next step follows it if it was done."""

        async def run() -> None:
            if await work:
                self._wake.set()

        task = self._spawn(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _attempt(self, work: Awaitable[None], what: str, **context: Any) -> bool:
        """Do what a later step does again if it fails; return whether it was done. Raises Superseded only."""
        try:
            await work
        except Superseded:
            raise
        except EventrayError as error:
            say = log.info if isinstance(error, ProcessLost) else log.warning
            say(f"{what} has failed", reason=str(error), **context)
            return False
        return True


def _of(target: dict[int, str], host: str) -> list[int]:
    return [shard for shard, owner in target.items() if owner == host]


async def _no_fence(_name: str) -> None:
    """A projection host needs none: its checkpoints are conditional."""


def _nothing_said(_name: str, _health: HostHealth) -> None:
    """A projection host says nothing that the coordinator acts on."""
