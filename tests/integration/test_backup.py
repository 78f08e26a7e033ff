"""Backing up an SQLite store that others write."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from store import EventStore, InvalidValue, NotAStore, backup, open_store
from store.backup import back_up, server_command
from tests.contract.rows import append, own, rows

SHARDS = 2


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'shop.db'}"


@pytest.fixture
async def store(url: str) -> AsyncIterator[EventStore]:
    opened = await open_store(url, shards=SHARDS)
    yield opened
    await opened.close()


def quiet(done: int, total: int) -> None:
    assert 0 <= done <= total


async def test_a_backup_is_the_store_of_that_moment(
    store: EventStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "STEP_PAGES", 1)
    epoch = (await own(store, "h-1", [0]))[0].epoch
    await append(store, epoch, rows(0, "note-a", 50))
    expected = await store.read_shard(0, 0, 100)
    told: list[tuple[int, int]] = []

    def write_meanwhile(done: int, total: int) -> None:
        told.append((done, total))
        with closing(_writing(tmp_path)) as other:
            other.execute("UPDATE shards SET epoch = epoch + 1 WHERE shard = 1")

    size_bytes = back_up(url, tmp_path / "copy.db", write_meanwhile)
    assert (tmp_path / "copy.db").stat().st_size == size_bytes > 0
    assert len(told) == told[-1][1] > 5
    assert told[-1][0] == told[-1][1]
    copy = await open_store(f"sqlite:///{tmp_path / 'copy.db'}", create=False)
    assert (copy.store_id, await copy.heads(), await copy.read_shard(0, 0, 100)) == (
        store.store_id,
        {0: 50, 1: 0},
        expected,
    )
    assert [route.epoch for route in await copy.routes()] == [epoch, 0]
    await copy.close()


def _writing(directory: Path) -> sqlite3.Connection:
    return sqlite3.connect(directory / "shop.db", isolation_level=None)


async def test_nobody_holds_a_backup_and_it_names_no_process_to_end(
    store: EventStore, url: str, tmp_path: Path
) -> None:
    await own(store, "h-1", range(SHARDS))
    back_up(url, tmp_path / "copy.db", quiet)
    copy = await open_store(f"sqlite:///{tmp_path / 'copy.db'}", create=False)
    assert await copy.writers() == {}
    assert {route.host for route in await copy.routes()} == {None}
    assert await copy.take("b") == 2
    await copy.close()
    await store.beat(1)
    assert set(await store.writers()) == {"h-1"}


async def test_an_existing_file_is_never_overwritten(store: EventStore, url: str, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(InvalidValue, match="not overwritten"):
        back_up(url, target, quiet)
    target.unlink()

    def come_first(done: int, total: int) -> None:
        target.write_text("precious")

    with pytest.raises(InvalidValue, match="not overwritten"):
        back_up(url, target, come_first)
    assert target.read_text() == "precious"


async def test_a_file_that_can_not_be_written_is_named(store: EventStore, url: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match=r"file = .*copy\.db: it can't be written \(No such file or directory\)"):
        back_up(url, tmp_path / "none" / "copy.db", quiet)


async def test_a_full_disk_is_told_of_the_file_and_leaves_none(
    store: EventStore, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class OnFullDisk(sqlite3.Connection):
        def __init__(self, database: object, **options: Any) -> None:
            super().__init__(str(database), **options)
            if str(database).endswith(".partial"):
                self.execute("PRAGMA max_page_count = 3")

    monkeypatch.setattr(sqlite3, "connect", OnFullDisk)
    with pytest.raises(InvalidValue, match=r"file = .*copy\.db: its disk is full, .* name a file on another disk"):
        back_up(url, tmp_path / "copy.db", quiet)
    assert list(tmp_path.glob("copy*")) == []


async def test_what_a_killed_backup_left_is_no_hindrance(store: EventStore, url: str, tmp_path: Path) -> None:
    (tmp_path / "copy.db.partial").write_bytes(b"half a file")
    back_up(url, tmp_path / "copy.db", quiet)
    assert sorted(path.name for path in tmp_path.glob("copy*")) == ["copy.db"]


@pytest.mark.parametrize("name", ["missing.db", "other.db"])
async def test_what_is_no_store_is_not_backed_up(tmp_path: Path, name: str) -> None:
    (tmp_path / "other.db").write_bytes(b"x" * 100)
    with pytest.raises(NotAStore):
        back_up(f"sqlite:///{tmp_path / name}", tmp_path / "copy.db", quiet)
    with pytest.raises(InvalidValue, match="SQLite"):
        back_up("memory://shop", tmp_path / "copy.db", quiet)
    assert not (tmp_path / "copy.db").exists()


def test_for_postgres_the_command_is_told_without_the_password() -> None:
    command = server_command("postgresql://ada:s3cret@db.example:5433/shop?password=s3cret", Path("my shop.dump"))
    expected = "pg_dump --format=custom --file='my shop.dump' --dbname=postgresql://ada@db.example:5433/shop"
    assert command == expected
    assert server_command("sqlite:///shop.db", Path("x")) is None


def test_a_schema_is_backed_up_alone() -> None:
    command = server_command("postgresql://ada@/shop?host=%2Frun&search_path=two", Path("x.dump"))
    expected = "pg_dump --format=custom --file=x.dump --dbname='postgresql://ada@/shop?host=%2Frun' --schema=two"
    assert command == expected
