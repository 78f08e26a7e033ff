"""What goes wrong beneath a PostgreSQL store: lost replies, restarts, hung servers, full disks. None loses an event.

What is stored is looked at by SQL of the test's own, not through the store.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest

from store import OutcomeUnknown, StoreRejected, StoreUnavailable, open_store, postgres_database, postgres_sessions
from store.postgres import COPY_ROWS_MIN, PostgresStore
from store.records import ShardAppend
from tests.contract.rows import append, own, rows
from tests.postgres import Server, Sql
from tests.proxies import Proxy

FEW, MANY = 3, COPY_ROWS_MIN * 2
"""Rows that go in one statement, and by COPY."""
LOG = "SELECT stream, version, position FROM events ORDER BY position"


async def opened(url: str) -> PostgresStore:
    store = await open_store(url, shards=8)
    assert isinstance(store, PostgresStore)
    return store


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store whose shards 1 and 2 are claimed by h-1."""
    store = await opened(postgres_url)
    await own(store, "h-1", [1, 2])
    yield store
    await store.close()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_database, "REPLY_TIMEOUT_S", 1.5)
    monkeypatch.setattr(postgres_sessions, "END_TIMEOUT_S", 0.5)
    monkeypatch.setattr(postgres_database, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_database, "STATEMENT_TIMEOUT_S", 1.0)


class LogSql(Sql):
    """What is in the log, past the store."""

    def log(self) -> list[tuple[str, int, int]]:
        """All events of shard 1: stream, version, position."""
        lines = self(LOG).splitlines()
        return [(stream, int(version), int(position)) for stream, version, position in (x.split("|") for x in lines)]

    def head(self) -> int:
        return int(self("SELECT head FROM shards WHERE shard = 1"))


@pytest.fixture
def sql(postgres_server: Server, postgres_url: str) -> LogSql:
    return LogSql(postgres_server, postgres_url)


def note(count: int) -> list[tuple[str, int, int]]:
    """What shard 1 holds after `count` events of one stream, each once."""
    return [("note-a", number, number) for number in range(1, count + 1)]


async def until_noticed(store: PostgresStore) -> None:
    """Wait until the store has noticed that all its sessions are gone."""
    for session in list(store._sessions._all):
        await until_gone(session)


async def until_gone(session: asyncpg.Connection) -> None:
    deadline = time.monotonic() + 10
    while not session.is_closed():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)


async def test_a_session_ended_while_idle_is_replaced_and_recorded_before_the_next_append(
    store: PostgresStore, sql: LogSql
) -> None:
    await store.claim("h-1", [1, 2])
    before, session = (await store.writers())["h-1"], await store._sessions.writer()
    sql("SELECT pg_terminate_backend(writer_pid::int, 5000) FROM hosts")
    await until_gone(session)
    assert await append(store, 2, rows(1, "note-a", FEW)) == set()
    after = (await store.writers())["h-1"]
    assert after != before
    recorded = (
        "SELECT count(*) FROM pg_stat_activity, hosts WHERE pid = writer_pid AND application_name LIKE 'eventray%'"
    )
    assert sql(recorded) == "1"
    assert sql.log() == note(FEW)


async def test_a_new_session_is_recorded_for_all_hosts_of_the_store_but_not_for_those_that_moved_on(
    store: PostgresStore, sql: LogSql, postgres_url: str
) -> None:
    other = await opened(postgres_url)
    await store.assign(1, {1: "h-1", 2: "h-2", 3: "h-3"})
    await store.claim("h-1", [1])
    await store.claim("h-2", [2])
    await store.claim("h-3", [3])
    await other.claim("h-3", [3])
    others = (await other.writers())["h-3"]
    (await store._sessions.writer()).terminate()
    assert await store.append([ShardAppend(2, 2, 0, rows(2, "note-b", 1))]) == set()
    writers = await store.writers()
    assert writers["h-1"] == writers["h-2"] == await store._writer() != others
    assert writers["h-3"] == others
    await other.close()


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_connection_lost_before_the_commit_leaves_nothing(
    store: PostgresStore, sql: LogSql, count: int
) -> None:
    sql.fall("events")
    with pytest.raises((OutcomeUnknown, StoreUnavailable)) as lost:
        await append(store, 1, rows(1, "note-a", count))
    if count == MANY:  # COMMIT had not been sent
        assert isinstance(lost.value, StoreUnavailable)
        assert lost.value.passing
    else:
        assert isinstance(lost.value, OutcomeUnknown)
    sql.heal("events")
    assert await store.settle({1: 1}) == {1: 0}
    assert sql.log() == []
    assert await append(store, 1, rows(1, "note-a", count)) == set()
    assert sql.log() == note(count)


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "silent"])
@pytest.mark.parametrize("loses_request", [True, False], ids=["request lost", "reply lost"])
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_commit_whose_reply_is_lost_is_settled_to_the_truth(
    postgres_url: str, sql: LogSql, proxy: Proxy, count: int, loses_request: bool, closes: bool
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
    assert sql.log() == note(head)
    assert await append(store, 1, rows(1, "note-a", count, after=head)) == set()
    assert sql.log() == note(head + count)
    assert sql.head() == head + count == (await direct.heads())[1]
    await store.close()
    await direct.close()


async def test_a_commit_that_comes_late_is_over_before_it_is_settled(store: PostgresStore, sql: LogSql) -> None:
    """The backend hangs with the whole append in its hands: nothing may be read before that is decided."""
    backend = (await store._writer()).pid
    os.kill(backend, signal.SIGSTOP)
    try:
        since = time.monotonic()
        with pytest.raises(OutcomeUnknown):
            await append(store, 1, rows(1, "note-a", FEW))
        with pytest.raises(StoreUnavailable, match="does not end") as unsettled:
            await store.settle({1: 1})
        assert unsettled.value.passing
        assert time.monotonic() - since < 6
    finally:
        os.kill(backend, signal.SIGCONT)
    settled = await store.settle({1: 1})
    assert settled == {1: sql.head()} == {1: len(sql.log())}
    await asyncio.sleep(0.2)
    assert sql.log() == note(settled[1])
    assert await append(store, 1, rows(1, "note-a", FEW, after=settled[1])) == set()
    assert sql.log() == note(settled[1] + FEW)


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_server_that_hangs_ends_each_call_in_time_and_then_serves_on(
    postgres_url: str, sql: LogSql, proxy: Proxy, count: int
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
    assert sql.log() == note(head)
    assert await append(store, 1, rows(1, "note-a", count, after=head)) == set()
    await store.beat(1)
    assert sql.log() == note(head + count)
    await store.close()


@pytest.mark.parametrize("marker", [b"SHOW server_encoding", b"pg_catalog", b"FROM runtime"])
async def test_opening_does_not_wait_for_a_server_that_hangs(
    store: PostgresStore, postgres_url: str, proxy: Proxy, marker: bytes
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


async def test_a_server_that_restarts_is_passing(store: PostgresStore, sql: LogSql, postgres_server: Server) -> None:
    await append(store, 1, rows(1, "note-a", FEW))
    before = await store._writer()
    await asyncio.to_thread(postgres_server.stop)
    try:
        await until_noticed(store)
        for use in (append(store, 1, rows(1, "note-a", 1, after=FEW)), store.heads(), store.beat(1), store.routes(),
                    store.settle({1: 1}), store.claim("h-1", [1]), store.read_stream("note-a", 0, 9)):  # fmt: skip
            with pytest.raises(StoreUnavailable) as down:
                await use
            assert down.value.passing
    finally:
        await asyncio.to_thread(postgres_server.start)
    assert (await store.heads())[1] == FEW
    assert await append(store, 1, rows(1, "note-a", MANY, after=FEW)) == set()
    await store.beat(1)
    assert sql.log() == note(FEW + MANY)
    assert (await store.writers())["h-1"] != before


@pytest.mark.parametrize("state", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_what_a_rival_undid_is_done_again(store: PostgresStore, sql: LogSql, state: str, count: int) -> None:
    sql.fail("events", state, times=2)
    assert await append(store, 1, rows(1, "note-a", count)) == set()
    assert sql.log() == note(count)
    sql.heal("events")
    sql.fail("events", state)
    with pytest.raises(StoreUnavailable) as given_up:
        await append(store, 1, rows(1, "note-a", count, after=count))
    assert given_up.value.passing
    assert sql.log() == note(count)
    assert sql.head() == count


async def test_a_claim_that_a_rival_undid_is_done_again(store: PostgresStore, sql: LogSql) -> None:
    sql.fail("shards", "40P01", times=2, on="UPDATE")
    assert await store.claim("h-1", [1, 2]) == {1: (2, 0), 2: (2, 0)}
    sql.heal("shards")


@pytest.mark.parametrize(
    ("state", "passing"),
    [("53100", False), ("25006", False), ("53200", True), ("57014", True), ("55P03", True), ("58030", False)],
    ids=["disk full", "read-only", "out of memory", "cancelled", "locked", "input/output error"],
)
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_failing_server_writes_nothing_and_says_whether_it_may_pass(
    store: PostgresStore, sql: LogSql, count: int, state: str, passing: bool
) -> None:
    sql.fail("events", state)
    with pytest.raises(StoreUnavailable, match=state) as refused:
        await append(store, 1, rows(1, "note-a", count))
    assert refused.value.passing is passing
    assert (sql.log(), sql.head()) == ([], 0)
    sql.heal("events")
    assert await append(store, 1, rows(1, "note-a", count)) == set()
    assert sql.log() == note(count)


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_constraint_is_named_in_any_language(store: PostgresStore, sql: LogSql, count: int) -> None:
    await append(store, 1, rows(1, "note-a", 1))
    for guilty, constraint in (("version", "events_stream_version_key"), ("command_key", "events_command_key")):
        records = rows(1, "note-a", count, after=1)
        first = rows(1, "note-a", 1)[0]
        records[-1] = records[-1]._replace(**{guilty: getattr(first, guilty)})
        with pytest.raises(StoreRejected, match=constraint):
            await append(store, 1, records)
    with pytest.raises(StoreRejected, match="22021"):
        await append(store, 1, [record._replace(data="\0") for record in rows(1, "note-a", count, after=1)])
    assert sql.log() == note(1)


@contextmanager
def small_disk(server: Server) -> Iterator[Path | None]:
    """A directory of 1 MiB that belongs to the server's user; None where this user may not mount one."""
    with tempfile.TemporaryDirectory(prefix="eventray-") as name:
        command = ["mount", "-t", "tmpfs", "-o", "size=1m,mode=755", "tmpfs", name]
        if os.geteuid() != 0 or subprocess.run(command, check=False).returncode != 0:
            yield None
            return
        try:
            Path(name).chmod(0o755)
            space = Path(name) / "space"
            space.mkdir()
            os.chown(space, server.socket.stat().st_uid, -1)
            yield space
        finally:
            subprocess.run(["umount", "-l", name], check=True)


async def fill(store: PostgresStore, count: int) -> None:
    for head in range(0, count, MANY):
        await append(store, 1, rows(1, "note-a", MANY, after=head))


async def test_a_full_disk_is_not_passing_and_writes_nothing(
    store: PostgresStore, sql: LogSql, postgres_server: Server
) -> None:
    with small_disk(postgres_server) as directory:
        if directory is None:
            sql.fail("events", "53100")
        else:
            postgres_server.sql(f"CREATE TABLESPACE small LOCATION '{directory}'")
            sql("ALTER TABLE events SET TABLESPACE small")
        with pytest.raises(StoreUnavailable, match="53100") as full:
            await fill(store, 20_000)
        assert not full.value.passing
        head = sql.head()
        with pytest.raises(StoreUnavailable, match="53100"):
            await append(store, 1, rows(1, "note-a", MANY, after=head))
        assert sql.log() == note(head)
        if directory is None:
            sql.heal("events")
        else:
            sql("ALTER TABLE events SET TABLESPACE pg_default")
            postgres_server.sql("DROP TABLESPACE small")
        assert await append(store, 1, rows(1, "note-a", MANY, after=head)) == set()
        assert sql.log() == note(head + MANY)


async def test_a_database_that_became_read_only_is_not_passing(postgres_server: Server) -> None:
    with postgres_server.database() as name:
        url = postgres_server.url(name)
        store = await opened(url)
        await own(store, "h-1", [1])
        await append(store, 1, rows(1, "note-a", FEW))
        for setting in ("on", "off"):
            postgres_server.sql(f"ALTER DATABASE {name} SET default_transaction_read_only = {setting}")
            ended = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE datname"
            postgres_server.sql(f"{ended} = '{name}'")
            await until_noticed(store)
            if setting == "on":
                for use in (append(store, 1, rows(1, "note-a", 1, after=FEW)), store.beat(1), store.claim("h-1", [1])):
                    with pytest.raises(StoreUnavailable, match="25006") as refused:
                        await use
                    assert not refused.value.passing
                assert len(await store.read_shard(1, 0, 9)) == len(await store.read_stream("note-a", 0, 9)) == FEW
        assert await append(store, 1, rows(1, "note-a", MANY, after=FEW)) == set()
        assert postgres_server.sql("SELECT count(*), max(position) FROM events", name) == f"{FEW + MANY}|{FEW + MANY}"
        await store.close()


async def test_a_closed_store_says_so(store: PostgresStore) -> None:
    await store.close()
    for use in (store.heads(), store.append([ShardAppend(1, 1, 0)]), store.beat(1), store.claim("h-1", [1])):
        with pytest.raises(StoreUnavailable, match="closed"):
            await use


async def test_reads_at_once_give_back_each_session_that_they_opened(store: PostgresStore) -> None:
    await store.read_shard(0, 0, 1)
    await asyncio.gather(store.read_shard(0, 0, 1), store.read_shard(0, 0, 1))
    assert len(store._sessions._idle) == 2
