"""A cluster without Ray: processes and nodes that only pretend, for a coordinator's decisions about them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from actors.health import HostHealth
from cluster.coordination import Coordination
from cluster.settings import Settings
from cluster.spreading import Node
from cluster.supervision import ProcessLost
from store import EventStore

WELL = HostHealth({}, {}, 0, 0, 0.0, 0.0, 0, 0, 0)
FAST = Settings(
    beat_interval_s=0.02,
    poll_interval_s=0.05,
    poll_timeout_s=0.02,
    open_timeout_s=5,
    close_timeout_s=0.2,
    move_pause_s=0.01,
    release_timeout_s=0.3,
)
NODE = Node("n-1", "10.0.0.1")


class Pretended:
    """Processes that do as they are told to."""

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self.running: dict[str, asyncio.Future[str]] = {}
        self.did: list[str] = []
        self.nodes: dict[str, str] = {}
        """Where each process was put."""
        self.serving: dict[str, dict[int, int]] = {}
        """The epochs of the shards that each host has claimed and not released."""
        self.hanging: set[str] = set()
        self.ill: set[str] = set()
        self.silent: set[str] = set()
        """Those that an adopting coordinator gets no answer from."""
        self.strange: set[str] = set()
        """Those that no coordinator that lives has made or taken up."""
        self.stuck: set[str] = set()
        """Those that never finish what a shard has in hand."""
        self.refusals: list[Exception] = []
        self.opening = asyncio.Event()
        """Cleared: no process gets ready meanwhile."""
        self.opening.set()
        self.pushed_to: dict[str, Mapping[str, Sequence[int]]] = {}
        self.following: dict[str, set[int]] = {}
        """The shards that each projection host was last told to follow."""

    def die(self, name: str) -> None:
        self.serving.pop(name, None)
        self.following.pop(name, None)
        self.running.pop(name).set_result("killed")

    async def start(self, name: str, node: str | None) -> None:
        self.did.append(f"start {name}")
        self.nodes[name] = node or NODE.node_id
        self.running[name] = asyncio.get_running_loop().create_future()

    async def adopt(self) -> dict[str, str]:
        for name in self.silent & self.running.keys():
            await self.kill(name)
        return {name: self.nodes[name] for name in self.running}

    async def strays(self) -> list[str]:
        return [name for name in self.running if name in self.strange]

    async def open(self, name: str) -> str:
        if self.refusals:
            raise self.refusals.pop()
        await self.opening.wait()
        return self.nodes[name]

    async def health(self, name: str) -> HostHealth | None:
        if name in self.hanging:
            await asyncio.Event().wait()
        if name not in self.running:
            raise ProcessLost(name, "gone")
        return WELL._replace(shards=self.serving.get(name, {}), loop_age_s=100 if name in self.ill else 0)

    async def ended(self, name: str) -> str:
        if name not in self.running:
            return "gone"
        return await asyncio.shield(self.running[name])

    async def stop(self, name: str) -> None:
        self.did.append(f"stop {name}")

    async def kill(self, name: str) -> None:
        self.did.append(f"kill {name}")
        self.serving.pop(name, None)
        self.following.pop(name, None)
        self.running.pop(name, None)

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        if name not in self.running:
            raise ProcessLost(name, "gone")
        claimed = {shard: claim.epoch for shard, claim in (await self._store.claim(name, shards)).items()}
        self.serving.setdefault(name, {}).update(claimed)
        self.did.append(f"claim {name} {sorted(claimed)}")
        return claimed

    async def release(self, name: str, shards: Iterable[int]) -> None:
        if name not in self.running:
            raise ProcessLost(name, "gone")
        if name in self.stuck | self.hanging:
            await asyncio.Event().wait()
        for shard in shards:
            self.serving[name].pop(shard)
        self.did.append(f"release {name} {sorted(shards)}")

    async def push_to(self, name: str, projection_hosts: Mapping[str, Sequence[int]]) -> None:
        self.pushed_to[name] = projection_hosts

    async def follow(self, name: str, shards: Collection[int]) -> None:
        if name not in self.running:
            raise ProcessLost(name, "gone")
        before, self.following[name] = self.following.get(name, set()), set(shards)
        if before != set(shards):
            self.did.append(f"follow {name} {sorted(shards)}")
        if name in self.stuck | self.hanging:
            await asyncio.Event().wait()

    async def followed(self, name: str) -> list[int]:
        return sorted(self.following[name])


class PretendedNodes:
    """Nodes that come and go."""

    def __init__(self, *nodes: Node) -> None:
        self.there = list(nodes)

    async def read(self) -> list[Node]:
        if not self.there:
            raise ProcessLost("the control store", "it is away")
        return list(self.there)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


class Cluster:
    """A coordination over pretended hosts and a pretended projection host."""

    def __init__(self, store: EventStore, former: Cluster | None = None, settings: Settings = FAST) -> None:
        """With the processes, nodes and settings of a former one, if there is one."""
        self.store = store
        self.settings: Settings = former.settings if former else settings
        self.hosts: Pretended = former.hosts if former else Pretended(store)
        self.projections: Pretended = former.projections if former else Pretended(store)
        self.nodes: PretendedNodes = former.nodes if former else PretendedNodes(NODE)
        self.coordination = Coordination(store, self.hosts, self.projections, self.nodes, self.settings)

    async def owners(self) -> list[str | None]:
        return [route.host for route in await self.store.routes()]

    async def consistent(self) -> bool:
        """Whether each shard is served by the host that the store names, by the store's epoch, and by no other."""
        served = sorted(
            (shard, host, epoch) for host, shards in self.hosts.serving.items() for shard, epoch in shards.items()
        )
        return served == [(route.shard, route.host, route.epoch) for route in await self.store.routes()]

    async def learn(self) -> None:
        """What was taken from a host that was too slow, it learns of at its next append."""
        epochs = {route.shard: route.epoch for route in await self.store.routes()}
        for host, shards in self.hosts.serving.items():
            self.hosts.serving[host] = {shard: epoch for shard, epoch in shards.items() if epoch == epochs[shard]}

    async def dies(self) -> Cluster:
        """The coordinator dies, and comes back."""
        await self.coordination.leave()
        restarted = Cluster(self.store, self)
        await restarted.coordination.start("test", 5)
        return restarted
