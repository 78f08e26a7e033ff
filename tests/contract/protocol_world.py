"""A world of hosts on one store, for the protocol's state machine: held, robbed of replies, failed and crashed at will.

Every host has its own opened store, watched and hampered (`watched_store.py`). The loop's clock jumps to the next timer
when nothing is under way at the store, so that back-offs take no time. Not here: what is right (`protocol_model.py`).
"""

from __future__ import annotations

import asyncio
import selectors
import sqlite3
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, closing
from typing import Any, TypeVar

import asyncpg
from sqlalchemy import make_url

from actors.customers import Customer, Order
from actors.errors import StaleCall
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.registry import AggregateRegistry
from actors.wire import unpack_answers
from store import EventRecord, EventStore, StoreUnavailable, open_store
from store.records import Snapshot
from tests.contract.protocol_model import ProtocolModel, Sending
from tests.contract.watched_store import WatchedStore

T = TypeVar("T")
REGISTRY = AggregateRegistry([Customer, Order])
LIMITS = HostLimits(beat_s=1_000_000.0, presume_new_after=1)
SETTLING_S = 3.0
"""Longer than any back-off of a host; on the jumping clock."""


class _Selector(selectors.DefaultSelector):
    """Jumps over waiting, unless something outside the loop is under way."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.outside = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.outside:
            began_s = time.monotonic()
            events = super().select(timeout)
            self.now_s += time.monotonic() - began_s
            return events
        events = super().select(0)
        if not events and timeout:
            self.now_s += timeout + 1e-6
        return events


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock stands still while nothing waits, and jumps when all do."""

    def __init__(self) -> None:
        self.selector = _Selector()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now_s


class World:
    """The store, its coordinator, the hosts, and the model that watches them."""

    def __init__(self, url: str, shards: int, happened: Counter[str]) -> None:
        self.url, self.shards, self.happened = url, shards, happened
        self.loop = JumpingLoop()
        self.turn = asyncio.Lock()
        self.visits = 0
        """How often anybody went to the store."""
        self.problems: list[Exception] = []
        self.hosts: list[Host] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.model: ProtocolModel
        self._opened: list[EventStore] = []
        self._coordinator: EventStore
        self._generation = 0

    # --- from outside the loop ---

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def begin(self) -> None:
        """Open the store and take it; the model starts from what is there."""
        self.run(self._begin())

    def settle_down(self) -> None:
        """Let everybody go on until nothing moves any more; raise what the model found wrong."""
        self.run(self._settle_down())
        for task in [task for task in self.tasks if task.done()]:
            self.tasks.remove(task)
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, Exception)
                self.problems.append(error)
        if self.problems:
            raise self.problems[0]

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(self.loop.create_task(work))

    def end(self) -> None:
        """Stop everything, whatever its state."""
        self.run(self._end())
        self.loop.close()

    # --- what happens ---

    async def add_host(self, name: str) -> Host:
        store = await self._open()
        host = Host(len(self.hosts), name, WatchedStore(store, self, len(self.hosts)))
        self.hosts.append(host)
        host.core.start()
        return host

    async def assign(self, assignments: Mapping[int, str | None]) -> None:
        async with self.at_store():
            await self._coordinator.assign(self._generation, assignments)
            self.model.assigned.update(assignments)

    async def log(self) -> tuple[list[EventRecord], dict[int, int]]:
        """Read the log since the beginning, and the heads: through the port, and by SQL where there is any."""
        async with self.at_store():
            rows = await raw_rows(self.url, self._since)
            heads = await self._coordinator.heads()
            log = [
                record
                for shard, head in self._since.items()
                for record in await self._coordinator.read_shard(shard, head, 10_000)
            ]
        assert rows is None or sorted(rows) == sorted(log), "the port reads other rows than SQL does"
        return log, heads

    async def snapshots(self) -> dict[str, Snapshot]:
        """Read the snapshots of all streams of the log."""
        async with self.at_store():
            return await self._coordinator.read_snapshots({record.stream for record in self.model.log})

    @asynccontextmanager
    async def at_store(self) -> AsyncIterator[None]:
        """One thing at a time, so that the model sees commits in their order; meanwhile the clock is a real one."""
        self.visits += 1
        async with self.turn:
            self.loop.selector.outside += 1
            try:
                yield
            finally:
                self.loop.selector.outside -= 1

    async def _settle_down(self) -> None:
        visits = -1
        while self.visits != visits or self.turn.locked():
            visits = self.visits
            await asyncio.sleep(SETTLING_S)

    async def _begin(self) -> None:
        self._coordinator = await self._open()
        async with self.at_store():
            self._generation = await self._coordinator.take("the coordinator")
            self._since = await self._coordinator.heads()
            routes = await self._coordinator.routes()
        self.model = ProtocolModel(
            self._coordinator.store_id,
            self.shards,
            dict(self._since),
            {route.shard: route.epoch for route in routes},
            {route.shard: route.host for route in routes},
        )

    async def _open(self) -> EventStore:
        async with self.at_store():
            self._opened.append(await open_store(self.url, self.shards))
        return self._opened[-1]

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        self.loop.selector.outside += 1
        await asyncio.gather(*others, return_exceptions=True)
        await self._coordinator.release(self._generation)
        for store in self._opened:
            await store.close()
        await self.loop.shutdown_default_executor()


class Host:
    """One process of a host. Another one may bear the same name."""

    def __init__(self, number: int, name: str, store: WatchedStore) -> None:
        self.number, self.name, self.store = number, name, store
        self.core = HostCore(name, store, REGISTRY, LIMITS, lambda _records: None)
        self.epochs: dict[int, list[int]] = {}
        """By shard, all the epochs at which it claimed it."""
        self.last_numbers: dict[str, int] = {}
        """By client session, the last call number that it took."""

    async def claim(self, shards: Iterable[int]) -> None:
        try:
            epochs = await self.core.claim(shards)
        except StoreUnavailable:
            return
        for shard, epoch in epochs.items():
            self.epochs.setdefault(shard, []).append(epoch)

    async def execute(self, session: str, number: int, call: bytes, sendings: Sequence[Sending]) -> None:
        """Deliver a call; the model hears of its arrival and of its answers."""
        model = self.store.world.model
        stale = number <= self.last_numbers.get(session, -1)
        if not stale:
            self.last_numbers[session] = number
            model.sent(sendings)
        try:
            answers = unpack_answers(await self.core.execute(call))
        except StaleCall:
            assert stale, f"call {number} was refused, and was not old"
            return
        assert not stale, f"call {number} of {session} is an old copy, and acted"
        if not self.store.dead:
            model.answered(sendings, answers)


async def raw_rows(url: str, after: Mapping[int, int]) -> list[EventRecord] | None:
    """Read the events above these positions with the bare driver; None where the backend has no SQL."""
    query = f"SELECT {', '.join(EventRecord._fields)} FROM events"
    rows: list[Any]
    if url.startswith("sqlite"):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            rows = connection.execute(query).fetchall()
    elif url.startswith("postgresql"):
        connection = await asyncpg.connect(make_url(url).render_as_string(hide_password=False))
        rows = await connection.fetch(query)
        await connection.close()
    else:
        return None
    return [record for record in map(EventRecord._make, rows) if record.position > after[record.shard]]
