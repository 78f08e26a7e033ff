"""What the coordinator asks of Ray for its processes, told by a Ray that only pretends: where they may be, as what."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cluster import nodes
from cluster.application import application_of
from cluster.coordinator import Coordinator, RuntimePlan
from cluster.keeping import HostProcess, Keeper, ProjectionHostProcess, Whereabouts
from cluster.nodes import RayNodes
from cluster.processes import PROCESS_OPTIONS, RayProcesses, StoreElsewhere
from cluster.settings import Settings
from cluster.spreading import Node
from store.process import machine

NODE = "a1" * 28
KEEPER = Keeper(None, "holder", "namespace")
ELSEWHERE = "a SQLite file serves one machine, PostgreSQL several"


class Made:
    """What Ray was asked to make, and the handle that it gave; every method of which gives `answer`."""

    def __init__(self) -> None:
        self.answer = Whereabouts("holder", NODE, "another machine", is_open=False)
        self.options: dict[str, Any] = {}
        self.called: list[str] = []

    def remote(self, **options: Any) -> Any:
        self.options |= options
        return lambda _class: SimpleNamespace(options=self._with)

    def _with(self, **options: Any) -> Any:
        self.options |= options
        return SimpleNamespace(remote=lambda *_arguments: self)

    def __getattr__(self, method: str) -> Any:
        return SimpleNamespace(remote=partial(self._answer, method))

    async def _answer(self, method: str) -> Whereabouts:
        self.called.append(method)
        return self.answer


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Made:
    made = Made()
    monkeypatch.setattr(ray, "remote", made.remote)
    return made


def started(on: str | None) -> str:
    """Start a host for a store on that machine; return the node where it is open."""
    hosts = RayProcesses(HostProcess, "host", KEEPER, Settings().host_cpus, on, lambda _name: None)

    async def begin() -> str:
        await hosts.start("host-1-1-1", NODE)
        return await hosts.open("host-1-1-1")

    return asyncio.run(begin())


def test_a_host_elsewhere_than_the_file_is_refused_with_the_reason_before_it_opens_anything(made: Made) -> None:
    with pytest.raises(StoreElsewhere, match=f"host-1-1-1 is on another machine than the store: {ELSEWHERE}"):
        started(on=machine())
    assert made.called == ["where"]


@pytest.mark.parametrize("on", [None, "another machine"])
def test_a_host_on_the_files_machine_or_of_a_store_that_all_reach_is_opened(made: Made, on: str | None) -> None:
    assert started(on) == NODE
    assert made.called == ["where", "open"]


def test_a_coordinator_elsewhere_than_the_file_begins_nothing() -> None:
    coordinator = Coordinator.__new__(Coordinator)
    coordinator._plan = RuntimePlan(
        "sqlite:////nowhere/shop.db", "namespace", "holder", 1, application_of(None), Settings(), "another machine"
    )
    with pytest.raises(StoreElsewhere, match=f"coordinator is on another machine than the store: {ELSEWHERE}"):
        asyncio.run(coordinator._begin())


def test_a_host_claims_a_real_part_of_a_cpu_so_that_autoscaling_sees_it_and_ray_restarts_and_repeats_nothing(
    made: Made,
) -> None:
    started(on=None)
    assert 0 < made.options["num_cpus"] <= 1
    assert (made.options["max_restarts"], made.options["max_task_retries"]) == (0, 0)
    where = made.options["scheduling_strategy"]
    assert isinstance(where, NodeAffinitySchedulingStrategy)
    assert (where.node_id, where.soft) == (NODE, True)


@pytest.mark.parametrize("process", [HostProcess, ProjectionHostProcess])
def test_polls_are_answered_by_a_thread_of_their_own_also_while_the_event_loop_is_blocked(process: Any) -> None:
    for method in (process.health, process.where):
        assert method.__ray_concurrency_group__ == "health"
    assert PROCESS_OPTIONS["concurrency_groups"]["health"] == 1  # type: ignore[index]


class TestNodes:
    """What Ray says of its nodes, and what is made of it."""

    @pytest.fixture(autouse=True)
    def there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def node(name: str, address: str, alive: bool = True) -> Mapping[str, Any]:
            return {"NodeID": name, "NodeManagerAddress": address, "Alive": alive}

        found = [node("b", "10.0.0.2"), node("a", "10.0.0.1"), node("dead", "10.0.0.3", False), node("c", "10.0.0.1")]
        here = SimpleNamespace(get_node_id=lambda: "a")
        free = {"a": {"CPU": 1.0}, "b": {"CPU": 0.04}, "c": {}}
        store = SimpleNamespace(get_draining_nodes=lambda timeout: {"b": 1})
        monkeypatch.setattr(ray, "nodes", lambda: found)
        monkeypatch.setattr(ray, "get_runtime_context", lambda: here)
        monkeypatch.setattr(nodes, "_control_store", lambda: store)
        monkeypatch.setattr(nodes, "available_resources_per_node", lambda: free)

    def test_those_alive_are_told_with_the_room_that_they_have_and_who_drains(self) -> None:
        assert asyncio.run(RayNodes(0.05, here_only=False).read()) == [
            Node("a", "10.0.0.1"),
            Node("b", "10.0.0.2", draining=True, room=False),
            Node("c", "10.0.0.1", room=False),
        ]

    def test_hosts_of_a_file_may_be_on_its_machine_only(self) -> None:
        fit = {node.node_id: node.fit for node in asyncio.run(RayNodes(0.05, here_only=True).read())}
        assert fit == {"a": True, "b": False, "c": True}
