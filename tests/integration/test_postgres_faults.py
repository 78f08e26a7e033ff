"""What comes between a PostgreSQL store and its server: lost replies, restarts, silence. None loses an event.

What is stored is looked at by SQL of the test's own, not through the store. Not here: what a server that can be reached
refuses (`test_postgres_refusals.py`).
"""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from store import OutcomeUnknown, StoreUnavailable, open_store, postgres_sessions
from store.postgres import PostgresStore
from store.records import ShardAppend
from tests.contract.rows import append, own, rows
from tests.integration.postgres_log import FEW, MANY, LogSql, note, opened, until_gone, until_noticed
from tests.postgres import Server
from tests.proxies import Proxy

pytestmark = pytest.mark.usefixtures("short_waits")


async def test_a_session_ended_while_idle_is_replaced_and_recorded_before_the_next_append(
    postgres_store: PostgresStore, postgres_log: LogSql
) -> None:
    await postgres_store.claim("h-1", [1, 2])
    before, session = (await postgres_store.writers())["h-1"], await postgres_store._sessions.writer()
    postgres_log("SELECT pg_terminate_backend(writer_pid::int, 5000) FROM hosts")
    await until_gone(session)
    assert await append(postgres_store, 2, rows(1, "note-a", FEW)) == set()
    after = (await postgres_store.writers())["h-1"]
    assert after != before
    recorded = (
        "SELECT count(*) FROM pg_stat_activity, hosts WHERE pid = writer_pid AND application_name LIKE 'eventray%'"
    )
    assert postgres_log(recorded) == "1"
    assert postgres_log.log() == note(FEW)


async def test_a_new_session_is_recorded_for_all_hosts_of_the_store_but_not_for_those_that_moved_on(
    postgres_store: PostgresStore, postgres_log: LogSql, postgres_url: str
) -> None:
    other = await opened(postgres_url)
    await postgres_store.assign(1, {1: "h-1", 2: "h-2", 3: "h-3"})
    await postgres_store.claim("h-1", [1])
    await postgres_store.claim("h-2", [2])
    await postgres_store.claim("h-3", [3])
    await other.claim("h-3", [3])
    others = (await other.writers())["h-3"]
    (await postgres_store._sessions.writer()).terminate()
    assert await postgres_store.append([ShardAppend(2, 2, 0, rows(2, "note-b", 1))]) == set()
    writers = await postgres_store.writers()
    assert writers["h-1"] == writers["h-2"] == await postgres_store._writer() != others
    assert writers["h-3"] == others
    await other.close()


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_connection_lost_before_the_commit_leaves_nothing(
    postgres_store: PostgresStore, postgres_log: LogSql, count: int
) -> None:
    postgres_log.fall("events")
    with pytest.raises((OutcomeUnknown, StoreUnavailable)) as lost:
        await append(postgres_store, 1, rows(1, "note-a", count))
    if count == MANY:  # COMMIT had not been sent
        assert isinstance(lost.value, StoreUnavailable)
        assert lost.value.passing
    else:
        assert isinstance(lost.value, OutcomeUnknown)
    postgres_log.heal("events")
    assert await postgres_store.settle({1: 1}) == {1: 0}
    assert postgres_log.log() == []
    assert await append(postgres_store, 1, rows(1, "note-a", count)) == set()
    assert postgres_log.log() == note(count)


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "silent"])
@pytest.mark.parametrize("loses_request", [True, False], ids=["request lost", "reply lost"])
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_commit_whose_reply_is_lost_is_settled_to_the_truth(
    postgres_url: str, postgres_log: LogSql, proxy: Proxy, count: int, loses_request: bool, closes: bool
) -> None:
    direct = await opened(postgres_url)
    store = await opened(proxy.url(postgres_url))
    await own(store, "h-1", [1])
    proxy.loses_request, proxy.closes = loses_request, closes
    proxy.marker = b"note-a" if count == FEW else b"COMMIT\0"
    since = time.monotonic()
    with pytest.raises(OutcomeUnknown):
        await append(store, 1, rows(1, "note-a", count))
    assert time.monotonic() - since < 4
    head = 0 if loses_request else count
    assert proxy.lost >= 1
    assert await store.settle({1: 1}) == {1: head}
    assert postgres_log.log() == note(head)
    assert await append(store, 1, rows(1, "note-a", count, after=head)) == set()
    assert postgres_log.log() == note(head + count)
    assert postgres_log.head() == head + count == (await direct.heads())[1]
    await store.close()
    await direct.close()


async def test_a_commit_that_comes_late_is_over_before_it_is_settled(
    postgres_store: PostgresStore, postgres_log: LogSql
) -> None:
    """The backend hangs with the whole append in its hands: nothing may be read before that is decided."""
    backend = (await postgres_store._writer()).pid
    os.kill(backend, signal.SIGSTOP)
    try:
        since = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await append(postgres_store, 1, rows(1, "note-a", FEW))
        with pytest.raises(StoreUnavailable, match="does not end") as unsettled:
            await postgres_store.settle({1: 1})
        assert unsettled.value.passing
        assert time.monotonic() - since < 6
    finally:
        os.kill(backend, signal.SIGCONT)
    settled = await postgres_store.settle({1: 1})
    assert settled == {1: postgres_log.head()} == {1: len(postgres_log.log())}
    async with asyncio.timeout(10):
        while postgres_log(f"SELECT pid FROM pg_stat_activity WHERE pid = {backend}"):
            await asyncio.sleep(0.01)
    assert postgres_log.log() == note(settled[1])
    assert await append(postgres_store, 1, rows(1, "note-a", FEW, after=settled[1])) == set()
    assert postgres_log.log() == note(settled[1] + FEW)


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_server_that_hangs_ends_each_call_in_time_and_then_serves_on(
    postgres_url: str, postgres_log: LogSql, proxy: Proxy, count: int
) -> None:
    store = await opened(proxy.url(postgres_url))
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 1))
    proxy.passing.clear()
    since = time.monotonic()
    outcomes = await asyncio.gather(
        append(store, 1, rows(1, "note-a", count, after=1)),
        store.heads(),
        store.read_stream("note-a", 0, 10),
        store.beat(1),
        return_exceptions=True,
    )
    assert time.monotonic() - since < 6
    assert isinstance(outcomes[0], OutcomeUnknown if count == FEW else StoreUnavailable)
    for outcome in outcomes[1:]:
        assert isinstance(outcome, StoreUnavailable)
        assert outcome.passing
    proxy.passing.set()
    head = (await store.settle({1: 1}))[1]
    assert postgres_log.log() == note(head)
    assert await append(store, 1, rows(1, "note-a", count, after=head)) == set()
    await store.beat(1)
    assert postgres_log.log() == note(head + count)
    await store.close()


@pytest.mark.parametrize("marker", [b"SHOW server_encoding", b"pg_catalog", b"FROM runtime"])
async def test_opening_does_not_wait_for_a_server_that_hangs(
    postgres_store: PostgresStore, postgres_url: str, proxy: Proxy, marker: bytes
) -> None:
    proxy.marker, proxy.closes = marker, False
    since = time.monotonic()
    with pytest.raises(StoreUnavailable) as refused:
        await open_store(proxy.url(postgres_url))
    assert refused.value.passing
    assert proxy.lost
    assert time.monotonic() - since < 6


@pytest.mark.parametrize("marker", [b"pg_catalog", b"UPDATE runtime", b"COMMIT"])
async def test_ownership_does_not_wait_for_a_server_that_hangs(postgres_url: str, proxy: Proxy, marker: bytes) -> None:
    store = await opened(proxy.url(postgres_url))
    proxy.marker, proxy.closes = marker, False
    since = time.monotonic()
    with pytest.raises(StoreUnavailable) as refused:
        await store.take("runtime")
    assert refused.value.passing
    assert proxy.lost
    assert time.monotonic() - since < 6
    generation = await store.take("runtime")
    await store.beat(generation)
    await store.close()


async def test_closing_does_not_wait_for_a_server_that_hangs(
    postgres_url: str, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_sessions, "CLOSE_TIMEOUT_S", 0.3)
    store = await opened(proxy.url(postgres_url))
    await own(store, "h-1", [1])
    await store.heads()
    proxy.passing.clear()
    async with asyncio.timeout(3):
        await store.close()


async def test_a_server_that_restarts_is_passing(
    postgres_store: PostgresStore, postgres_log: LogSql, postgres_server: Server
) -> None:
    await append(postgres_store, 1, rows(1, "note-a", FEW))
    before = await postgres_store._writer()
    await asyncio.to_thread(postgres_server.stop)
    try:
        await until_noticed(postgres_store)
        for use in (
            append(postgres_store, 1, rows(1, "note-a", 1, after=FEW)),
            postgres_store.heads(),
            postgres_store.beat(1),
            postgres_store.routes(),
            postgres_store.settle({1: 1}),
            postgres_store.claim("h-1", [1]),
            postgres_store.read_stream("note-a", 0, 9),
        ):
            with pytest.raises(StoreUnavailable) as down:
                await use
            assert down.value.passing
    finally:
        await asyncio.to_thread(postgres_server.start)
    assert (await postgres_store.heads())[1] == FEW
    assert await append(postgres_store, 1, rows(1, "note-a", MANY, after=FEW)) == set()
    await postgres_store.beat(1)
    assert postgres_log.log() == note(FEW + MANY)
    assert (await postgres_store.writers())["h-1"] != before


async def test_a_closed_store_says_so(postgres_store: PostgresStore) -> None:
    await postgres_store.close()
    for use in (
        postgres_store.heads(),
        postgres_store.append([ShardAppend(1, 1, 0)]),
        postgres_store.beat(1),
        postgres_store.claim("h-1", [1]),
    ):
        with pytest.raises(StoreUnavailable, match="closed"):
            await use


async def test_reads_at_once_give_back_each_session_that_they_opened(postgres_store: PostgresStore) -> None:
    await postgres_store.read_shard(0, 0, 1)
    await asyncio.gather(postgres_store.read_shard(0, 0, 1), postgres_store.read_shard(0, 0, 1))
    assert len(postgres_store._sessions._idle) == 2
