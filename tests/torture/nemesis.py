"""The nemesis: carries out the faults that were drawn, each when its time comes, and journals what it did to whom.

Faults overlap where they were drawn so. A fault that finds nobody to strike within some seconds is left out. One that
needs a host which stores something waits longer: between other faults there may be none for most of a minute, but on
the head, which must live. Not here: drawing them (`schedule.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.integration.faulty_shop import (
    append_stop_flag,
    commit_stop_flag,
    lost_reply_flag,
    postgres_lost_reply_flag,
    stop_flag,
)
from tests.postgres import Server
from tests.torture.ground import (
    COORDINATOR,
    HOST,
    HOSTS,
    PROJECTIONS,
    Actor,
    Ground,
    continue_process,
    kill_process,
    stop_process,
)
from tests.torture.journal import Journal
from tests.torture.schedule import Fault, Strike

FIND_WITHIN_S = 8.0
NODE_AWAY_S = 2.0
ZOMBIE_ALONE_S = 1.5
"""How long a zombie is back before its node is, which then learns that both are held to be dead."""
CALM_WITHIN_S = 90.0
FLAG_TAKEN_WITHIN_S = 10.0
WRITES_WITHIN_S = 60.0
"""How long a host that stores something is looked for, on a node that may be struck."""
AT_ONE_NODE_S = 4.0
"""How long the hosts of one node may have nothing to store, before another node is looked for."""
IN_FLIGHT_WITHIN_S = 0.1

Someone = TypeVar("Someone")


class Nobody(Exception):
    """There is nobody to strike."""


class Nemesis:
    """One run's faults."""

    def __init__(self, ground: Ground, journal: Journal, assigned: Callable[[], Awaitable[dict[int, str]]]) -> None:
        """`assigned` tells which host each shard is assigned to."""
        self._ground = ground
        self._journal = journal
        self._assigned = assigned
        self._stopped: set[int] = set()
        """Processes that are to be continued."""
        self._nodes_struck: set[str] = set()
        self._database = asyncio.Lock()
        self._scaling = asyncio.Lock()
        self._flags: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        """A flag is one file: two faults of a kind wait for each other."""
        self.server: Server | None = None
        """The PostgreSQL server, where the store is on one."""
        self.counts: Counter[Fault] = Counter()
        self.missed: Counter[Fault] = Counter()
        """Faults that found nobody."""
        self.zombies = 0
        """Stopped hosts that were gone before they were continued: somebody killed them."""
        self.troubles: list[str] = []
        """What went wrong though nothing was done to it any more."""
        self.returned = 0
        """Hosts that were stopped with events to store, and came back."""

    async def run(self, strikes: Sequence[Strike]) -> None:
        """Carry out all of them; returns once the last one is over, nobody is stopped, and as many hosts are wanted
        as before."""
        began_s = time.monotonic()
        under_way = []
        try:
            for strike in strikes:
                await asyncio.sleep(max(0.0, began_s + strike.at_s - time.monotonic()))
                under_way.append(asyncio.create_task(self._carry_out(strike)))
            await asyncio.gather(*under_way)
        finally:
            for pid in self._stopped:
                continue_process(pid)
        if why_not := await self._ground.scale(HOSTS, CALM_WITHIN_S):
            self.troubles.append(f"there were not {HOSTS} hosts again: {why_not}")

    async def _carry_out(self, strike: Strike) -> None:
        ways: dict[Fault, Callable[[Strike], Awaitable[dict[str, Any]]]] = {
            Fault.HOST_KILLED: self._kill_host,
            Fault.HOST_STOPPED: self._stop_host,
            Fault.COORDINATOR_KILLED: self._kill_coordinator,
            Fault.PROJECTION_HOST_KILLED: self._kill_projection_host,
            Fault.NODE_KILLED: self._kill_node,
            Fault.NODE_STOPPED: self._stop_node,
            Fault.DRIVER_KILLED: self._kill_driver,
            Fault.REPLY_LOST: self._lose_reply,
            Fault.COMMIT_STOPPED: self._stop_commit,
            Fault.APPEND_STOPPED: self._stop_append,
            Fault.NODE_ADDED: self._add_node,
            Fault.NODE_DRAINED: self._drain_node,
            Fault.REBALANCED: self._rebalance,
            Fault.POSTGRES_RESTARTED: self._restart_postgres,
            Fault.POSTGRES_HUNG: self._hang_postgres,
        }
        from_s = time.monotonic()
        try:
            struck = await ways[strike.fault](strike)
        except Nobody:
            self.missed[strike.fault] += 1
            self._journal.write("missed", kind=strike.fault)
            return
        self.counts[strike.fault] += 1
        self._journal.write("fault", kind=strike.fault, **{"from_s": from_s, "to_s": time.monotonic(), **struck})

    # --- whom ---

    async def _actor(self, role: str, chance: float) -> Actor:
        """One of the actors of a class, as soon as there is one."""
        return await _find(lambda: [actor for actor in self._ground.actors() if actor.role == role], chance)

    async def _struck(self, host: Actor) -> dict[str, Any]:
        owned = [shard for shard, name in (await self._assigned()).items() if name == host.name]
        return {"victim": host.name, "shards": owned}

    # --- hosts and the coordinator ---

    async def _kill_host(self, strike: Strike) -> dict[str, Any]:
        host = await self._actor(HOST, strike.chance)
        struck = await self._struck(host)
        if not kill_process(host.pid):
            raise Nobody
        return struck

    async def _stop_host(self, strike: Strike) -> dict[str, Any]:
        host = await self._actor(HOST, strike.chance)
        struck = await self._struck(host)
        if not await self._stop_for(host.pid, strike.lasts_s):
            self.zombies += 1
        return struck

    async def _stop_for(self, pid: int, seconds: float) -> bool:
        """Stop a process that long; whether it was still there at the end. Raises Nobody."""
        if not stop_process(pid):
            raise Nobody
        self._stopped.add(pid)
        await asyncio.sleep(seconds)
        self._stopped.discard(pid)
        return continue_process(pid)

    async def _kill_coordinator(self, strike: Strike) -> dict[str, Any]:
        coordinator = await self._actor(COORDINATOR, strike.chance)
        if not kill_process(coordinator.pid):
            raise Nobody
        return {"victim": coordinator.name}

    async def _kill_projection_host(self, strike: Strike) -> dict[str, Any]:
        host = await self._actor(PROJECTIONS, strike.chance)
        if not kill_process(host.pid):
            raise Nobody
        return {"victim": host.name}

    # --- nodes ---

    def _nodes(self) -> list[Any]:
        """Nodes that may be struck: those that carry hosts, where there are such."""
        free = [node for node in self._ground.nodes() if node.node_id not in self._nodes_struck]
        carrying = {actor.node for actor in self._ground.actors() if actor.role == HOST}
        return [node for node in free if node.node_id in carrying] or free

    async def _nodes_that_write(self) -> list[Any]:
        """Nodes that may be struck, each with a host that has shards."""
        owners = {*(await self._assigned()).values()}
        writing = {actor.node for actor in self._ground.actors() if actor.name in owners}
        return [node for node in self._nodes() if node.node_id in writing]

    async def _on_node(self, node: Any) -> dict[str, Any]:
        names = [actor.name for actor in self._ground.actors() if actor.node == node.node_id]
        owned = [shard for shard, name in (await self._assigned()).items() if name in names]
        return {"victim": node.node_id[:8], "actors": names, "shards": owned}

    async def _kill_node(self, strike: Strike) -> dict[str, Any]:
        """Kill a node's raylet, with which its actors die; a new node comes a little later."""
        node = await _find(self._nodes, strike.chance)
        struck = await self._on_node(node)
        raylet = _raylet(node)
        if not kill_process(raylet.pid):
            raise Nobody
        self._nodes_struck.add(node.node_id)
        await asyncio.to_thread(raylet.wait)  # unreaped, it would count as alive to its workers
        await asyncio.sleep(NODE_AWAY_S)
        await self._ground.end_node(node)
        return struck

    async def _stop_node(self, strike: Strike) -> dict[str, Any]:
        """Stop a node's raylet until Ray holds the node to be dead, whose actors live on; then let it learn of that."""
        node = await _find(self._nodes, strike.chance)
        struck = await self._on_node(node)
        self._nodes_struck.add(node.node_id)
        await self._stop_for(_raylet(node).pid, strike.lasts_s)
        await asyncio.sleep(NODE_AWAY_S)
        await self._ground.end_node(node)
        return struck

    async def _add_node(self, strike: Strike) -> dict[str, Any]:
        """Let a node join, and want one host more as long as it lasts."""
        if not await self._ground.add_node():
            raise Nobody
        return {"victim": "nobody", "hosts": await self._wanted_for(HOSTS + 1, strike.lasts_s)}

    async def _rebalance(self, strike: Strike) -> dict[str, Any]:
        """Want one host fewer as long as it lasts, then as many as before, each with its share."""
        return {"victim": "nobody", "hosts": await self._wanted_for(HOSTS - 1, strike.lasts_s)}

    async def _wanted_for(self, hosts: int, lasts_s: float) -> int:
        """Want that many hosts for that time, then as many as before; the faults beside may keep both from it."""
        async with self._scaling:
            over_s = time.monotonic() + lasts_s
            await self._ground.scale(hosts, lasts_s)
            await asyncio.sleep(max(0.0, over_s - time.monotonic()))
            await self._ground.scale(HOSTS, lasts_s)
        return hosts

    async def _drain_node(self, strike: Strike) -> dict[str, Any]:
        """Announce a node's end, and end it some seconds later, whether it has been emptied or not."""
        node = await _find(self._nodes, strike.chance)
        struck = await self._on_node(node)
        self._nodes_struck.add(node.node_id)
        await asyncio.to_thread(self._ground.announce_end, node, strike.lasts_s)
        await asyncio.sleep(strike.lasts_s)
        left = await self._on_node(node)
        await self._ground.end_node(node)
        return {**struck, "left": left["actors"]}

    # --- drivers ---

    async def _kill_driver(self, strike: Strike) -> dict[str, Any]:
        drivers = self._ground.drivers
        number = await _find(
            lambda: [each for each, process in drivers.items() if process.poll() is None], strike.chance
        )
        drivers[number].kill()
        await asyncio.to_thread(drivers[number].wait)
        self._ground.start_driver(number)
        return {"victim": f"driver {number}"}

    # --- the store ---

    async def _lose_reply(self, _strike: Strike) -> dict[str, Any]:
        on_sqlite = self.server is None
        return await self._raise_flag(lost_reply_flag(self._store_file()) if on_sqlite else postgres_lost_reply_flag())

    async def _stop_commit(self, strike: Strike) -> dict[str, Any]:
        if self.server is not None:
            return await self._make_zombie(strike, commit_stop_flag())
        struck = await self._raise_flag(stop_flag(self._store_file()))
        self.zombies += 1  # only a killed one lets others write
        return struck

    async def _stop_append(self, strike: Strike) -> dict[str, Any]:
        return await self._make_zombie(strike, append_stop_flag())

    async def _make_zombie(self, strike: Strike, flag: Path) -> dict[str, Any]:
        """Have a host stop with events to store, and its node with it, till both are held to be dead; then the host is
        back first. Nobody can kill it: who would is the node's raylet."""
        async with self._flags[flag]:
            node, host_pid = await self._stopped_host(strike.chance, flag)
        from_s, raylet_pid = time.monotonic(), _raylet(node).pid
        self._stopped |= {host_pid, raylet_pid} if stop_process(raylet_pid) else {host_pid}
        struck = await self._on_node(node)
        await asyncio.sleep(strike.lasts_s)
        self.returned += continue_process(host_pid)
        await asyncio.sleep(ZOMBIE_ALONE_S)
        continue_process(raylet_pid)
        self._stopped -= {host_pid, raylet_pid}
        await asyncio.sleep(NODE_AWAY_S)
        await self._ground.end_node(node)
        return {**struck, "from_s": from_s}

    async def _stopped_host(self, chance: float, flag: Path) -> tuple[Any, int]:
        """Return a node on which a host has stopped itself, and that host's pid. Raises Nobody.

        No other fault strikes the node from when it was chosen.
        """
        deadline_s = time.monotonic() + WRITES_WITHIN_S
        while time.monotonic() < deadline_s:
            if not (found := await self._nodes_that_write()):
                await asyncio.sleep(0.1)
                continue
            node = found[int(chance * len(found))]
            self._nodes_struck.add(node.node_id)
            flag.write_text(node.node_id)
            if await _taken(flag, AT_ONE_NODE_S):
                taken = next(flag.parent.glob(f"{flag.stem}.[0-9]*"))
                taken.unlink()
                return node, int(taken.suffix[1:])
            self._nodes_struck.discard(node.node_id)
        raise Nobody

    async def _raise_flag(self, flag: Path) -> dict[str, Any]:
        """Have the next commit of any host meet with a fault, which that host's process does to itself."""
        async with self._flags[flag]:
            flag.touch()
            if not await _taken(flag, FLAG_TAKEN_WITHIN_S):
                raise Nobody
        return {"victim": "whichever host committed next"}

    async def _restart_postgres(self, strike: Strike) -> dict[str, Any]:
        async with self._database:
            server = self._running_server()
            pids = server.pids()
            for pid in pids:  # so that commits are under way when it ends
                if stop_process(pid):
                    self._stopped.add(pid)
            await asyncio.sleep(IN_FLIGHT_WITHIN_S)
            server.end_at_once()
            for pid in pids:
                self._stopped.discard(pid)
                continue_process(pid)
            await asyncio.to_thread(server.wait)
            await asyncio.sleep(strike.lasts_s)
            await asyncio.to_thread(server.start)
        return {"victim": "PostgreSQL"}

    async def _hang_postgres(self, strike: Strike) -> dict[str, Any]:
        async with self._database:
            pids = self._running_server().pids()
            for pid in pids:
                if stop_process(pid):
                    self._stopped.add(pid)
            await asyncio.sleep(strike.lasts_s)
            for pid in pids:
                self._stopped.discard(pid)
                continue_process(pid)
        return {"victim": "PostgreSQL"}

    def _running_server(self) -> Server:
        if self.server is None:
            raise Nobody
        return self.server

    def _store_file(self) -> Path:
        return Path(self._ground.store.removeprefix("sqlite:///"))


async def _find(those_there: Callable[[], Sequence[Someone]], chance: float) -> Someone:
    """One of those who are there, by chance; waits for a while where nobody is. Raises Nobody."""
    deadline_s = time.monotonic() + FIND_WITHIN_S
    while not (found := list(those_there())):
        if time.monotonic() > deadline_s:
            raise Nobody
        await asyncio.sleep(0.1)
    return found[int(chance * len(found))]


async def _taken(flag: Path, within_s: float) -> bool:
    """Wait until a host has taken a flag away, then take it away oneself; return whether a host did."""
    deadline_s = time.monotonic() + within_s
    while flag.exists() and time.monotonic() < deadline_s:
        await asyncio.sleep(0.005)
    try:
        flag.unlink()
    except FileNotFoundError:
        return True
    return False


def _raylet(node: Any) -> Any:
    """The process of a node's raylet, as its parent holds it."""
    return node.all_processes["raylet"][0].process
