"""Lost replies of what changes who may write, on PostgreSQL: done or not, doing it again leads to the truth.

What the coordinator and its hosts make of it is tested without a server (`tests/unit/test_lost_replies.py`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from store import EventRegistry, StoreUnavailable, Superseded, taking
from store.postgres import PostgresStore
from store.records import Claim, ShardAppend
from store.writing import OfflineWriter
from tests.contract.rows import rows
from tests.contract.test_offline_writer import Noted, notes
from tests.integration.postgres_log import LogSql, opened
from tests.proxies import Proxy

pytestmark = [
    pytest.mark.usefixtures("short_waits"),
    pytest.mark.parametrize("loses_request", [True, False], ids=["request lost", "reply lost"]),
]
WRITTEN, COMMIT = b"UPDATE", b"COMMIT"
"""Reads are committed too: a commit is lost only once something was written. A session names a statement only once."""
Lose = Callable[[Awaitable[object]], Awaitable[None]]


@pytest.fixture
async def direct(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store that is held, by its generation 1; shard 1 is assigned to h-1."""
    store = await opened(postgres_url)
    assert await store.take("runtime") == 1
    await store.assign(1, {1: "h-1"})
    yield store
    await store.close()


@pytest.fixture
async def store(direct: PostgresStore, postgres_url: str, proxy: Proxy) -> AsyncIterator[PostgresStore]:
    """The same store, behind the proxy."""
    store = await opened(proxy.url(postgres_url))
    yield store
    await store.close()


@pytest.fixture
def closes() -> bool:
    """Whether the connection is closed on the loss; else nothing more is heard of it."""
    return True


@pytest.fixture
def lose(proxy: Proxy, loses_request: bool, closes: bool) -> Lose:
    """Do something whose commit is lost on the way to the server, or the reply to it."""

    async def lose(work: Awaitable[object]) -> None:
        proxy.after, proxy.marker, proxy.loses_request, proxy.closes = WRITTEN, COMMIT, loses_request, closes
        with pytest.raises(StoreUnavailable, match="no event was written") as lost:
            await work
        assert lost.value.passing
        assert proxy.lost >= 1

    return lose


async def test_a_store_is_taken(
    direct: PostgresStore, store: PostgresStore, postgres_log: LogSql, lose: Lose, loses_request: bool
) -> None:
    await direct.release(1)
    await lose(store.take("another"))
    generation = await store.take("another")
    assert generation == (2 if loses_request else 3)
    assert postgres_log("SELECT generation, holder, released FROM runtime") == f"{generation}|another|f"
    await store.beat(generation)
    for former in range(1, generation):
        with pytest.raises(Superseded):
            await store.beat(former)


async def test_a_beat(store: PostgresStore, postgres_log: LogSql, lose: Lose, loses_request: bool) -> None:
    before = int(postgres_log("SELECT beat FROM runtime"))
    await lose(store.beat(1))
    await store.beat(1)
    assert int(postgres_log("SELECT beat FROM runtime")) == before + (1 if loses_request else 2)


async def test_shards_are_assigned(store: PostgresStore, postgres_log: LogSql, lose: Lose) -> None:
    await lose(store.assign(1, {1: "h-2", 2: "h-2"}))
    await store.assign(1, {1: "h-2", 2: "h-2"})
    assert postgres_log("SELECT shard FROM shards WHERE assigned_to = 'h-2' ORDER BY shard") == "1\n2"
    assert await store.claim("h-1", [1, 2]) == {}


async def test_hosts_are_wanted(store: PostgresStore, lose: Lose) -> None:
    await lose(store.want_hosts(1, 3))
    await store.want_hosts(1, 3)
    assert await store.hosts_wanted() == 3


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "silent"])
async def test_shards_are_claimed(
    direct: PostgresStore, store: PostgresStore, postgres_log: LogSql, lose: Lose, loses_request: bool
) -> None:
    """The claim that was lost has no owner; who claims again has, and is recorded as the one to be ended."""
    await lose(store.claim("h-1", [1]))
    lost_epoch = 0 if loses_request else 1
    assert int(postgres_log("SELECT epoch FROM shards WHERE shard = 1")) == lost_epoch
    assert await store.claim("h-1", [1]) == {1: Claim(lost_epoch + 1, 0)}
    assert await store.append([ShardAppend(1, lost_epoch, 0, rows(1, "note-a", 1))]) == {1}
    assert await store.append([ShardAppend(1, lost_epoch + 1, 0, rows(1, "note-a", 1))]) == set()
    recorded = "SELECT count(*) FROM pg_stat_activity, hosts WHERE pid = writer_pid AND name = 'h-1'"
    assert postgres_log(recorded) == "1"
    assert await direct.end_writer("h-1")
    await direct.assign(1, {1: "h-2"})
    assert await direct.claim("h-2", [1]) == {1: Claim(lost_epoch + 2, 1)}
    assert await store.append([ShardAppend(1, lost_epoch + 1, 1, rows(1, "note-a", 1, after=1))]) == {1}


async def test_a_store_is_given_back(store: PostgresStore, postgres_log: LogSql, lose: Lose) -> None:
    await store.claim("h-1", [1])
    await lose(store.release(1))
    await store.release(1)
    assert postgres_log("SELECT released, (SELECT count(*) FROM hosts) FROM runtime") == "t|0"
    assert await store.take("another") == 2
    await store.release(1)  # it comes too late to mean this one
    assert postgres_log("SELECT released FROM runtime") == "f"


async def test_who_writes_offline_does_not_notice(
    direct: PostgresStore,
    store: PostgresStore,
    proxy: Proxy,
    loses_request: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(taking, "WATCH_S", 60)  # nobody waits for one that never ended
    await direct.release(1)

    def lose_next_commit(after: bytes = WRITTEN, marker: bytes = COMMIT) -> None:
        proxy.after, proxy.marker, proxy.loses_request = after, marker, loses_request

    writer = OfflineWriter(store, "a test", EventRegistry([Noted]))
    lose_next_commit()
    async with writer:
        assert proxy.lost == 1
        lose_next_commit()
        await writer.save_events("note-1", notes("a", "b"), 0, partition_key="k")
        assert proxy.lost == 2
        lose_next_commit(b"", b'{"text":"c"}')
        await writer.save_events("note-1", notes("c"), 2)
        lose_next_commit()
    assert [event.version for event in await writer.get_events("note-1")] == [1, 2, 3]
    assert proxy.lost == 4
    assert (await direct.holding()).released
