"""A rebuild killed (-9) at each of its statements: one whole read model is left, and the next rebuild completes it."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from projections.customers import CustomerProjection
from projections.projection_sink import ProjectionSubscriber
from projections.read_models import ReadModels
from projections.rebuild import fill, finish
from store import open_store
from tests.contract.killing import audited
from tests.logs import EVENTS, Log, created, ordered

pytestmark = pytest.mark.timeout(120)
SHARDS = range(2)
NAMES = [f"c-{number}" for number in range(4)]
STATEMENTS_MAX = 200


async def _make(url: str) -> None:
    """Write a log, whose read model is behind it by its last orders."""
    store = await open_store(url, shards=len(SHARDS))
    read_models = ReadModels(url)
    log = await Log.on(store)
    await log.write(*map(created, NAMES), *(ordered(name, "1") for name in NAMES))
    live = ProjectionSubscriber(store, read_models, CustomerProjection, EVENTS, SHARDS)
    await live.start()
    while (await live.step()).more:
        pass
    await log.write(*(ordered(name, "2") for name in NAMES))
    await store.release(1)
    await read_models.close()
    await store.close()


async def _rebuild(url: str, kill_at: int = 0) -> None:
    store = await open_store(url, create=False)
    read_models = ReadModels(url)
    if kill_at:
        _kill_at(read_models, kill_at)
    build = await read_models.begin_rebuild(CustomerProjection, SHARDS)
    for shard in SHARDS:
        await fill(store, read_models, CustomerProjection, EVENTS, build, [shard], lambda more: None)
    await finish(store, read_models, CustomerProjection, EVENTS, build)
    await read_models.close()
    await store.close()


def _kill_at(read_models: ReadModels, statement: int) -> None:
    """Kill this process where it would run its n-th statement that writes, or commit the transaction before it."""
    engine: Any = getattr(read_models._database, "_writing").engine  # noqa: B009 - SQLite's only
    left = statement

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", count)
    event.listen(engine, "commit", count)


async def _orders(url: str) -> list[int]:
    read_models = ReadModels(url)
    try:
        found = [(await read_models.query(CustomerProjection, name)).row for name in NAMES]
        return [each["total_orders"] for each in found if each is not None]
    finally:
        await read_models.close()


def _killed(url: str, statement: int) -> None:
    asyncio.run(_rebuild(url, statement))


def _each_statement(directory: str) -> None:
    """Fork for each statement: in a process that has no threads and has imported everything."""
    made, work = Path(directory) / "made", Path(directory) / "work"
    made.mkdir()
    asyncio.run(_make(f"sqlite:///{made}/shop.db"))
    url = f"sqlite:///{work}/shop.db"
    fork = multiprocessing.get_context("fork")
    for statement in range(1, STATEMENTS_MAX):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made, work)
        child = fork.Process(target=_killed, args=(url, statement))
        child.start()
        child.join()
        assert asyncio.run(_orders(url)) in ([1] * 4, [2] * 4), statement
        assert asyncio.run(audited(url, CustomerProjection)) == [], statement
        if child.exitcode == 0:
            assert statement > 20, "a rebuild has more statements"
            return
        assert child.exitcode == -signal.SIGKILL, statement
        asyncio.run(_rebuild(url))
        assert asyncio.run(_orders(url)) == [2] * 4, statement
        assert asyncio.run(audited(url, CustomerProjection)) == [], statement
    raise AssertionError(f"a rebuild has fewer statements than {STATEMENTS_MAX}")


def test_killed_at_each_statement_it_leaves_one_whole_read_model(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_each_statement, args=(str(tmp_path),))
    child.start()
    child.join(100)
    assert child.exitcode == 0
