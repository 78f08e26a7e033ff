"""Who waits for whom on PostgreSQL: paused writers are ended by their successors, and stay silent for ever."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from store import StoreUnavailable, open_store, postgres_database
from store.postgres import PostgresStore
from store.records import ShardAppend, Writer
from tests.contract.rows import append, own, rows

ROOT = Path(__file__).parents[2]
SILENT_WRITER = """
import asyncio, os, signal, sys
from store import open_store, postgres, StoreUnavailable
from tests.contract.rows import append, rows

pauses = [True]

def pause():
    if pauses:
        pauses.clear()
        os.kill(os.getpid(), signal.SIGSTOP)

def portion(records):
    for number, record in enumerate(records):
        if number == 150:
            pause()
        yield record

async def main():
    where, count = sys.argv[2], int(sys.argv[3])
    store = await open_store(sys.argv[1])
    claims = await store.claim("h-1", [1])
    if where == "in COPY":
        postgres._portions = lambda records: [portion(records)]
    elif where == "before it sends":
        original = postgres._wanted
        postgres._wanted = lambda appends: (pause(), original(appends))[1]
    for attempt in range(3):
        try:
            fenced = await append(store, claims[1].epoch, rows(1, "note-paused", count))
        except StoreUnavailable as error:
            assert error.passing
        else:
            print(sorted(fenced), attempt)
            break
    await store.close()

asyncio.run(main())
"""
PAUSED_COORDINATOR = """
import asyncio, os, signal, sys
from store import open_store, StoreUnavailable

async def main():
    store = await open_store(sys.argv[1])
    original = store._transaction
    async def transaction(work, options):
        async def stopping(connection):
            result = await work(connection)
            os.kill(os.getpid(), signal.SIGSTOP)
            return result
        return await original(stopping, options)
    store._transaction = transaction
    try:
        await store.assign(1, {1: "h-paused", 2: "h-paused"})
    except StoreUnavailable as error:
        print(error.passing)
    await store.close()

asyncio.run(main())
"""
Spawn = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Start Python programs that don't outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.communicate()


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store that nobody holds yet."""
    store = await open_store(postgres_url, shards=8)
    assert isinstance(store, PostgresStore)
    yield store
    await store.close()


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection]:
    """SQL of the test's own, in the store's schema."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def until_paused(child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        assert time.monotonic() < deadline, "it was not paused in time"
        assert child.poll() is None, child.communicate()
        await asyncio.sleep(0.01)


async def continued(child: subprocess.Popen[str]) -> str:
    """Let a paused program run to its end; return what it printed."""
    child.send_signal(signal.SIGCONT)
    printed, errors = await asyncio.to_thread(child.communicate, timeout=20)
    assert child.returncode == 0, errors
    assert errors == ""
    return printed.strip()


@pytest.mark.parametrize(("where", "count"), [("in COPY", 300), ("before it sends", 3), ("before it sends", 300)])
async def test_a_paused_writer_is_ended_by_its_successor_and_continued_it_is_fenced(
    store: PostgresStore, postgres_url: str, spawn: Spawn, where: str, count: int
) -> None:
    generation = await store.take("runtime")
    await store.assign(generation, {1: "h-1"})
    paused = spawn(SILENT_WRITER, postgres_url, where, str(count))
    await until_paused(paused)
    await store.heads()  # opens what reads, so that the time below is the wait's

    since = time.monotonic()
    await store.assign(generation, {1: "h-2"})
    claims = await store.claim("h-2", [1])
    assert await append(store, claims[1].epoch, rows(1, "note-successor", 2)) == set()
    waited_s = time.monotonic() - since
    assert claims == {1: (2, 0)}
    assert waited_s < 1.5, "about 0.3 s where the row was locked, plus what a busy machine takes"

    attempts_ended = 1 if where == "in COPY" else 0
    assert await continued(paused) == f"[1] {attempts_ended}"
    async with session(postgres_url) as sql:
        written = await sql.fetch("SELECT stream, version, position FROM events ORDER BY position")
        assert [tuple(row) for row in written] == [("note-successor", 1, 1), ("note-successor", 2, 2)]
        assert await sql.fetchval("SELECT head FROM shards WHERE shard = 1") == 2


async def test_a_coordinator_paused_between_its_statements_holds_nobody_up(
    store: PostgresStore, postgres_url: str, spawn: Spawn
) -> None:
    await own(store, "h-1", [1, 2])
    paused = spawn(PAUSED_COORDINATOR, postgres_url)
    await until_paused(paused)
    await store.heads()
    since = time.monotonic()
    assert await append(store, 1, rows(1, "note-a", 3)) == set()
    assert await store.claim("h-1", [2]) == {2: (2, 0)}
    assert await store.take("runtime") == 2
    assert time.monotonic() - since < 1.5
    assert await continued(paused) == "True"
    assert [route.host for route in (await store.routes())[1:3]] == ["h-1", "h-1"]


@pytest.mark.parametrize("count", [3, 300])
async def test_an_append_that_waits_for_a_claim_is_fenced_by_it(
    store: PostgresStore, postgres_url: str, count: int
) -> None:
    await own(store, "h-1", [1, 2])
    async with session(postgres_url) as sql:
        await sql.execute("BEGIN; UPDATE shards SET epoch = epoch + 1 WHERE shard = 1")
        appending = asyncio.create_task(append(store, 1, rows(1, "note-a", count)))
        await until_blocked(sql, 1)
        await sql.execute("COMMIT")
        assert await appending == {1}
    assert (await store.heads())[1] == 0


@pytest.mark.parametrize("count", [3, 300])
async def test_an_append_that_waits_for_an_assignment_goes_through(
    store: PostgresStore, postgres_url: str, count: int
) -> None:
    await own(store, "h-1", [1, 2])
    async with session(postgres_url) as sql:
        await sql.execute("BEGIN; UPDATE shards SET assigned_to = 'h-2' WHERE shard = 1")
        appending = asyncio.create_task(append(store, 1, rows(1, "note-a", count)))
        await until_blocked(sql, 1)
        await sql.execute("COMMIT")
        assert await appending == set()
    assert (await store.heads())[1] == len(await store.read_shard(1, 0, 1000)) == count


@pytest.mark.parametrize("count", [3, 300])
async def test_an_append_goes_on_when_its_caller_is_cancelled(
    store: PostgresStore, postgres_url: str, count: int
) -> None:
    await own(store, "h-1", [1])
    async with session(postgres_url) as sql:
        await sql.execute("BEGIN; SELECT FROM shards WHERE shard = 1 FOR UPDATE")
        appending = asyncio.create_task(append(store, 1, rows(1, "note-a", count)))
        await until_blocked(sql, 1)
        appending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await appending
        await sql.execute("COMMIT")
        assert await store.settle({1: 1}) == {1: count}


async def test_appends_lock_shards_in_ascending_order(store: PostgresStore, postgres_url: str) -> None:
    claims = await own(store, "h-1", [1, 2, 3])
    assert set(claims) == {1, 2, 3}
    async with session(postgres_url) as sql, session(postgres_url) as prober:
        await sql.execute("BEGIN; SELECT FROM shards WHERE shard = 2 FOR UPDATE")
        appends = [ShardAppend(number, 1, 0, rows(number, f"note-{number}", 1)) for number in (3, 2, 1)]
        appending = asyncio.create_task(store.append(appends))
        await until_blocked(sql, 1)
        free = await prober.fetch("SELECT shard FROM shards WHERE shard IN (1, 2, 3) FOR UPDATE SKIP LOCKED")
        assert [row["shard"] for row in free] == [3]
        await sql.execute("COMMIT")
        assert await appending == set()


async def until_blocked(sql: asyncpg.Connection, sessions: int) -> None:
    """Wait until so many sessions wait for this one."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE pg_backend_pid() = ANY(pg_blocking_pids(pid))"
    deadline = time.monotonic() + 10
    while await sql.fetchval(waiting) < sessions:
        assert time.monotonic() < deadline, "nobody waits"
        await asyncio.sleep(0.01)


async def test_whoever_is_not_of_this_store_is_not_ended_and_waited_for_in_vain(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_database, "LOCK_TIMEOUT_S", 0.8)
    store = await open_store(postgres_url, shards=8)
    await own(store, "h-1", [1])
    async with session(postgres_url) as sql:
        await sql.execute("BEGIN; SELECT FROM shards WHERE shard = 1 FOR UPDATE")
        for blocked in (append(store, 1, rows(1, "note-a", 3)), store.claim("h-1", [1]), store.settle({1: 1})):
            with pytest.raises(StoreUnavailable, match="55P03") as held:
                await blocked
            assert held.value.passing
        assert (await store.heads())[1] == 0  # who reads is never held up
        await sql.execute("COMMIT")
    assert await append(store, 1, rows(1, "note-a", 3)) == set()
    await store.close()


async def test_ending_a_writer_ends_that_backend_and_no_other(store: PostgresStore, postgres_url: str) -> None:
    other = await open_store(postgres_url)
    assert isinstance(other, PostgresStore)
    await store.assign(await store.take("runtime"), {1: "h-1", 2: "h-2"})
    await other.claim("h-1", [1])
    await store.claim("h-2", [2])
    writer = (await store.writers())["h-1"]
    assert await store._end(Writer("", writer.pid, str(int(writer.started) - 1))) is False
    assert await store._end(Writer("", 1, writer.started)) is False
    assert await store.end_writer("h-1") is True
    assert await store.end_writer("h-1") is False
    assert await store.end_writer("h-2") is False
    assert await append(store, 1, rows(2, "note-b", 1)) == set()
    await other.close()


async def test_what_was_appended_outlives_a_killed_process(
    store: PostgresStore, postgres_url: str, spawn: Spawn
) -> None:
    program = """
import asyncio, os, signal, sys
from store import open_store
from tests.contract.rows import append, own, rows

async def main():
    store = await open_store(sys.argv[1])
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 150))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    killed = spawn(program, postgres_url)
    assert await asyncio.to_thread(killed.wait, 30) == -signal.SIGKILL
    assert (await store.heads())[1] == len(await store.read_shard(1, 0, 1000)) == 150


def test_a_program_that_forgets_to_close_its_store_still_ends(postgres_url: str, spawn: Spawn) -> None:
    program = """
import asyncio, sys
from store import open_store
from tests.contract.rows import append, own, rows

async def main():
    store = await open_store(sys.argv[1], shards=8)
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 3))
    assert len(await store.heads()) == len(await store.routes())

asyncio.run(main())
"""
    forgetful = spawn(program, postgres_url)
    _, errors = forgetful.communicate(timeout=30)
    assert forgetful.returncode == 0, errors
