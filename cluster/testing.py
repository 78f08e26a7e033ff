"""The runtime in one process, without Ray: for users' tests, and for ours.

Everything but the transport is the real thing: store, hosts, coordination, client, projections. Not here: what the
methods do (`operations.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from functools import partial

from actors.health import HostHealth
from actors.hosting import HostCore
from actors.metering import HostMeter, Unmetered
from actors.registry import AggregateRegistry
from actors.writer import Publish
from cluster.application import Application
from cluster.coordination import Coordination
from cluster.opening import Base, Opening, open_base
from cluster.operations import Operations, Ports
from cluster.relaying import HostCommands
from cluster.settings import Settings
from cluster.spreading import Node
from cluster.supervision import ProcessLost
from cluster.tracing import traced_follower, traced_host
from cluster.transport import HostGone
from projections import metering
from projections.errors import NotFollowed
from projections.following import Following
from projections.listening import Listeners
from projections.managing import Managing
from projections.metering import FollowerMeter
from store.identity import uuid7
from store.ports import EventStore
from store.records import EventRecord

HERE = Node("here", "this process")


class InProcessRuntime(Operations):
    """A runtime within this event loop; its methods are those of `cluster.Runtime`."""

    def __init__(self, ports: Ports, ending: AsyncExitStack) -> None:
        super().__init__(ports)
        self._ending = ending

    @classmethod
    def open(
        cls,
        url: str | None = None,
        hosts: int = 1,
        app: Application | str | None = None,
        shards: int | None = None,
        settings: Settings | None = None,
        *,
        projection_hosts: int | None = None,
    ) -> Opening[InProcessRuntime]:
        """Open a runtime, by default on a new memory store that ends with it. Raises what `Runtime.open` raises."""
        url = url or f"memory://{uuid7()}"
        return Opening(partial(cls._open, url, hosts, app, shards, settings, projection_hosts))

    async def close(self) -> None:
        """Wait for what is under way, then end. Calling it twice is safe."""
        await self._ending.aclose()

    @classmethod
    async def _open(
        cls,
        url: str,
        hosts: int,
        app: Application | str | None,
        shards: int | None,
        settings: Settings | None,
        projection_hosts: int | None,
    ) -> InProcessRuntime:
        async with AsyncExitStack() as ending:
            base = await open_base(url, hosts, app, shards, settings, projection_hosts, ending)
            local_hosts = LocalHosts(base.store, base.registry, base.settings)
            followers = LocalFollowers(base, local_hosts)
            local_hosts.publish = followers.push
            coordination = Coordination(base.store, local_hosts, followers, OneNode(), base.settings)
            ending.push_async_callback(coordination.stop)
            await coordination.start(f"tests {uuid7()}", hosts)
            return cls(base.ports(local_hosts, followers, ending), ending.pop_all())


class OneNode:
    """This process; see `Nodes`."""

    async def read(self) -> list[Node]:
        return [HERE]


class LocalHosts:
    """Hosts in this process; see `HostProcesses` and `Transport`."""

    def __init__(self, store: EventStore, registry: AggregateRegistry, settings: Settings) -> None:
        self._store = store
        self._registry = registry
        self._settings = settings
        self.publish: Publish = lambda _records: None
        """Where committed records go; to be set before a host is started."""
        self._cores: dict[str, HostCore] = {}

    async def adopt(self) -> dict[str, str]:
        return {}

    async def strays(self) -> list[str]:
        return []

    async def start(self, name: str, node: str | None) -> None:
        limits = self._settings.host_limits()
        meter: HostMeter = traced_host(Unmetered(), name) if self._settings.tracing else Unmetered()
        core = HostCore(name, meter.around(self._store), self._registry, limits, self.publish, meter.answered)
        core.start()
        self._cores[name] = core

    async def open(self, name: str) -> str:
        self._core(name)
        return HERE.node_id

    async def claim(self, name: str, shards: Iterable[int]) -> dict[int, int]:
        with _failed_is_lost(name):
            return await self._core(name).claim(shards)

    async def release(self, name: str, shards: Iterable[int]) -> None:
        with _failed_is_lost(name):
            await self._core(name).release(shards)

    async def push_to(self, name: str, projection_hosts: Mapping[str, Sequence[int]]) -> None:
        """They push to all followers from the start."""

    async def health(self, name: str) -> HostHealth | None:
        with _failed_is_lost(name):
            return self._core(name).health()

    async def ended(self, name: str) -> str:
        await asyncio.Event().wait()
        return f"{name} does not end by itself"

    async def stop(self, name: str) -> None:
        with _failed_is_lost(name):
            await self._core(name).stop()

    async def kill(self, name: str) -> None:
        if (core := self._cores.pop(name, None)) is not None:
            with suppress(RuntimeError):  # it failed meanwhile, and has said so
                await core.stop()

    async def call(self, host: str, payload: bytes) -> bytes:
        core = self._cores.get(host)
        if core is None:
            raise HostGone(host, "it has been ended")
        return await core.execute(payload)

    def _core(self, name: str) -> HostCore:
        if (core := self._cores.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        return core


@contextmanager
def _failed_is_lost(name: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(name, str(error)) from error


class LocalFollowers:
    """Projection hosts in this process; see `ProjectionProcesses` and `Followers`."""

    def __init__(self, base: Base, hosts: LocalHosts) -> None:
        self._base, self._hosts = base, hosts
        self._following: dict[str, Following] = {}
        self._commands: dict[str, HostCommands] = {}
        self._listeners: Listeners[list[EventRecord]] = Listeners()

    def push(self, records: list[EventRecord]) -> None:
        for following in self._following.values():
            following.push(records)
        self._listeners.push(records)

    async def listen(self, listener: str, timeout_s: float) -> list[EventRecord]:
        return [record for records in await self._listeners.listen(listener, timeout_s) for record in records]

    async def wait_for(self, projection: str, shard: int, position: int, timeout_s: float) -> None:
        for following in self._following.values():
            if shard in following.shards:
                try:
                    return await following.wait_for(projection, shard, position, timeout_s)
                except NotFollowed as error:
                    raise HostGone("projections", str(error)) from error
        raise HostGone("projections", f"nobody follows shard {shard} now")

    async def adopt(self) -> dict[str, str]:
        return {}

    async def strays(self) -> list[str]:
        return []

    async def start(self, name: str, node: str | None) -> None:
        base, application, store = self._base, self._base.application, self._base.store
        commands = HostCommands(self._hosts, store, store.shards, base.settings.client_limits())
        relay = base.settings.relay_limits()
        managing = Managing(application.process_managers, base.registry, commands, relay)
        derived = (application.projections, application.make_handlers(), base.registry.events)
        meter: FollowerMeter = (
            traced_follower(metering.Unmetered(), name) if base.settings.tracing else metering.Unmetered()
        )
        self._following[name] = Following(
            store,
            base.read_models,
            *derived,
            base.settings.subscriber_limits(),
            around_sink=meter.around_sink,
            managing=managing,
            around_call=meter.around_call,
        )
        self._commands[name] = commands

    async def open(self, name: str) -> str:
        return HERE.node_id

    async def follow(self, name: str, shards: Collection[int]) -> None:
        if (following := self._following.get(name)) is None:
            raise ProcessLost(name, "it has been ended")
        await following.follow(shards)

    async def followed(self, name: str) -> list[int]:
        return sorted(self._following[name].shards)

    async def health(self, name: str) -> HostHealth | None:
        return None

    async def ended(self, name: str) -> str:
        await asyncio.Event().wait()
        return f"{name} does not end by itself"

    async def stop(self, name: str) -> None:
        if (following := self._following.get(name)) is not None:
            await following.stop()
            await self._commands[name].close()

    async def kill(self, name: str) -> None:
        if (following := self._following.pop(name, None)) is not None:
            await following.abandon()
            await self._commands.pop(name).close()
