"""What goes wrong beneath an SQLite store: stopped writers, lost replies, full disks, locks."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from store import OutcomeUnknown, StoreRejected, StoreUnavailable, open_store, process, sqlite_file, taking
from store.records import EventRecord, ShardAppend, Writer
from store.sqlite import SqliteStore
from store.sqlite_file import SqliteFile
from store.sqlite_reading import Reader
from tests.contract.rows import append, own, rows

ROOT = Path(__file__).parents[2]
STOPPED_WRITER = """
import asyncio, os, signal, sys
from store import opening, sqlite
from tests.contract.rows import append, rows

class Stopping(sqlite.SqliteStore):
    def _commit(self, connection):
        assert connection.in_transaction
        os.kill(os.getpid(), signal.SIGSTOP)
        super()._commit(connection)

async def main():
    opening.SqliteStore = Stopping
    store = await opening.open_store(sys.argv[1])
    claims = await store.claim("h-1", [1])
    await append(store, claims[1].epoch, rows(1, "note-stopped", 5))

asyncio.run(main())
"""


async def opened(path: Path) -> SqliteStore:
    store = await open_store(f"sqlite:///{path}", shards=8)
    assert isinstance(store, SqliteStore)
    return store


async def until(condition: Callable[[], bool], within_s: float = 10.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come to be in time"
        await asyncio.sleep(0.01)


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.fixture
def spawn() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python programs that don't outlive the test."""
    started: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *arguments]
        started.append(subprocess.Popen(command, cwd=ROOT, text=True))
        return started[-1]

    yield start
    for child in started:
        child.kill()
        child.wait()


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "WATCH_S", 0.3)
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.2)


async def test_a_writer_stopped_before_its_commit_is_ended_and_leaves_nothing(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    store = await opened(tmp_path / "s.db")
    generation = await store.take("runtime")
    await store.assign(generation, {1: "h-1"})
    writer = spawn(STOPPED_WRITER, f"sqlite:///{tmp_path / 's.db'}")
    await until(lambda: is_stopped(writer.pid))

    with pytest.raises(StoreUnavailable) as held:
        await store.assign(generation, {1: "h-2"})
    assert held.value.passing

    since = time.monotonic()
    assert await store.end_writer("h-1") is True
    assert await store.end_writer("h-1") is False
    await store.assign(generation, {1: "h-2"})
    assert await store.claim("h-2", [1]) == {1: (2, 0)}
    assert await append(store, 2, rows(1, "note-successor", 2)) == set()
    assert time.monotonic() - since < 5
    assert writer.wait(10) == -signal.SIGKILL
    assert await store.read_stream("note-stopped", 0, 10) == []
    assert [record.stream for record in await store.read_shard(1, 0, 10)] == ["note-successor"] * 2
    await store.close()


async def test_two_reads_run_side_by_side_one_alone_goes_where_the_last_went_and_no_connection_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "s.db")
    both_there = threading.Barrier(2, timeout=5)
    connections: list[sqlite3.Connection] = []
    connect = SqliteFile.connect

    def meeting(file: SqliteFile) -> sqlite3.Connection:
        made = connect(file)
        connections.append(made)
        both_there.wait()
        return made

    monkeypatch.setattr(SqliteFile, "connect", meeting)
    found = await asyncio.gather(store.read_stream("note-1", 0, 1), store.read_stream("note-2", 0, 1))
    assert [list(records) for records in found] == [[], []]
    used: list[int] = []
    records = Reader.records

    def seen(reader: Reader, *query: Any) -> Sequence[EventRecord]:
        used.append(threading.get_ident())
        return records(reader, *query)

    monkeypatch.setattr(Reader, "records", seen)
    for _ in range(5):
        await store.read_stream("note-1", 0, 1)
    assert len(set(used)) == 1
    first, second = connections
    assert first is not second
    await store.close()
    for connection in connections:
        with pytest.raises(sqlite3.ProgrammingError, match="closed"):
            connection.execute("SELECT 1")


async def test_taking_over_ends_a_stopped_writer_that_holds_the_file(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    store = await opened(tmp_path / "s.db")
    await store.assign(await store.take("runtime"), {1: "h-1"})
    writer = spawn(STOPPED_WRITER, f"sqlite:///{tmp_path / 's.db'}")
    await until(lambda: is_stopped(writer.pid))
    assert await store.take("another") == 2
    assert writer.wait(10) == -signal.SIGKILL
    await store.close()


async def test_a_writer_that_is_another_process_by_now_is_left_alone(
    spawn: Callable[..., subprocess.Popen[str]],
) -> None:
    other = spawn("import time; time.sleep(60)")
    started = process.started(other.pid)
    assert started is not None
    assert process.end(Writer(process.machine(), other.pid, "1")) is False
    assert process.end(Writer("another machine", other.pid, started)) is False
    assert other.poll() is None
    assert process.end(process.this_process()) is False
    assert process.end(Writer(process.machine(), other.pid, started)) is True
    assert process.started(other.pid) is None


class LostReply(SqliteStore):
    """Loses the reply to a commit, which was done or was not."""

    commits = True

    def _commit(self, connection: sqlite3.Connection) -> None:
        connection.execute("COMMIT" if self.commits else "ROLLBACK")
        raise OutcomeUnknown("the reply was lost")


@pytest.mark.parametrize("commits", [True, False])
async def test_after_a_lost_reply_settling_tells_the_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: bool
) -> None:
    store = await opened(tmp_path / "s.db")
    await own(store, "h-1", [1])
    with monkeypatch.context() as patch:
        patch.setattr(LostReply, "commits", commits)
        patch.setattr(store, "__class__", LostReply)
        with pytest.raises(OutcomeUnknown):
            await append(store, 1, rows(1, "note-a", 3))
    head = 3 if commits else 0
    assert await store.settle({1: 1}) == {1: head}
    assert len(await store.read_shard(1, 0, 10)) == head
    assert await append(store, 1, rows(1, "note-a", 1, after=head)) == set()
    await store.claim("h-1", [1])
    assert await store.settle({1: 1}) == {}
    await store.close()


async def test_a_commit_that_fails_with_its_transaction_open_wrote_nothing(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 1))
    connection = store._writing_connection()
    connection.executescript("""
        CREATE TABLE parent (id INTEGER PRIMARY KEY);
        CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
        CREATE TRIGGER doom AFTER INSERT ON events BEGIN INSERT INTO child VALUES (7); END;
        PRAGMA foreign_keys = ON;
    """)  # a constraint that is only checked by COMMIT
    with pytest.raises(StoreRejected):
        await append(store, 1, rows(1, "note-a", 1, after=1))
    connection.execute("DROP TRIGGER doom")
    assert await store.settle({1: 1}) == {1: 1}
    assert await append(store, 1, rows(1, "note-a", 1, after=1)) == set()
    await store.close()


async def test_a_full_disk_is_not_passing_and_writes_nothing(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await own(store, "h-1", [1])
    connection = store._writing_connection()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreUnavailable, match="SQLITE_FULL") as full:
        await append(store, 1, rows(1, "note-a", 500))
    assert not full.value.passing
    assert (await store.heads())[1] == 0
    connection.execute("PRAGMA max_page_count = 1000000")
    assert await append(store, 1, rows(1, "note-a", 500)) == set()
    await store.close()


async def test_a_file_that_became_read_only_is_not_passing(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await own(store, "h-1", [1])
    store._writing_connection().execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnavailable, match="SQLITE_READONLY") as refused:
        await append(store, 1, rows(1, "note-a", 1))
    assert not refused.value.passing
    assert await store.heads() == dict.fromkeys(range(8), 0)
    await store.close()


async def test_a_file_locked_by_another_is_passing_and_can_be_read(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await own(store, "h-1", [1])
    with closing(sqlite3.connect(tmp_path / "s.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for blocked in (append(store, 1, rows(1, "note-a", 1)), store.settle({1: 1}), store.beat(1)):
            with pytest.raises(StoreUnavailable, match="SQLITE_BUSY") as refused:
                await blocked
            assert refused.value.passing
        assert (await store.heads())[1] == 0
    assert await append(store, 1, rows(1, "note-a", 1)) == set()
    await store.close()


async def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = await opened(tmp_path / "s.db")
    await store.close()
    for use in (store.heads(), store.append([ShardAppend(1, 1, 0)])):
        with pytest.raises(StoreUnavailable, match="closed"):
            await use


async def test_what_was_appended_outlives_a_killed_process(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    program = """
import asyncio, os, signal, sys
from store import open_store
from tests.contract.rows import append, own, rows

async def main():
    store = await open_store(sys.argv[1], shards=8)
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 50))
    os.kill(os.getpid(), signal.SIGKILL)

asyncio.run(main())
"""
    killed = spawn(program, f"sqlite:///{tmp_path / 's.db'}")
    assert await asyncio.to_thread(killed.wait, 30) == -signal.SIGKILL
    store = await opened(tmp_path / "s.db")
    assert (await store.heads())[1] == len(await store.read_shard(1, 0, 100)) == 50
    await store.close()


def test_a_program_that_forgets_to_close_its_store_still_ends(
    tmp_path: Path, spawn: Callable[..., subprocess.Popen[str]]
) -> None:
    program = """
import asyncio, sys
from store import open_store
from tests.contract.rows import own

async def main():
    store = await open_store(sys.argv[1], shards=8)
    await own(store, "h-1", [1])
    assert len(await store.heads()) == len(await store.routes())

asyncio.run(main())
"""
    assert spawn(program, f"sqlite:///{tmp_path / 's.db'}").wait(20) == 0
