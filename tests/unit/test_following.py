"""`eventray events --follow`: what a stream has, then what is stored, each event once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from cluster.cli.following import follow
from store import EventRecord
from store.memory import MemoryStore
from tests.logs import Log, created, ordered


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = MemoryStore("following", shards=4)
    yield await Log.on(store)
    await store.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize(
    ("stream", "seen"),
    [(None, ["order-c-1-2", "customer-c-3"]), ("customer-c-1", ["customer-c-1"]), ("order-c-1-2", ["order-c-1-2"])],
)
async def test_it_shows_what_a_stream_has_then_what_is_stored(log: Log, stream: str | None, seen: list[str]) -> None:
    shown: list[EventRecord] = []
    await log.write(created("c-1"), created("c-2"))
    task = asyncio.create_task(follow("memory://following", stream, shown.append))
    await asyncio.sleep(0)
    await until(lambda: stream != "customer-c-1" or len(shown) == 1)
    await log.write(ordered("c-1", "2"))
    await until(lambda: stream == "customer-c-1" or bool(shown))
    await log.write(created("c-3"))
    await until(lambda: stream is not None or len(shown) == 2)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [record.stream for record in shown] == seen
