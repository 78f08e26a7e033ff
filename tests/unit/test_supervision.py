"""One place and its processes, in virtual time: what is done in which order, how soon, and when it is given up."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterator

import pytest

from actors.health import HostHealth
from cluster.settings import Settings
from cluster.supervision import SPARE_PATIENCE_S, Duty, Supervisor
from store import StoreUnavailable, Superseded, open_store
from tests.pretending import NODE, Pretended
from tests.virtual_time import run

SETTINGS = Settings(poll_interval_s=10, poll_timeout_s=1, open_timeout_s=30, close_timeout_s=5)


class Scene:
    """A place, whose first process serves; what happens is noted with its time."""

    def __init__(self, processes: Pretended) -> None:
        self.processes = processes
        self.refusals: list[Exception] = []
        """Of fencing, the last one first."""
        self.noted: list[str] = []
        self.at_s: list[float] = []
        self._numbers: Iterator[int] = iter(range(1, 1000))
        duty = Duty(self._fence, self._note("serves"), self._asked, self._note("failed"), self._note("over"))
        self.place = Supervisor("p", processes, SETTINGS, duty, self._new_name, lambda: NODE.node_id)
        self.running = asyncio.ensure_future(self.place.run())

    async def serves(self, name: str) -> None:
        """Wait until that process does."""
        await self.until(lambda: self.place.name == name)

    async def until(self, condition: Callable[[], bool], within_s: float = 1000) -> float:
        """Wait for a condition; return how long that took."""
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(within_s):
            while not condition():
                await asyncio.sleep(0.01)
        return asyncio.get_running_loop().time() - began_s

    def _new_name(self) -> str:
        return f"p-{next(self._numbers)}"

    async def _fence(self, name: str) -> None:
        if self.refusals:
            raise self.refusals.pop()
        self._note("fence")(name)

    def _asked(self, name: str, _health: HostHealth) -> None:
        """Polls are not noted."""

    def _note(self, what: str) -> Callable[[str | None], None]:
        def note(name: str | None) -> None:
            killed = "" if not isinstance(name, str) or name in self.processes.running else " (killed)"
            self.noted.append(f"{what} {name}{killed if what == 'over' else ''}")
            self.at_s.append(asyncio.get_running_loop().time())

        return note


def in_scene(work: Callable[[Scene], Awaitable[None]]) -> None:
    async def whole() -> None:
        store = await open_store("memory://supervision", shards=4)
        scene = Scene(Pretended(store))
        try:
            await work(scene)
        finally:
            scene.running.cancel()
            await asyncio.gather(scene.running, return_exceptions=True)

    run(whole())


def test_a_process_that_ends_is_noticed_at_once_and_its_work_is_free_when_it_is_fenced_and_ended() -> None:
    async def work(scene: Scene) -> None:
        await scene.serves("p-1")
        scene.processes.die("p-1")
        assert await scene.until(lambda: scene.place.name == "p-2") < 0.1
        assert scene.noted == ["serves p-1", "fence p-1", "over p-1 (killed)", "serves p-2"]

    in_scene(work)


def test_a_process_that_hangs_is_fenced_and_killed_before_its_work_is_free() -> None:
    async def work(scene: Scene) -> None:
        await scene.serves("p-1")
        scene.processes.hanging.add("p-1")
        await scene.serves("p-2")
        assert scene.noted[1:4] == [f"failed {NODE.node_id}", "fence p-1", "over p-1 (killed)"]

    in_scene(work)


def test_ending_a_lost_process_is_tried_until_it_is_done() -> None:
    async def work(scene: Scene) -> None:
        scene.refusals = [StoreUnavailable("away", True), StoreUnavailable("away", False)]
        await scene.serves("p-1")
        scene.processes.hanging.add("p-1")
        await scene.serves("p-2")
        assert scene.noted[2:4] == ["fence p-1", "over p-1 (killed)"]

    in_scene(work)


def test_one_that_may_not_fence_any_more_ends_nobody() -> None:
    async def work(scene: Scene) -> None:
        scene.refusals = [Superseded(1)]
        await scene.serves("p-1")
        scene.processes.hanging.add("p-1")
        with pytest.raises(Superseded):
            await scene.running
        assert "p-1" in scene.processes.running
        assert not any(each.startswith("over") for each in scene.noted)

    in_scene(work)


def test_where_none_can_begin_the_next_is_tried_ever_later_and_the_node_is_told_of() -> None:
    async def work(scene: Scene) -> None:
        scene.processes.refusals = [StoreUnavailable("away", True)] * 8
        took_s = await scene.until(lambda: scene.place.name == "p-9")
        failed_s = [at_s for each, at_s in zip(scene.noted, scene.at_s, strict=True) if each.startswith("failed")]
        assert scene.noted.count(f"failed {NODE.node_id}") == len(failed_s) == 8
        pauses_s = [later - earlier for earlier, later in itertools.pairwise(failed_s)]
        assert pauses_s == sorted(pauses_s)
        assert 0.1 < pauses_s[0] < 1
        assert 4 < pauses_s[-1] < 6
        assert took_s < 30
        assert isinstance(scene.place.serving.exception(), StoreUnavailable)

    in_scene(work)


def test_one_that_never_gets_ready_is_given_up_and_one_that_dies_on_the_way_at_once() -> None:
    async def work(scene: Scene) -> None:
        scene.processes.opening.clear()
        assert 29 < await scene.until(lambda: "p-2" in scene.processes.running) < 32
        assert "p-1" not in scene.processes.running
        scene.processes.die("p-2")
        assert await scene.until(lambda: "p-3" in scene.processes.running) < 2

    in_scene(work)


def test_a_spare_that_is_not_ready_is_not_waited_for() -> None:
    async def work(scene: Scene) -> None:
        await scene.serves("p-1")
        scene.processes.opening.clear()
        scene.processes.hanging.add("p-1")
        await scene.until(lambda: any(each.startswith("fence") for each in scene.noted))
        took_s = await scene.until(lambda: any(each.startswith("over") for each in scene.noted))
        assert "p-2" in scene.processes.running, "the spare"
        assert took_s < 2 * SPARE_PATIENCE_S

    in_scene(work)


def test_ending_a_place_takes_no_longer_than_settings_give_and_leaves_no_process() -> None:
    async def work(scene: Scene) -> None:
        async def never(_name: str) -> None:
            await asyncio.Event().wait()

        await scene.serves("p-1")
        scene.processes.hanging.add("p-1")
        await scene.until(lambda: "p-2" in scene.processes.running)
        scene.running.cancel()
        scene.processes.stop = never  # type: ignore[method-assign, assignment]
        began_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(60):
            await scene.place.stop()
        assert 4 < asyncio.get_running_loop().time() - began_s < 6
        assert not scene.processes.running, "neither the one that served nor its spare"

    in_scene(work)
