"""What a PostgreSQL server refuses: rivals' victims, rows on a full disk, broken keys. Nothing is half written.

What is stored is looked at by SQL of the test's own, not through the store.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from store import StoreRejected, StoreUnavailable
from store.postgres import PostgresStore
from tests.contract.rows import append, own, rows
from tests.integration.postgres_log import FEW, MANY, LogSql, note, opened, until_noticed
from tests.postgres import Server

pytestmark = pytest.mark.usefixtures("short_waits")


@pytest.mark.parametrize("state", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_what_a_rival_undid_is_done_again(
    postgres_store: PostgresStore, postgres_log: LogSql, state: str, count: int
) -> None:
    postgres_log.fail("events", state, times=2)
    assert await append(postgres_store, 1, rows(1, "note-a", count)) == set()
    assert postgres_log.log() == note(count)
    postgres_log.heal("events")
    postgres_log.fail("events", state)
    with pytest.raises(StoreUnavailable) as given_up:
        await append(postgres_store, 1, rows(1, "note-a", count, after=count))
    assert given_up.value.passing
    assert postgres_log.log() == note(count)
    assert postgres_log.head() == count


async def test_a_claim_that_a_rival_undid_is_done_again(postgres_store: PostgresStore, postgres_log: LogSql) -> None:
    postgres_log.fail("shards", "40P01", times=2, on="UPDATE")
    assert await postgres_store.claim("h-1", [1, 2]) == {1: (2, 0), 2: (2, 0)}
    postgres_log.heal("shards")


@pytest.mark.parametrize(
    ("state", "passing"),
    [("53100", False), ("25006", False), ("53200", True), ("57014", True), ("55P03", True), ("58030", False)],
    ids=["disk full", "read-only", "out of memory", "cancelled", "locked", "input/output error"],
)
@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_failing_server_writes_nothing_and_says_whether_it_may_pass(
    postgres_store: PostgresStore, postgres_log: LogSql, count: int, state: str, passing: bool
) -> None:
    postgres_log.fail("events", state)
    with pytest.raises(StoreUnavailable, match=state) as refused:
        await append(postgres_store, 1, rows(1, "note-a", count))
    assert refused.value.passing is passing
    assert (postgres_log.log(), postgres_log.head()) == ([], 0)
    postgres_log.heal("events")
    assert await append(postgres_store, 1, rows(1, "note-a", count)) == set()
    assert postgres_log.log() == note(count)


@pytest.mark.parametrize("count", [FEW, MANY])
async def test_a_constraint_is_named_in_any_language(
    postgres_store: PostgresStore, postgres_log: LogSql, count: int
) -> None:
    await append(postgres_store, 1, rows(1, "note-a", 1))
    for guilty, constraint in (("version", "events_stream_version_key"), ("command_key", "events_command_key")):
        records = rows(1, "note-a", count, after=1)
        first = rows(1, "note-a", 1)[0]
        records[-1] = records[-1]._replace(**{guilty: getattr(first, guilty)})
        with pytest.raises(StoreRejected, match=constraint):
            await append(postgres_store, 1, records)
    with pytest.raises(StoreRejected, match="22021"):
        await append(postgres_store, 1, [record._replace(data="\0") for record in rows(1, "note-a", count, after=1)])
    assert postgres_log.log() == note(1)


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
    postgres_store: PostgresStore, postgres_log: LogSql, postgres_server: Server
) -> None:
    with small_disk(postgres_server) as directory:
        if directory is None:
            postgres_log.fail("events", "53100")
        else:
            postgres_server.sql(f"CREATE TABLESPACE small LOCATION '{directory}'")
            postgres_log("ALTER TABLE events SET TABLESPACE small")
        with pytest.raises(StoreUnavailable, match="53100") as full:
            await fill(postgres_store, 20_000)
        assert not full.value.passing
        head = postgres_log.head()
        with pytest.raises(StoreUnavailable, match="53100"):
            await append(postgres_store, 1, rows(1, "note-a", MANY, after=head))
        assert postgres_log.log() == note(head)
        if directory is None:
            postgres_log.heal("events")
        else:
            postgres_log("ALTER TABLE events SET TABLESPACE pg_default")
            postgres_server.sql("DROP TABLESPACE small")
        assert await append(postgres_store, 1, rows(1, "note-a", MANY, after=head)) == set()
        assert postgres_log.log() == note(head + MANY)


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
