"""Killing a process (-9) where it would run its n-th statement that writes, for each n; and an audit. Not a test."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Engine, event

from projections.auditing import Comparison, LiveRows, RowFinding, fold_shard
from projections.projection import Projection
from projections.read_models import ReadModels
from store import open_store
from tests.logs import EVENTS

STATEMENTS_MAX = 200


class Kills(NamedTuple):
    """What is killed. Functions of modules, since they are run in other processes; each gets the store's URL."""

    make: Callable[[str], Coroutine[Any, Any, None]]
    """Makes a store, once."""
    work: Callable[[str, int], Coroutine[Any, Any, None]]
    """What is killed at a statement, by `kill_at`."""
    check: Callable[[str], Coroutine[Any, Any, None]]
    """Goes on where it was killed, and asserts what must then be so."""
    statements_min: int
    """So many statements there are at least."""


def kill_at(engine: Engine, statement: int) -> None:
    """Kill this process where it would run its n-th statement that writes, or commit."""
    left = statement

    def count(sql: str = "COMMIT") -> None:
        nonlocal left
        if sql.startswith(("INSERT", "UPDATE", "DELETE", "COMMIT", "CREATE", "DROP")):
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "before_cursor_execute", lambda *given: count(given[2]))
    event.listen(engine, "commit", lambda connection: count())


def killed_at_each_statement(directory: Path, kills: Kills) -> None:
    """Kill at the first statement, at the second, and so on, until none is left; check after each."""
    child = multiprocessing.get_context("spawn").Process(target=_each_statement, args=(directory, kills))
    child.start()
    child.join(100)
    assert child.exitcode == 0


async def audited(url: str, *projections: type[Projection]) -> list[RowFinding]:
    """Return in what the read models of a store differ from its log."""
    store, read_models = await open_store(url, create=False), ReadModels(url)
    live = LiveRows(Path(":memory:"))
    try:
        for projection in projections:
            await live.read(read_models, projection, range(store.shards))
        comparison = Comparison(live, projections)
        for shard in range(store.shards):
            comparison.add(await fold_shard(store, projections, EVENTS, shard, live.checkpoints, lambda more: None))
        comparison.finish()
        return comparison.findings
    finally:
        live.close()
        await read_models.close()
        await store.close()


def _run(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    async def to_its_end() -> None:
        await work(*arguments)

    asyncio.run(to_its_end())


def _each_statement(directory: Path, kills: Kills) -> None:
    """Fork for each statement: in a process that has no threads and has imported everything."""
    made, work = directory / "made", directory / "work"
    made.mkdir()
    _run(kills.make, f"sqlite:///{made}/shop.db")
    url = f"sqlite:///{work}/shop.db"
    fork = multiprocessing.get_context("fork")
    for statement in range(1, STATEMENTS_MAX):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made, work)
        child = fork.Process(target=_run, args=(kills.work, url, statement))
        child.start()
        child.join()
        assert child.exitcode in (0, -signal.SIGKILL), statement
        _run(kills.check, url)
        if child.exitcode == 0:
            assert statement > kills.statements_min, f"there were only {statement - 1}"
            return
    raise AssertionError(f"there are more than {STATEMENTS_MAX}")
