"""A database that stands still: callers wait, then are told, and no process grows without bound meanwhile."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray._private.state import actors

from actors import Aggregate, Command
from actors.errors import CommandTimeout, Overloaded
from actors.wire import Receipt
from cluster import Application, Runtime, Settings
from cluster.ray_edge import namespace_of
from store import Event

pytestmark = pytest.mark.usefixtures("ray_address")

TEXT = "x" * 16 * 1024
NOTES = 6_000
"""Together 100 MB: several times what host and client may hold."""
PATIENCE_S = 4.0
BOUND_BYTES = 4 * 1024 * 1024
GROWTH_MAX_BYTES = 80 * 1024 * 1024
"""Of one process. Every byte held is there a few times: as it came, decoded, as an event, as a row."""


class Noted(Event):
    page_id: str
    text: str


class Note(Command):
    page_id: str
    text: str


class Page(Aggregate):
    def note(self, command: Note) -> None:
        self.raise_event(Noted(page_id=command.page_id, text=command.text))

    def on_noted(self, event: Noted) -> None:
        pass


app = Application(aggregates=[Page], projections=[])
SETTINGS = Settings(
    client_in_flight_bytes_max=3 * BOUND_BYTES,
    host_pending_bytes_max=BOUND_BYTES,
    host_unstored_bytes_max=BOUND_BYTES,
    oldest_pending_max_s=60,
)


async def host_process(runtime: Runtime) -> psutil.Process:
    status = await runtime.status()
    handle: Any = ray.get_actor(str(status.hosts[0].name), namespace=namespace_of(status.store_id))
    return psutil.Process(int(actors(actor_id=handle._actor_id.hex())["Pid"]))


async def grown(process: psutil.Process, at_first: int, over: asyncio.Event) -> int:
    """Watch a process until it is over; return by how many bytes it had grown at most."""
    most = 0
    while not over.is_set():
        most = max(most, process.memory_info().rss - at_first)
        await asyncio.sleep(0.02)
    return most


@pytest.mark.timeout(120)
async def test_while_the_database_stands_still_callers_wait_and_memory_does_not_grow(tmp_path: Path) -> None:
    answers: Counter[str] = Counter()
    async with Runtime.open(
        f"sqlite:///{tmp_path}/notes.db", app=f"{__name__}:app", shards=4, settings=SETTINGS
    ) as runtime:

        async def submit(number: int, timeout_s: float) -> None:
            try:
                note = Note(page_id=f"n-{number % 200}", text=TEXT)
                receipt = await runtime.submit(note, command_id=f"note-{number}", timeout_s=timeout_s)
                answers[type(receipt).__name__] += 1
            except (Overloaded, CommandTimeout) as error:
                answers[type(error).__name__] += 1

        await asyncio.gather(*(submit(number, 30) for number in range(400)))
        watched, over = [await host_process(runtime), psutil.Process()], asyncio.Event()
        watching = [asyncio.create_task(grown(each, each.memory_info().rss, over)) for each in watched]
        assert answers.pop(Receipt.__name__) == 400
        with closing(sqlite3.connect(tmp_path / "notes.db", isolation_level=None)) as holder:
            holder.execute("BEGIN IMMEDIATE")
            began_s = time.monotonic()
            await asyncio.gather(*(submit(number, PATIENCE_S) for number in range(1_000, 1_000 + NOTES)))
            assert time.monotonic() - began_s < 3 * PATIENCE_S, "each is told at its own deadline, wherever it waits"
            holder.execute("ROLLBACK")
        over.set()
        host_bytes, client_bytes = await asyncio.gather(*watching)
        assert max(host_bytes, client_bytes) < GROWTH_MAX_BYTES
        assert set(answers) == {Overloaded.__name__, CommandTimeout.__name__}, "nobody waited for ever, or was fooled"
        assert answers.total() == NOTES
        await submit(1, 30)
        assert answers[Receipt.__name__] == 1, "and then it goes on"
    with closing(sqlite3.connect(tmp_path / "notes.db")) as store:
        (doubled,) = store.execute(
            "SELECT count(*) FROM (SELECT command_key FROM events GROUP BY 1 HAVING count(*) > 1)"
        ).fetchone()
    assert doubled == 0
