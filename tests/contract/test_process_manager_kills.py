"""A process manager killed (-9) at each of its steps, statements as well as sendings: each promotion happens once."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from actors.hosting import HostCore
from actors.limits import HostLimits
from cluster.limits import ClientLimits
from cluster.relaying import HostCommands
from projections.customers import LoyaltyProgramme
from projections.issuing import Issued
from projections.managing import ProcessManagerSubscriber
from projections.outbox import Outbox
from projections.outbox_sql import OutboxState
from projections.progress import SubscriberLimits
from projections.read_models import ReadModels
from projections.relay import RelayLimits
from store import EventStore, open_store
from tests.contract.killing import audited
from tests.hosts import REGISTRY
from tests.logs import Log, created, ordered

pytestmark = pytest.mark.timeout(120)
SHARDS = range(2)
NAMES = [f"c-{number}" for number in range(3)]
STEPS_MAX = 200
HOLDER = "a runtime that comes back"
STEPS_MIN = 10


class Steps:
    """Counts what a process manager does, and kills this process where it would do the n-th thing."""

    def __init__(self, kill_at: int) -> None:
        self.left = kill_at

    def count(self, *_: object) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)

    def watch(self, read_models: ReadModels) -> None:
        """Each statement that may write, and each commit."""
        engine: Any = getattr(read_models._database, "_writing").engine  # noqa: B009 - SQLite's only
        event.listen(engine, "before_cursor_execute", self.count)
        event.listen(engine, "commit", self.count)


class OneHost:
    """A host in this process, as a transport."""

    def __init__(self, core: HostCore, steps: Steps) -> None:
        self._core, self._steps = core, steps

    async def call(self, host: str, payload: bytes) -> bytes:
        self._steps.count()
        answers = await self._core.execute(payload)
        self._steps.count()
        return answers


class Acknowledging:
    """Commands, with a step before each is sent and one after it is acknowledged."""

    def __init__(self, commands: HostCommands, steps: Steps) -> None:
        self._commands, self._steps = commands, steps

    async def submit(self, command: Issued) -> None:
        self._steps.count()
        await self._commands.submit(command)
        self._steps.count()


async def _make(url: str) -> None:
    """Write a log in which each customer orders for 500 dollars in two orders, and one twice over."""
    store = await open_store(url, shards=len(SHARDS))
    log = await Log.on(store)
    await log.write(*map(created, NAMES))
    for number in range(2):
        await log.write(*(ordered(name, str(number), "250") for name in NAMES))
    await log.write(ordered(NAMES[0], "2", "500"))
    await store.release(1)
    await store.close()


async def _host(store: EventStore) -> HostCore:
    generation = await store.take(HOLDER)
    await store.assign(generation, dict.fromkeys(SHARDS, "host"))
    core = HostCore("host", store, REGISTRY, HostLimits(), lambda _: None)
    core.start()
    await core.claim(SHARDS)
    return core


async def _work(url: str, kill_at: int = 0) -> None:
    """Take the log, and send what follows from it, till nothing is left to do."""
    steps = Steps(kill_at)
    store = await open_store(url, create=False)
    core, read_models = await _host(store), ReadModels(url)
    client = HostCommands(OneHost(core, steps), store, len(SHARDS), ClientLimits())
    commands = Acknowledging(client, steps)
    limits, relay_limits = SubscriberLimits(apply_interval_s=0), RelayLimits(settle_interval_s=0, stop_s=0)
    subscriber = ProcessManagerSubscriber(
        store, read_models, LoyaltyProgramme, REGISTRY, commands, SHARDS, limits=limits, relay_limits=relay_limits
    )
    await subscriber.start()
    steps.watch(read_models)
    running = asyncio.create_task(subscriber.run())
    for shard, head in (await store.heads()).items():
        await subscriber.wait_for(shard, head, 20)
    subscriber.stop()
    await running
    await client.close()
    await core.stop()
    await read_models.close()
    await store.close()


async def _found(url: str) -> tuple[Counter[str], OutboxState]:
    """How often each customer was promoted, and what the outbox says."""
    store, read_models = await open_store(url, create=False), ReadModels(url)
    records = [record for shard in SHARDS for record in await store.read_shard(shard, 0, 1_000)]
    state = await Outbox(read_models, LoyaltyProgramme).state()
    await read_models.close()
    await store.close()
    return Counter(record.partition_key for record in records if record.type == "CustomerPromoted"), state


def _killed(url: str, step: int) -> None:
    asyncio.run(_work(url, step))


def _each_step(directory: str) -> None:
    """Fork for each step: in a process that has no threads and has imported everything."""
    made, work = Path(directory) / "made", Path(directory) / "work"
    made.mkdir()
    asyncio.run(_make(f"sqlite:///{made}/shop.db"))
    url = f"sqlite:///{work}/shop.db"
    fork = multiprocessing.get_context("fork")
    for step in range(1, STEPS_MAX):
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree(made, work)
        child = fork.Process(target=_killed, args=(url, step))
        child.start()
        child.join()
        if child.exitcode != 0:
            assert child.exitcode == -signal.SIGKILL, step
            asyncio.run(_work(url))
        promoted, state = asyncio.run(_found(url))
        assert promoted == dict.fromkeys(NAMES, 1), step
        assert state == OutboxState(0, 0, "", len(NAMES), 0, 0, ""), step
        assert asyncio.run(audited(url, LoyaltyProgramme)) == [], step
        if child.exitcode == 0:
            assert step > STEPS_MIN, "it has more steps"
            return
    raise AssertionError(f"it has fewer steps than {STEPS_MAX}")


def test_killed_at_each_step_it_promotes_everybody_once(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_each_step, args=(str(tmp_path),))
    child.start()
    child.join(100)
    assert child.exitcode == 0
