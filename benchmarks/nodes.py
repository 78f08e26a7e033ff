"""What callers notice of nodes that join, leave and die: `python -m benchmarks.nodes [--store postgres] [--json]`.

A Ray of one node, begun for this, gets two more under load; then the node on which the coordinator is dies (kill -9 of
its raylet, with Ray's own patience); then all nodes but the first are drained and taken away. Meanwhile commands follow
one another on every shard, as in `benchmarks.pauses`, whose figures these are. `notices_s` says how long Ray took to
hold the dead node to be dead. Not here: nodes that hang (`make torture`).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

SHARDS = 16
HOSTS = 3


async def measure(url: str) -> dict[str, Any]:
    """Let nodes join, die and leave; return the pauses and what failed."""
    import ray
    from ray.cluster_utils import Cluster

    from benchmarks.pauses import Pauses, Pulse, noted
    from cluster import Runtime
    from store.opening import open_store

    store = await open_store(url, SHARDS)
    cluster: Any = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(cluster.address, log_to_driver=False, logging_level=logging.ERROR)
    pauses = Pauses()
    try:
        async with Runtime.open(url, hosts=1, shards=SHARDS, address=cluster.address) as runtime:
            pulse = Pulse(runtime, SHARDS)
            await pulse.begin()
            await pulse.calm()

            async def grow() -> None:
                for _ in range(HOSTS - 1):
                    cluster.add_node(wait=False, num_cpus=1)
                await _until(lambda: len(_alive()) == HOSTS)
                await runtime.scale(HOSTS)

            await noted(store, pulse, pauses, "scaled from 1 node to 3", grow)
            await pulse.calm()
            notices_s = await _lose_coordinator(cluster, runtime, pulse, pauses)

            async def shrink() -> None:
                for node in cluster.worker_nodes:
                    await asyncio.to_thread(_announce_end, cluster.address, node.node_id)
                await runtime.scale(1)
                head = cluster.head_node.node_id
                await _until(lambda: all(each == head for each in _nodes_of_actors()))
                for node in list(cluster.worker_nodes):
                    await asyncio.to_thread(cluster.remove_node, node)

            await pulse.calm()
            await noted(store, pulse, pauses, "scaled back to 1 node", shrink)
            await pulse.calm()
            await pulse.end()
    finally:
        await asyncio.to_thread(ray.shutdown)
        await asyncio.to_thread(cluster.shutdown)
        await store.close()
    return {"store": url.partition(":")[0], "shards": SHARDS, "notices_s": round(notices_s, 1)} | {
        "pauses_ms": pauses.figures(),
        "failures": dict(pulse.failures),
        "commands": sum(map(len, pulse.answered_s)),
    }


async def _lose_coordinator(cluster: Any, runtime: Any, pulse: Any, pauses: Any) -> float:
    """Kill the raylet of the node that carries the coordinator; return after what time Ray held it to be dead."""
    head = cluster.head_node.node_id
    while (carrying := _actor("coordinator"))["Address"]["NodeID"] == head:
        os.kill(carrying["Pid"], signal.SIGKILL)
        await runtime.rebalance()
        await asyncio.sleep(1)
    await pulse.calm()
    lost = carrying["Address"]["NodeID"]
    concerned = {shard for host in (await runtime.status()).hosts if host.node == lost for shard in host.shards}
    (node,) = [node for node in cluster.worker_nodes if node.node_id == lost]
    raylet = node.all_processes["raylet"][0].process
    since_s = time.perf_counter()
    raylet.kill()
    await asyncio.to_thread(raylet.wait)  # unreaped, it would count as alive to its workers
    await _until(lambda: lost not in _alive())
    notices_s = time.perf_counter() - since_s
    await pulse.answered_since(since_s + 0.05, concerned)
    pauses.note("coordinator's node killed", pulse, since_s, concerned)
    await asyncio.to_thread(cluster.remove_node, node, False)
    cluster.add_node(wait=False, num_cpus=1)
    await runtime.rebalance()
    return notices_s


def _alive() -> set[str]:
    import ray

    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {str(node["NodeID"]) for node in nodes if node["Alive"]}


def _actors() -> list[dict[str, Any]]:
    from ray._private.state import actors

    every: dict[str, dict[str, Any]] = actors()
    return [actor for actor in every.values() if actor["State"] == "ALIVE"]


def _actor(name: str) -> dict[str, Any]:
    return next(actor for actor in _actors() if actor["Name"] == name)


def _nodes_of_actors() -> set[str]:
    """The nodes of all that moves: the coordinator stays till its node goes."""
    return {str(actor["Address"]["NodeID"]) for actor in _actors() if actor["Name"] != "coordinator"}


def _announce_end(address: str, node_id: str) -> None:
    """Mark a node as Ray does before a preemption."""
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DRAIN_NODE_REASON_PREEMPTION  # type: ignore[attr-defined]
    GcsClient(address=address).drain_node(node_id, reason, "benchmark", int(time.time() * 1000) + 60_000)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - Ray can only be asked
            await asyncio.sleep(0.1)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.nodes", description=__doc__)
    parser.add_argument("--store", default="postgres", help="postgres (default: a server begun for this) or a URL")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if arguments.store.startswith("sqlite"):
        parser.error("--store: give PostgreSQL; a SQLite store keeps its coordinator at its file, on the first node")
    with tempfile.TemporaryDirectory(prefix="bn-", ignore_cleanup_errors=True) as directory:  # Ray's sockets are in it
        os.environ.update(RAY_TMPDIR=directory, RAY_AUTH_MODE="disabled")
        from benchmarks.places import place

        async def whole() -> dict[str, Any]:
            with place(arguments.store, Path(directory) / "store") as found:
                return await measure(await found.new_url("nodes")) | {"measured_on": await found.describe()}

        with redirect_stdout(sys.stderr):  # Ray tells much
            figures = asyncio.run(whole())
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(f"{figures['commands']:,} commands on {figures['shards']} shards, failures: {figures['failures'] or 'none'}")
    print(f"Ray took {figures['notices_s']} s to hold the killed node to be dead")
    for what, seen in figures["pauses_ms"].items():
        print(f"{what:>26}: {seen['shards']} ms; other shards: {seen['other_shards']} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
