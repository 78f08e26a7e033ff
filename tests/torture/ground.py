"""What is tortured: a Ray of three nodes, a store, a runtime on both, and drivers, each a process of its own.

All of a run is in one directory; every process of it carries that in its environment, so that none is overlooked.
Not here: what is done to them (`nemesis.py`).
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import ray
from ray._private.ray_constants import AGENT_PROCESS_LIST, WORKER_PROCESS_TYPE_IDLE_WORKER
from ray._private.state import actors as all_actors
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from cluster import Runtime
from cluster.ray_edge import namespace_of
from cluster.settings import Settings
from cluster.status import RuntimeStatus
from store.errors import EventrayError
from tests.torture.driver import DriverPlan

MARK = "RAY_TMPDIR"
"""The variable that names the run's directory in the environment of each of its processes."""
FAST_DETECTION = {
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 1000,
    "health_check_failure_threshold": 3,
}
"""A node that says nothing is dead to Ray after some 4 s instead of 65 s, so that a short run sees it."""
NO_ACTORS = (WORKER_PROCESS_TYPE_IDLE_WORKER, *AGENT_PROCESS_LIST)
"""How the titles of those processes of Ray's begin that belong to a node and to no actor."""
COORDINATOR, HOST, PROJECTIONS = "coordinator", "host", "projections"
NODES = 3
NODES_MAX = NODES + 1
HOSTS = 3
SHARDS = 16
DRIVERS = 3
WORKERS = 8


class Actor(NamedTuple):
    """An actor of the runtime, as Ray sees it."""

    name: str
    role: str
    """What its name begins with: coordinator, host or projections."""
    pid: int
    node: str


class Ground:
    """The cluster and all that runs on it."""

    def __init__(self, directory: Path, store: str, app: str, seed: int) -> None:
        self.directory = directory
        self.store = store
        self.app = app
        self.seed = seed
        self.began_s = time.monotonic()
        self.drivers: dict[str, subprocess.Popen[bytes]] = {}
        self.namespace = ""
        self._incarnations = 0
        self._plans: dict[str, DriverPlan] = {}
        self._changing = asyncio.Lock()
        self._cluster: Any = None
        self._runtime: Any = None
        self._failed: list[str] = []

    # --- Ray and the runtime ---

    async def start(self) -> None:
        """Start Ray, the runtime and the drivers."""
        self._start_ray()
        self._runtime = await Runtime.open(
            self.store, hosts=HOSTS, shards=SHARDS, app=self.app, address=self._cluster.address, settings=Settings()
        )
        self.namespace = namespace_of(self._runtime._ports.store.store_id)
        here = ray.get_runtime_context().get_node_id()
        assert here == self._cluster.head_node.node_id, "a node that may be killed carries this process"
        self.began_s = time.monotonic()
        for number in range(1, DRIVERS + 1):
            self.start_driver(f"{number}")

    def _start_ray(self) -> None:
        head = {"num_cpus": 1, "include_dashboard": False, "_system_config": FAST_DETECTION}
        self._cluster = Cluster(initialize_head=True, head_node_args=head)
        for _ in range(NODES - 1):
            self._cluster.add_node(num_cpus=1)
        ray.init(self._cluster.address, log_to_driver=False, logging_level=logging.ERROR)

    def actors(self) -> list[Actor]:
        """All actors of the runtime that Ray holds to be alive."""
        actors: dict[str, Any] = all_actors()
        alive = [actor for actor in actors.values() if actor["State"] == "ALIVE"]
        return [
            Actor(actor["Name"], actor["Name"].split("-")[0], actor["Pid"], actor["Address"]["NodeID"])
            for actor in alive
        ]

    def nodes(self) -> list[Any]:
        """All nodes but the head, oldest first."""
        return sorted(self._cluster.worker_nodes, key=lambda node: node.node_id)

    async def add_node(self) -> bool:
        """Let one more node join, unless there are as many as there may be; return whether it did."""
        async with self._changing:
            if len(self.nodes()) + 1 >= NODES_MAX:
                return False
            self._cluster.add_node(wait=False, num_cpus=1)  # Ray wants the main thread for this
            return True

    def announce_end(self, node: Any, within_s: float) -> None:
        """Give the notice that comes before a preemption: Ray marks the node, and that is all. Blocks."""
        reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
        at_ms = int((time.time() + within_s) * 1000)
        GcsClient(address=self._cluster.address).drain_node(node.node_id, reason, "torture", at_ms)

    async def end_node(self, node: Any) -> None:
        """End what is left of a node, at once, and put another one in its place if else there were too few."""
        async with self._changing:
            if node in self._cluster.worker_nodes:
                await asyncio.to_thread(self._cluster.remove_node, node, False)
                if len(self.nodes()) + 1 < NODES:
                    self._cluster.add_node(wait=False, num_cpus=1)

    async def status(self) -> RuntimeStatus:
        """Ask the coordinator how the runtime is."""
        status: RuntimeStatus = await self._runtime.status()
        return status

    async def scale(self, hosts: int, within_s: float) -> str:
        """Want so many hosts; return why there are not so many within that time, nothing if there are."""
        try:
            async with asyncio.timeout(within_s):
                await self._runtime.scale(hosts)
        except TimeoutError:
            return f"it took more than {within_s:g} s"
        except EventrayError as error:
            return str(error)
        return ""

    async def stop_runtime(self) -> None:
        """End the runtime gracefully."""
        await self._runtime.close()

    async def stop(self) -> None:
        """End everything; what does not end by itself is told and killed."""
        for driver in self.drivers.values():
            driver.kill()
            driver.wait()
        if self._runtime is not None:
            with suppress(Exception):
                await self._runtime.close()
        await asyncio.to_thread(ray.shutdown)
        if self._cluster is not None:
            await asyncio.to_thread(self._cluster.shutdown)

    # --- drivers ---

    def start_driver(self, number: str) -> None:
        """Start a driver; after one of this number that has ended, one that takes up what that one left."""
        self._incarnations += 1
        former = self._plans.get(number)
        name = f"{number}-{self._incarnations}"
        plan = DriverPlan(
            name=name,
            store=self.store,
            address=self._cluster.address,
            app=self.app,
            directory=str(self.directory),
            seed=f"{self.seed} {name}",
            began_s=self.began_s,
            workers=WORKERS,
        )
        if former is not None and former.journal.exists():
            plan = replace(plan, predecessor=former.name)
        self._plans[number] = plan
        with (self.directory / f"driver-{name}.log").open("wb") as log:
            command = [sys.executable, "-m", "tests.torture.driver", plan.to_json()]
            self.drivers[number] = subprocess.Popen(command, stdout=log, stderr=log)

    def replace_ended_drivers(self) -> list[str]:
        """Start anew the drivers that have ended by themselves; return their names."""
        ended = [number for number, driver in self.drivers.items() if driver.poll() is not None]
        names = [self._plans[number].name for number in ended]
        for number in ended:
            self.start_driver(number)
        return names

    async def stop_drivers(self, timeout_s: float) -> list[str]:
        """Let all drivers finish what they have in hand; return what went wrong with that."""
        (self.directory / "stop").touch()
        deadline_s = time.monotonic() + timeout_s
        wrong = []
        for number, driver in self.drivers.items():
            while driver.poll() is None and time.monotonic() < deadline_s:
                await asyncio.sleep(0.1)
            if driver.returncode != 0:
                wrong.append(f"driver {self._plans[number].name} ended with {driver.returncode}: see its log")
        return wrong

    # --- what is left ---

    def processes(self) -> Iterable[psutil.Process]:
        """Every process of this run but this one, and but the database's."""
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                ours = process.environ().get(MARK) == os.environ[MARK] and process.pid != os.getpid()
                if ours and process.name() != "postgres" and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def leftover_actors(self) -> list[str]:
        """Processes of actors that Ray doesn't hold to be alive, and actors beyond those that a runtime has."""
        actors = self.actors()
        known = {actor.pid for actor in actors}
        found = []
        for process in self.processes():
            with suppress(psutil.Error):
                title = " ".join(process.cmdline())
                if title.startswith("ray::") and not title.startswith(NO_ACTORS) and process.pid not in known:
                    found.append(f"process {process.pid} ({title})")
        following = 1 if self.store.startswith("sqlite") else min(NODES, HOSTS)
        for role, wanted in ((HOST, HOSTS), (PROJECTIONS, following), (COORDINATOR, 1)):
            names = [actor.name for actor in actors if actor.role == role]
            if len(names) != wanted:
                found.append(f"{len(names)} actors of the role {role} ({', '.join(names)}), not {wanted}")
        return found


def stop_process(pid: int) -> bool:
    """SIGSTOP; whether the process was there."""
    return _signal(pid, signal.SIGSTOP)


def continue_process(pid: int) -> bool:
    """SIGCONT; whether the process was there."""
    return _signal(pid, signal.SIGCONT)


def kill_process(pid: int) -> bool:
    """SIGKILL; whether the process was there."""
    return _signal(pid, signal.SIGKILL)


def _signal(pid: int, number: int) -> bool:
    try:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return False
        os.kill(pid, number)
    except (ProcessLookupError, psutil.NoSuchProcess):
        return False
    return True


@asynccontextmanager
async def running_ground(directory: Path, store: str, app: str, seed: int) -> AsyncIterator[Ground]:
    """Start it all, for as long as the block lasts."""
    name = store if store.startswith("postgresql") else Path(store.removeprefix("sqlite:///")).name
    (directory / "run.json").write_text(json.dumps({"store": name, "seed": seed}))
    ground = Ground(directory, store, app, seed)
    try:
        await ground.start()
        yield ground
    finally:
        await ground.stop()
