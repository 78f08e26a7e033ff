"""What a thread has begun is undone in the end, also where Ctrl-C came while it ran."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from cluster import Settings, life, local_ray, ray_session
from cluster.application import default_application
from cluster.ray_probe import RayUnavailable
from cluster.replaying import replay_store
from cluster.undoing import begun
from store import open_store
from store.process import machine, this_process
from store.records import Writer

KEEPER = Writer("this machine", 1, "then")


class Slow:
    """A blocking call that goes on until it is let."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.undone: list[Any] = []
        self._runs, self._go_on = threading.Event(), threading.Event()

    def __call__(self, *_: object) -> Any:
        self._runs.set()
        assert self._go_on.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    async def cancelled(self, work: asyncio.Task[Any], times: int = 1) -> None:
        """Cancel who has called it while it runs, then let it end."""
        assert await asyncio.to_thread(self._runs.wait, 10)
        for _ in range(times):
            work.cancel()
            await asyncio.sleep(0)
            assert not work.done()
        self._go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await work


async def beginning(slow: Slow) -> None:
    async with AsyncExitStack() as ending:
        await begun(slow, slow.undone.append, ending)


@pytest.mark.parametrize("times", [1, 3])
async def test_what_ends_after_its_caller_was_cancelled_is_undone(times: int) -> None:
    slow = Slow("a Ray")
    await slow.cancelled(asyncio.create_task(beginning(slow)), times)
    assert slow.undone == ["a Ray"]


async def test_what_failed_is_not() -> None:
    slow = Slow(OSError("no room"))
    await slow.cancelled(asyncio.create_task(beginning(slow)))
    slow._go_on.set()
    with pytest.raises(OSError, match="no room"):
        await beginning(slow)
    assert slow.undone == []


async def test_up_ends_the_ray_whose_start_ctrl_c_came_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(("10.0.0.1:6379", KEEPER))
    monkeypatch.setattr(local_ray, "find_or_begin", slow)
    monkeypatch.setattr(local_ray, "stop", slow.undone.append)
    await slow.cancelled(asyncio.create_task(life.up(f"sqlite:///{tmp_path}/s.db", 1, None, "local", 4, Settings())))
    assert slow.undone == [KEEPER]


class Unwatched:
    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        raise AssertionError(name)


@pytest.mark.parametrize("due", [True, False])
async def test_work_over_shards_lets_go_of_the_ray_whose_start_ctrl_c_came_into(
    due: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else that Ray ended with the interpreter, which took it twenty seconds."""
    url = f"sqlite:///{tmp_path}/s.db"
    await (await open_store(url, shards=4)).close()
    slow = Slow(due)
    monkeypatch.setattr(ray_session, "connect", slow)
    monkeypatch.setattr(ray_session, "disconnect", lambda: slow.undone.append("let go"))
    await slow.cancelled(asyncio.create_task(replay_store(url, default_application(), Unwatched())))
    assert slow.undone == ["let go"] * due


@pytest.mark.parametrize(
    ("beginner", "keeper"),
    [(None, KEEPER), (Writer(machine(), 2**22 + 1, "then"), KEEPER), (this_process(), None)],
    ids=["its runtime is up", "who began it was killed", "who began it is about to bring a runtime up"],
)
def test_a_ray_is_nobodys_once_who_began_it_has_ended(
    beginner: Writer | None, keeper: Writer | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = json.dumps([KEEPER, beginner]).encode()
    monkeypatch.setattr(local_ray, "_internal_kv_get", lambda *_, **__: kept)
    assert local_ray.keeper_of_this_ray() == keeper


class TestARayThatRuns:
    @pytest.fixture(autouse=True)
    def _sleeping_ray(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """What is begun sleeps, and counts as running at once."""
        self.begun: list[subprocess.Popen[bytes]] = []

        def sleep(*_: object, **__: object) -> subprocess.Popen[bytes]:
            self.begun.append(process := popen(["sleep", "60"]))
            return process

        popen = subprocess.Popen
        monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
        monkeypatch.setattr(local_ray, "TOKEN", tmp_path / ".ray" / "auth_token")
        monkeypatch.setattr(local_ray, "_temp_dir", lambda: str(tmp_path))
        monkeypatch.setattr(local_ray, "_wait_until_it_runs", lambda *_: None)
        monkeypatch.setattr(subprocess, "Popen", sleep)
        yield
        for process in self.begun:
            process.kill()
            process.wait()

    def test_keeps_at_once_who_keeps_it_and_who_began_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        kept: list[tuple[object, ...]] = []
        monkeypatch.setattr(local_ray, "remember", lambda *given: kept.append(given))
        address, keeper = local_ray.find_or_begin("local", Settings())
        assert keeper is not None
        assert keeper.pid == self.begun[0].pid
        assert kept == [(address, keeper, this_process())]

    def test_is_ended_where_that_can_not_be_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(local_ray, "ANSWER_MAX_S", 0.1)
        with pytest.raises(RayUnavailable, match="which process keeps it can't be kept"):
            local_ray.find_or_begin("local", Settings())
        assert self.begun[0].wait(10) == -signal.SIGTERM
