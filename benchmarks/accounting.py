"""Who does what in a runtime on this machine: each thread of its processes by what it works on, and their CPU time.

The work of SQLite is done in threads of hosts and of projection hosts, PostgreSQL's in processes of its own: both are
the store's, or the read models'. Not here: what the system says of threads (`processes.py`), counts (`counting.py`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

import asyncpg
import ray
from ray.util import list_named_actors

from benchmarks.processes import Thread, cpu_s_of, descendants_of, parent_of, program_of
from cluster.ray_edge import namespace_of
from store.urls import parsed_url

ROLES = ("driver", "host", "store", "projection", "read_models", "coordinator", "exporter", "ray")
"""What the work is for. A thread's label says that, and behind a stroke which part of it."""
ROLE_OF_ACTOR = {"host": "host", "projections": "projection", "coordinator": "coordinator", "exporter": "exporter"}
"""By the beginning of its name."""
ROLE_OF_THREAD = {"eventray-store": "store", "eventray-read-models": "read_models"}
"""Of a Python thread, by the beginning of its name; of another the role is its process's."""
LOOP_THREAD = "AsyncIO Thread: default"
"""Ray's name for the one that runs an actor's event loop, but for its concurrency groups."""
SESSIONS = "SELECT pid, application_name FROM pg_stat_activity WHERE application_name LIKE 'eventray%'"
READ_MODEL_SESSIONS = "eventray read models"


class PythonThreads(NamedTuple):
    """The threads of one process that Python knows; others are Ray's."""

    pid: int
    loop: int
    """Runs the event loop."""
    names: dict[int, str]
    """By the system's number."""


class Server(NamedTuple):
    """A PostgreSQL server on this machine."""

    pid: int
    read_model_sessions: frozenset[int]
    """The processes of the sessions that read models are written and read by."""
    sessions: int
    """Of the runtime, all of them."""


class Census:
    """Which thread is whose, of a runtime whose driver is this process. Of threads that began later, the process's."""

    def __init__(self, roles: Mapping[int, str], threads: list[PythonThreads], server: Server | None) -> None:
        """`roles` are those of processes, this one's too."""
        self.server = server
        self._roles = dict(roles)
        self._labels: dict[Thread, str] = {}
        for each in threads:
            self._labels |= _labels(each, roles[each.pid])

    def actors(self) -> list[int]:
        """Return the processes of the runtime's actors."""
        return [pid for pid, role in self._roles.items() if role != "driver"]

    def processes(self) -> Counter[str]:
        """Return how many processes there are of each role, the server's own included."""
        return Counter(self._role(pid) for pid in self._pids())

    def cpu_s(self, own_first: bool = False) -> dict[Thread, float]:
        """Read the CPU time of all threads of all processes; this one's last or first, since reading takes time too."""
        pids = sorted(self._pids(), key=lambda pid: (pid == os.getpid()) != own_first)
        return {thread: seconds for pid in pids for thread, seconds in cpu_s_of(pid).items()}

    def by_label(self, cpu_s: Mapping[Thread, float]) -> dict[str, float]:
        """Add up by label, `host/loop` or `ray/raylet`."""
        found: dict[str, float] = {}
        for thread, seconds in cpu_s.items():
            label = self._labels.get(thread) or self._label_of_process(thread.pid)
            found[label] = found.get(label, 0.0) + seconds
        return found

    def _pids(self) -> set[int]:
        served = {self.server.pid, *descendants_of(self.server.pid)} if self.server else set()
        return {os.getpid(), *descendants_of(os.getpid()), *served}

    def _role(self, pid: int) -> str:
        if pid in self._roles:
            return self._roles[pid]
        if self.server is not None and (pid == self.server.pid or parent_of(pid) == self.server.pid):
            return "read_models" if pid in self.server.read_model_sessions else "store"
        return "ray"

    def _label_of_process(self, pid: int) -> str:
        role = self._role(pid)
        if role != "ray":
            return f"{role}/other"
        program = program_of(pid)
        return f"ray/{program}" if program in ("gcs_server", "raylet") else "ray/other"


def by_role(by_label: Mapping[str, float]) -> dict[str, float]:
    """Add labels up to roles; every role is there."""
    found = dict.fromkeys(ROLES, 0.0)
    for label, value in by_label.items():
        found[label.partition("/")[0]] += value
    return found


async def take_census(store_id: str, url: str) -> Census:
    """Ask all processes of the runtime on this store for their threads, and the server for its sessions."""
    namespace = namespace_of(store_id)
    named = await asyncio.to_thread(list_named_actors, True)
    names = [each["name"] for each in named if each["namespace"] == namespace]
    handles = [await asyncio.to_thread(ray.get_actor, name, namespace=namespace) for name in names]
    threads: list[PythonThreads] = await asyncio.gather(
        *(handle.__ray_call__.remote(python_threads) for handle in handles)
    )
    roles = {os.getpid(): "driver"}
    for name, each in zip(names, threads, strict=True):
        roles[each.pid] = ROLE_OF_ACTOR[name.partition("-")[0]]
    return Census(roles, [python_threads(None), *threads], await server_of(url))


def python_threads(_actor: Any) -> PythonThreads:
    """Say which threads this process has. Called in the actors of a runtime, and in the driver on its event loop."""
    names = {each.native_id: each.name for each in threading.enumerate() if each.native_id is not None}
    loop = next((tid for tid, name in names.items() if name == LOOP_THREAD), threading.get_native_id())
    return PythonThreads(os.getpid(), loop, names)


async def server_of(url: str) -> Server | None:
    """Return the PostgreSQL server at a URL; None for another store, and for a server on another machine."""
    if parsed_url(url).scheme == "sqlite":
        return None
    session = await asyncpg.connect(url)
    try:
        pid, rows = parent_of(session.get_server_pid()), await session.fetch(SESSIONS)
    finally:
        await session.close()
    if program_of(pid) != "postgres":
        return None
    read_models = frozenset(row["pid"] for row in rows if row["application_name"] == READ_MODEL_SESSIONS)
    return Server(pid, read_models, len(rows))


def _labels(threads: PythonThreads, role: str) -> dict[Thread, str]:
    found: dict[Thread, str] = {Thread(threads.pid, threads.loop): f"{role}/loop"}
    for tid, name in threads.names.items():
        for beginning, other in ROLE_OF_THREAD.items():
            if name.startswith(beginning):
                found[Thread(threads.pid, tid)] = f"{other}/{name.rpartition('_')[0]} of {role}"
    return found
