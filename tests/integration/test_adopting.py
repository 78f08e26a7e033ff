"""Taking up the processes that an earlier coordinator has made, on a real Ray: only those that are at work."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError

from actors.customers import Customer
from actors.host import HostPlan
from actors.limits import HostLimits
from cluster.keeping import HostProcess, Keeper, ProjectionHostProcess
from cluster.processes import RayProcesses
from cluster.ray_edge import COORDINATOR
from projections.customers import CustomerProjection
from projections.host import ProjectionPlan
from projections.progress import SubscriberLimits
from store import NotAStore, open_store
from tests.logs import EVENTS

pytestmark = pytest.mark.usefixtures("ray_address")


class Lasting:
    """Stands for the coordinator's actor, with which its processes end."""

    async def ended(self) -> None:
        await asyncio.Event().wait()


@pytest.fixture
def keeper(request: pytest.FixtureRequest) -> Iterator[Keeper]:
    namespace = f"adopting-{request.node.name}"
    remote: Any = ray.remote(Lasting)
    handle = remote.options(name=COORDINATOR, namespace=namespace).remote()
    yield Keeper(handle, "holder-1", namespace)
    ray.kill(handle)


def host_plan(url: str, keeper: Keeper, name: str) -> HostPlan:
    return HostPlan(name, "Host", keeper.namespace, url, (Customer,), HostLimits(), 1)


def projection_plan(url: str, _name: str) -> ProjectionPlan:
    return ProjectionPlan(url, (CustomerProjection,), tuple(EVENTS.types.values()), SubscriberLimits())


@pytest.mark.parametrize("kind", ["host", "projections"])
async def test_only_processes_that_are_at_work_are_taken_up(
    kind: str, keeper: Keeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that its coordinator had made and not opened would answer each poll, and never do anything."""
    url = f"sqlite:///{tmp_path}/shop.db"

    def processes(holder: str) -> RayProcesses:
        kept = Keeper(keeper.handle, holder, keeper.namespace)
        plan = partial(host_plan, url, keeper) if kind == "host" else partial(projection_plan, url)
        return RayProcesses(HostProcess if kind == "host" else ProjectionHostProcess, kind, kept, 0.01, None, plan)

    made = processes("holder-1")
    await made.start(f"{kind}-1-1-1", None)
    with pytest.raises(NotAStore):
        await made.open(f"{kind}-1-1-1")
    await (await open_store(url)).close()
    await made.start(f"{kind}-2-1-2", None)
    node = await made.open(f"{kind}-2-1-2")

    successor = processes("holder-1")
    assert await successor.adopt() == {f"{kind}-2-1-2": node}
    with pytest.raises(ActorDiedError):
        await made._handles[f"{kind}-1-1-1"].health.remote()

    await made.start(f"{kind}-3-1-3", None)  # its coordinator did not know yet that it is followed
    assert await successor.strays() == [f"{kind}-3-1-3"]
    await successor.kill(f"{kind}-3-1-3")
    with pytest.raises(ActorDiedError):
        await made._handles[f"{kind}-3-1-3"].health.remote()
    assert await successor.strays() == []

    make, was_made = made._make, threading.Event()

    def make_slowly(name: str, node: str | None) -> Any:
        time.sleep(0.5)
        handle = make(name, node)
        was_made.set()
        return handle

    monkeypatch.setattr(made, "_make", make_slowly)
    making = asyncio.create_task(made.start(f"{kind}-4-1-4", None))  # for a place that is given up at once
    await asyncio.sleep(0)
    making.cancel()
    with pytest.raises(asyncio.CancelledError):
        await making
    await made.kill(f"{kind}-4-1-4")
    assert await asyncio.to_thread(was_made.wait, 10)
    assert await successor.strays() == [], "nobody would ever end it"
    assert await processes("holder-2").adopt() == {}, "another runtime's"
