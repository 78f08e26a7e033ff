"""Processes killed (-9) at each statement of theirs: handlers leave no event out, read models are what the log says."""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from actors.customers import OrderCreated
from projections.customers import DailySales
from projections.errors import ReadModelMissing
from projections.handler import Handler, Policy
from projections.handler_sink import HandlerSink
from projections.progress import SubscriberLimits
from projections.projection_sink import ProjectionSubscriber
from projections.read_models import ReadModels
from projections.subscriber import Subscriber
from store import open_store
from tests.contract.killing import Kills, audited, kill_at, killed_at_each_statement
from tests.logs import EVENTS, Log, created, ordered

pytestmark = pytest.mark.timeout(120)
LIMITS = SubscriberLimits(
    batch_size_max=6, heads_interval_s=0.0, apply_interval_s=0.0, retry_first_s=0.001, retry_max_s=0.002
)
NAMES = ["a", "b"]
ORDERS = 2


async def make(url: str) -> None:
    store = await open_store(url, shards=1)
    log = await Log.on(store)
    await log.write(*map(created, NAMES))
    for number in range(ORDERS):
        await log.write(*(ordered(name, str(number)) for name in NAMES))
    await store.release(1)
    await store.close()


class Writing(Handler, start="beginning", policy=Policy(attempts_max=2, wait_first_s=0.001, wait_max_s=0.001)):
    """Writes a line for each order, and fails at one."""

    def __init__(self, directory: Path, poison: str = "") -> None:
        self.lines, self.poison = directory / "lines", poison

    async def on_ordered(self, event: OrderCreated) -> None:
        if event.order_id == self.poison:
            raise ValueError(self.poison)
        with self.lines.open("a") as file:
            file.write(f"{event.order_id}\n")


def directory_of(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///")).parent


async def handled(url: str, poisons: list[str], kill: int = 0, handler_class: type[Writing] = Writing) -> None:
    """Let the handler take all that it can, failing at one order after the other, each retried at the next one."""
    store = await open_store(url, create=False)
    if kill:
        engine: Any = store
        kill_at(engine._engine.sync_engine, kill)
    for poison in poisons:
        handler_sink = HandlerSink(store, handler_class(directory_of(url), poison), EVENTS)
        subscriber = Subscriber(store, handler_sink, [0], start="beginning", limits=LIMITS)
        await subscriber.start()
        if handler_class is Writing:
            await store.wish("Writing", None, "retry")
        still = 0
        async with asyncio.timeout(20):
            while still < 2:
                moved = (await subscriber.step()).applied or subscriber.lag().blocked
                still = 0 if moved else still + 1
                await asyncio.sleep(0.002)
        handler_sink.close()
    await store.close()


async def handle(url: str, kill: int) -> None:
    await handled(url, ["a-0", ""], kill)


async def check_handled(url: str) -> None:
    await handled(url, ["", ""])  # what was killed within a retry past its last attempt has to be retried once more
    lines = (directory_of(url) / "lines").read_text().split()
    for name in NAMES:
        first_times = [line for line in dict.fromkeys(lines) if line.startswith(name)]
        assert first_times == [f"{name}-{number}" for number in range(ORDERS)], lines
    store = await open_store(url, create=False)
    assert await store.parked() == []
    ((shard, checkpoint),) = (await store.checkpoints("Writing")).items()
    assert checkpoint.position == (await store.heads())[shard] == len(NAMES) * (ORDERS + 1)
    await store.close()


def test_a_handler_killed_at_each_statement_leaves_no_event_out(tmp_path: Path) -> None:
    """Of moving on, parking, failing again at a retry, and unparking."""
    killed_at_each_statement(tmp_path, Kills(make, handle, check_handled, 15))


class Ending(Writing, name="Writing"):
    """Ends its process at an order."""

    async def on_ordered(self, event: OrderCreated) -> None:
        if event.order_id == self.poison:
            os.kill(os.getpid(), signal.SIGKILL)
        await super().on_ordered(event)


async def ended_by_its_handler(url: str, poison: str) -> None:
    await handled(url, [poison], handler_class=Ending)


def _until_none_ends(directory: Path, poison: str) -> None:
    url = f"sqlite:///{directory}/shop.db"
    asyncio.run(make(url))
    fork = multiprocessing.get_context("fork")
    for _ in range(10):
        child = fork.Process(target=lambda: asyncio.run(ended_by_its_handler(url, poison)))
        child.start()
        child.join()
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
    assert child.exitcode == 0
    asyncio.run(check_given_up(url, poison))
    asyncio.run(check_handled(url))


async def check_given_up(url: str, poison: str) -> None:
    """All went on but for what waits behind the event that ended the process."""
    store = await open_store(url, create=False)
    (row,) = await store.parked("Writing")
    assert (row.partition_key, row.wish, row.attempts) == ("a", "", Writing.policy.attempts_max)
    assert row.error == "it has ended its process, 2 times"
    lines = (directory_of(url) / "lines").read_text().split()
    before = int(poison.removeprefix("a-"))
    assert set(lines) == {f"b-{number}" for number in range(ORDERS)} | {f"a-{number}" for number in range(before)}
    await store.close()


@pytest.mark.parametrize("poison", ["a-0", f"a-{ORDERS - 1}"])
def test_an_event_that_ends_the_process_each_time_is_given_up(tmp_path: Path, poison: str) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_until_none_ends, args=(tmp_path, poison))
    child.start()
    child.join(100)
    assert child.exitcode == 0


async def followed(url: str, kill: int = 0) -> None:
    store, read_models = await open_store(url, create=False), ReadModels(url)
    if kill:
        database: Any = read_models._database
        kill_at(database._writing.engine, kill)
    subscriber = ProjectionSubscriber(store, read_models, DailySales, EVENTS, [0], limits=LIMITS)
    await subscriber.start()
    while (await subscriber.step()).more:
        pass
    await read_models.close()
    await store.close()


async def check_followed(url: str) -> None:
    with contextlib.suppress(ReadModelMissing):  # it was killed before that was made
        assert await audited(url, DailySales) == []
    await followed(url)
    assert await audited(url, DailySales) == []


def test_a_projection_killed_at_each_statement_is_what_the_log_says(tmp_path: Path) -> None:
    """Of making the tables, changing rows, and moving the checkpoint."""
    killed_at_each_statement(tmp_path, Kills(make, followed, check_followed, 8))
