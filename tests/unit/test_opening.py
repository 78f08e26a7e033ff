"""Opening: what is there, what may be made, and clear errors for the rest."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.verbs import verbs
from cluster.testing import InProcessRuntime
from store import InvalidValue, NotAStore, OtherSchema, ShardCountMismatch, StoreUnavailable, open_store
from store.errors import UnfinishedImport
from store.records import IMPORTED, IMPORTING, Checkpoint

NOBODY = 65_534


@contextmanager
def unprivileged() -> Iterator[None]:
    """Run as somebody whom file permissions bind; root is not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that anybody may enter and write."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        yield Path(name)


async def make(path: Path) -> str:
    store = await open_store(f"sqlite:///{path}", shards=4)
    await store.close()
    return store.store_id


async def test_a_store_keeps_its_id_and_number_of_shards(tmp_path: Path) -> None:
    path = tmp_path / "a b#%41é'.db"
    store_id = await make(path)
    assert list(tmp_path.iterdir()) == [path]
    for create in (True, False):
        store = await open_store(f"sqlite:///{path}", create=create)
        assert (store.store_id, store.shards) == (store_id, 4)
        assert len(await store.routes()) == len(await store.heads()) == 4
        await store.close()
    assert list(tmp_path.iterdir()) == [path]


async def test_a_new_store_has_64_shards(tmp_path: Path) -> None:
    store = await open_store(f"sqlite:///{tmp_path / 's.db'}")
    assert store.shards == len(await store.heads()) == 64
    await store.close()


async def test_a_relative_path_is_taken_from_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await (await open_store("sqlite:///s.db")).close()
    assert (tmp_path / "s.db").is_file()


@pytest.mark.parametrize(
    "url",
    ["", "shop.db", "/tmp/shop.db", "mysql://h/db", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://h/x.db",
     "sqlite:///x.db?mode=ro", "memory://x?y=1", "sqlite:///nul\0.db"],
)  # fmt: skip
async def test_a_url_that_can_not_be_meant(url: str) -> None:
    with pytest.raises(InvalidValue, match="sqlite:///FILE") as refused:
        await open_store(url)
    assert refused.value.field == "store"


@pytest.mark.parametrize("shards", [0, -1, 4097])
async def test_a_number_of_shards_that_can_not_be_meant(tmp_path: Path, shards: int) -> None:
    with pytest.raises(InvalidValue, match="shards"):
        await open_store(f"sqlite:///{tmp_path / 's.db'}", shards=shards)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("scheme", ["memory://other-shards", "sqlite:///{}/s.db"])
async def test_another_number_of_shards_than_it_was_made_with(tmp_path: Path, scheme: str) -> None:
    url = scheme.format(tmp_path)
    store = await open_store(url, shards=4)
    with pytest.raises(ShardCountMismatch, match="made with 4 shards, 8 were"):
        await open_store(url, shards=8)
    await store.close()


@pytest.mark.parametrize("scheme", ["memory://not-there", "sqlite:///{}/s.db"])
async def test_a_missing_store_is_not_made_unless_asked_for(tmp_path: Path, scheme: str) -> None:
    with pytest.raises(NotAStore):
        await open_store(scheme.format(tmp_path), create=False)
    assert list(tmp_path.iterdir()) == []


def foreign_text(path: Path) -> None:
    path.write_text("customer,amount\n1,2\n" * 50)


def foreign_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")


def foreign_tables_of_our_names(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for name in ("runtime", "shards", "hosts", "events"):
            connection.execute(f"CREATE TABLE {name} (something)")


def torn_database(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)


def no_runtime_row(path: Path) -> None:
    asyncio.run(make(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("DELETE FROM runtime")
        connection.execute("PRAGMA journal_mode=DELETE")


FOREIGN = [foreign_text, foreign_database, foreign_tables_of_our_names, torn_database, no_runtime_row, Path.mkdir]


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("foreign", FOREIGN)
def test_what_is_not_a_store_is_refused_and_left_alone(tmp_path: Path, foreign: object, create: bool) -> None:
    path = tmp_path / "s.db"
    foreign(path)  # type: ignore[operator]
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(NotAStore, match=r"s\.db is not an Eventray store"):
        asyncio.run(open_store(f"sqlite:///{path}", create=create))
    assert [entry.name for entry in tmp_path.iterdir()] == ["s.db"]
    assert before is None or path.read_bytes() == before


async def test_an_empty_file_becomes_a_store_only_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.touch()
    with pytest.raises(NotAStore, match="empty"):
        await open_store(f"sqlite:///{path}", create=False)
    assert path.stat().st_size == 0
    await make(path)


async def test_a_store_of_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await make(tmp_path / "s.db")
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection, connection:
        connection.execute("UPDATE runtime SET schema_version = 99")
    with pytest.raises(OtherSchema, match=r"99.*newer"):
        await open_store(f"sqlite:///{tmp_path / 's.db'}")


async def test_a_missing_directory_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="make it first"):
        await open_store(f"sqlite:///{tmp_path / 'none' / 's.db'}")
    assert list(tmp_path.iterdir()) == []


async def test_a_name_too_long_for_a_file(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="too long"):
        await open_store(f"sqlite:///{tmp_path / ('x' * 300)}")


async def test_a_directory_that_can_not_be_written(public: Path) -> None:
    public.chmod(0o555)
    with unprivileged(), pytest.raises(StoreUnavailable, match="Permission denied"):
        await open_store(f"sqlite:///{public / 's.db'}")


async def test_a_file_that_can_not_be_read(public: Path) -> None:
    await make(public / "s.db")
    (public / "s.db").chmod(0)
    with unprivileged(), pytest.raises(StoreUnavailable, match="Permission denied"):
        await open_store(f"sqlite:///{public / 's.db'}")


@pytest.mark.parametrize("directory_mode", [0o555, 0o777])
async def test_reading_needs_no_permission_to_write(public: Path, directory_mode: int) -> None:
    store_id = await make(public / "s.db")
    (public / "s.db").chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
    public.chmod(directory_mode)
    with unprivileged():
        store = await open_store(f"sqlite:///{public / 's.db'}", create=False)
        assert store.store_id == store_id
        assert len(await store.heads()) == len(await store.routes()) == 4
        assert await store.read_stream("note-a", 0, 10) == []
        with pytest.raises(StoreUnavailable) as refused:
            await store.take("somebody")
        assert not refused.value.passing
        await store.close()


def test_processes_that_make_it_at_once_get_one_store(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from store import open_store\n"
        "async def main():\n"
        "    store = await open_store(sys.argv[1]); print(store.store_id); await store.close()\n"
        "sys.stdin.readline(); asyncio.run(main())"
    )
    command = [sys.executable, "-c", program, f"sqlite:///{tmp_path / 's.db'}"]
    makers = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
        )
        for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    answers = [maker.communicate(timeout=30)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert len(set(answers)) == 1


async def test_a_memory_store_lasts_until_its_last_opener_closes_it() -> None:
    first, second = await open_store("memory://shared"), await open_store("memory://shared", create=False)
    await first.close()
    third = await open_store("memory://shared", create=False)
    assert third.store_id == second.store_id == first.store_id
    await second.close()
    await third.close()
    with pytest.raises(NotAStore):
        await open_store("memory://shared", create=False)


@pytest.mark.parametrize(("hosts", "shards"), [(3, 2), (65, None), (0, 2), ("x", 2)])
async def test_no_store_is_made_for_hosts_that_it_can_not_have(hosts: Any, shards: int | None, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    with pytest.raises(InvalidValue, match=f"hosts = .*{shards or 64}"):
        await InProcessRuntime.open(url, hosts=hosts, shards=shards)
    given = ["--hosts", str(hosts), *([] if shards is None else ["--shards", str(shards)])]
    refused = await asyncio.to_thread(CliRunner().invoke, verbs, ["up", "--store", url, "--address", "local", *given])
    assert refused.exit_code == (2 if hosts == "x" else 1), refused.stderr
    assert list(tmp_path.iterdir()) == []


async def test_no_runtime_opens_a_store_whose_import_was_interrupted(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    store = await open_store(url, shards=4)
    await store.keep_checkpoints(IMPORTING, {0: Checkpoint(120, None)})
    with pytest.raises(UnfinishedImport, match="120 events"):
        await InProcessRuntime.open(url)
    await store.keep_checkpoints(IMPORTED, {0: Checkpoint(0, None)})
    await store.close()
    async with InProcessRuntime.open(url):
        pass
