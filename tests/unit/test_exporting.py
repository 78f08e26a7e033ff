"""The exporter's place: it is kept filled, it is found again, and nothing waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from cluster.coordination import Coordination
from cluster.metrics.serving import MetricsPortTaken
from cluster.supervision import ProcessLost
from store import EventStore, open_store
from tests.pretending import FAST, NODE, Pretended, PretendedNodes, until


class PretendedExporters(Pretended):
    """Exporters that say where they serve."""

    async def announce(self, name: str) -> str:
        if name not in self.running:
            raise ProcessLost(name, "gone")
        return f"http://{name}"


class Scene:
    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.hosts, self.projections = Pretended(store), Pretended(store)
        self.exporters = PretendedExporters(store)

    def coordination(self) -> Coordination:
        ports = (self.hosts, self.projections, PretendedNodes(NODE))
        return Coordination(self.store, *ports, FAST, exporters=self.exporters)


@pytest.fixture
async def scene() -> AsyncIterator[Scene]:
    store = await open_store("memory://", shards=2)
    yield Scene(store)
    await store.close()


async def test_where_it_serves_is_told_and_a_lost_one_is_replaced(scene: Scene) -> None:
    coordination = scene.coordination()
    await coordination.start("a test", 1)
    await until(lambda: coordination.status().metrics == "http://exporter-1-1-1")
    scene.exporters.die("exporter-1-1-1")
    await until(lambda: coordination.status().metrics == "http://exporter-1-1-2")
    await coordination.stop()
    assert not scene.exporters.running


async def test_one_that_can_not_begin_keeps_nobody_from_serving_and_says_why(scene: Scene) -> None:
    scene.exporters.refusals = [MetricsPortTaken("127.0.0.1", 9464) for _ in range(3)]
    coordination = scene.coordination()
    await coordination.start("a test", 1)
    assert [host.state for host in coordination.status().hosts] == ["serving"]
    await until(lambda: "EVENTRAY_METRICS_PORT" in str(coordination.status().exporter))
    assert coordination.status().metrics == ""
    await until(lambda: coordination.status().metrics != "")
    await coordination.stop()


async def test_a_coordinator_that_comes_back_goes_on_with_the_one_that_is_there(scene: Scene) -> None:
    coordination = scene.coordination()
    await coordination.start("a test", 1)
    await until(lambda: coordination.status().metrics != "")
    await coordination.leave()
    await scene.exporters.start("exporter-1-1-9", None)
    again = scene.coordination()
    await again.start("a test", 1)
    await until(lambda: again.status().metrics == "http://exporter-1-1-1")
    assert list(scene.exporters.running) == ["exporter-1-1-1"]
    await again.abandon()
    assert not scene.exporters.running


async def test_another_runtime_ends_the_exporter_of_the_former(scene: Scene) -> None:
    await scene.exporters.start("exporter-1-7-1", None)
    coordination = scene.coordination()
    await coordination.start("a test", 1)
    await until(lambda: coordination.status().metrics == "http://exporter-1-1-1")
    assert "kill exporter-1-7-1" in scene.exporters.did
    await coordination.stop()
