"""Migrations: they lead to the tables that a new store is made with, and an older store is brought up or named."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import Connection, create_engine, make_url

from actors.customers import Customer, Order
from actors.customers.events import CustomerDeactivated
from actors.registry import AggregateRegistry
from actors.repository import load_aggregate
from store import (
    NotAStore,
    OtherSchema,
    StoreHeld,
    StoreUnavailable,
    Superseded,
    migrating,
    open_store,
    opening,
    postgres_database,
    sqlite_file,
    taking,
)
from store.identity import shard_of
from store.migrating import migrate, schema_version_of, upgrade
from store.postgres_database import PostgresDatabase
from store.records import AuditResult, Checkpoint
from store.schema import SCHEMA_VERSION
from store.writing import OfflineWriter

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASED = range(1, SCHEMA_VERSION + 1)
"""Schema N was first made by the code that made `schema_N.db`."""
GOLDEN = FIXTURES / "schema_1.db"
NEXT = f"""
from alembic import op
from sqlalchemy import Column, Text

revision = "{SCHEMA_VERSION + 1:04d}"
down_revision = "{SCHEMA_VERSION:04d}"

def upgrade() -> None:
    op.add_column("hosts", Column("region", Text))
"""
BROKEN = f"""
revision = "{SCHEMA_VERSION + 2:04d}"
down_revision = "{SCHEMA_VERSION + 1:04d}"

def upgrade() -> None:
    raise ValueError("broken")
"""

POSTGRES_SCHEMA = """
SELECT table_name, column_name, ordinal_position::text, data_type, collation_name, is_nullable, column_default
FROM information_schema.columns WHERE table_schema = current_schema()
UNION ALL SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '', '', ''
FROM pg_constraint WHERE connamespace = current_schema()::regnamespace
UNION ALL SELECT tablename, indexname, replace(indexdef, current_schema() || '.', ''), '', '', '', ''
FROM pg_indexes WHERE schemaname = current_schema()"""


def sqlite_schema(path: Path) -> set[tuple[str, str, str]]:
    with closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT type, name, coalesce(sql, '') FROM sqlite_master").fetchall()
    return {(kind, name, re.sub(r"[\s,]+", " ", sql)) for kind, name, sql in rows}


async def postgres_schema(url: str) -> set[tuple[object, ...]]:
    connection = await asyncpg.connect(make_url(url).render_as_string(hide_password=False))
    rows = {tuple(row) for row in await connection.fetch(POSTGRES_SCHEMA)}
    await connection.close()
    return rows


async def test_migrating_from_nothing_makes_the_tables_of_a_new_file(tmp_path: Path) -> None:
    await (await open_store(f"sqlite:///{tmp_path}/new.db")).close()
    engine = create_engine(f"sqlite:///{tmp_path}/migrated.db")
    with engine.begin() as connection:
        upgrade(connection)
    engine.dispose()
    made = sqlite_schema(tmp_path / "new.db")
    assert {name for _, name, _ in made} >= {"events", "snapshots", "eventray_migrations", "events_command_key"}
    assert sqlite_schema(tmp_path / "migrated.db") == made


async def test_migrating_from_nothing_makes_the_tables_of_a_new_database(new_postgres_url: Callable[[], str]) -> None:
    new, migrated = new_postgres_url(), new_postgres_url()
    await (await open_store(new)).close()
    database = PostgresDatabase(migrated)
    engine = database.engine(database.connect)
    async with engine.begin() as connection:
        await connection.run_sync(upgrade)
    await engine.dispose()
    made = await postgres_schema(new)
    assert len(made) > 50
    assert await postgres_schema(migrated) == made


@pytest.mark.parametrize("version", RELEASED)
async def test_each_released_schema_can_be_opened_and_read(tmp_path: Path, version: int) -> None:
    copy = tmp_path / "golden.db"
    copy.write_bytes((FIXTURES / f"schema_{version}.db").read_bytes())
    url = f"sqlite:///{copy}"
    assert await schema_version_of(url) == await migrate(url) == version
    await (await open_store(f"sqlite:///{tmp_path}/new.db")).close()
    assert sqlite_schema(copy) == sqlite_schema(tmp_path / "new.db")
    store = await open_store(url, create=False)
    registry = AggregateRegistry([Customer, Order]).events
    customer = await load_aggregate(store, registry, Customer, "c-1")
    assert (customer.version, customer.name, customer.email) == (3, "Ada", "ada@example.org")
    assert list(await store.read_snapshots(["customer-c-1"])) == ["customer-c-1"]
    assert await store.hosts_wanted() == (None if version == 1 else 2)
    shard = shard_of("c-1", store.shards)
    events = await store.read_shard(shard, 0, 10)
    at_promotion = {shard: Checkpoint(3, events[2].event_id)}
    assert await store.checkpoints("reporter") == ({} if version < 3 else at_promotion)
    assert [(row.partition_key, row.position) for row in await store.parked()] == ([] if version < 4 else [("c-1", 2)])
    assert await store.audits() == ([] if version < 5 else [AuditResult("store", 7_000_000, 4, 0)])
    async with OfflineWriter(store, "a test", registry) as writer:
        await writer.save_events("customer-c-1", [CustomerDeactivated(customer_id="c-1", reason="moved")], 3)
    assert (await store.heads())[shard] == len(events) + 1 == 5
    await store.close()


@pytest.fixture(params=["sqlite", "postgres"])
def sql_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/older.db"
    postgres_url: str = request.getfixturevalue("postgres_url")
    return postgres_url


@pytest.fixture
def later_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A release whose schema is one higher; returns the directory of its migrations."""
    scripts = tmp_path / "migrations"
    (scripts / "versions").mkdir(parents=True)
    for path in [migrating.SCRIPTS / "env.py", *(migrating.SCRIPTS / "versions").glob("v*.py")]:
        (scripts / path.relative_to(migrating.SCRIPTS)).write_text(path.read_text())
    (scripts / "versions" / "next.py").write_text(NEXT)
    monkeypatch.setattr(migrating, "SCRIPTS", scripts)
    return scripts


def release(monkeypatch: pytest.MonkeyPatch, version: int) -> None:
    for module in (migrating, opening):
        monkeypatch.setattr(module, "SCHEMA_VERSION", version)


async def test_an_older_store_is_named_then_migrated_then_too_new_for_the_older_release(
    sql_url: str, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store(sql_url)
    await store.close()
    release(monkeypatch, SCHEMA_VERSION + 1)
    with pytest.raises(OtherSchema, match="eventray store migrate"):
        await open_store(sql_url)
    assert await schema_version_of(sql_url) == SCHEMA_VERSION
    assert await migrate(sql_url) == SCHEMA_VERSION
    assert await migrate(sql_url) == await schema_version_of(sql_url) == SCHEMA_VERSION + 1
    again = await open_store(sql_url)
    assert again.store_id == store.store_id
    await again.take("it was given back")
    await again.close()
    monkeypatch.undo()
    for refused in (open_store, migrate):
        with pytest.raises(OtherSchema, match="newer"):
            await refused(sql_url)


async def test_a_migration_that_fails_changes_nothing(
    sql_url: str, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await open_store(sql_url)).close()
    (later_release / "versions" / "broken.py").write_text(BROKEN)
    release(monkeypatch, SCHEMA_VERSION + 2)
    with pytest.raises(ValueError, match="broken"):
        await migrate(sql_url)
    release(monkeypatch, SCHEMA_VERSION + 1)
    assert await schema_version_of(sql_url) == SCHEMA_VERSION
    assert await migrate(sql_url) == SCHEMA_VERSION  # the second step's column would be there twice


async def test_a_store_that_a_runtime_holds_is_not_migrated(
    sql_url: str, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    holder = await open_store(sql_url)
    generation = await holder.take("a runtime")
    release(monkeypatch, SCHEMA_VERSION + 1)
    sleep = asyncio.sleep

    async def beating(delay: float) -> None:
        await holder.beat(generation)
        await sleep(delay)

    monkeypatch.setattr(asyncio, "sleep", beating)
    with pytest.raises(StoreHeld, match="a runtime"):
        await migrate(sql_url)
    monkeypatch.undo()
    await holder.close()
    assert await schema_version_of(sql_url) == SCHEMA_VERSION


async def test_a_store_that_was_taken_over_meanwhile_is_not_migrated(
    sql_url: str, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = await open_store(sql_url)
    release(monkeypatch, SCHEMA_VERSION + 1)
    upgrade_at = migrating._upgrade_at

    async def late(found: opening.Located, generation: int) -> None:
        assert await runtime.take(migrating.HOLDER) == generation + 1
        await upgrade_at(found, generation)

    monkeypatch.setattr(migrating, "_upgrade_at", late)
    with pytest.raises(Superseded):
        await migrate(sql_url)
    assert await schema_version_of(sql_url) == SCHEMA_VERSION
    await runtime.close()


async def test_nobody_takes_a_store_while_it_is_migrated(
    sql_url: str, later_release: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long that takes: it does not beat."""
    monkeypatch.setattr(taking, "WATCH_S", 0.1)
    monkeypatch.setattr(sqlite_file, "BUSY_TIMEOUT_S", 0.5)
    monkeypatch.setattr(postgres_database, "LOCK_TIMEOUT_S", 0.5)
    await (await open_store(sql_url)).close()
    release(monkeypatch, SCHEMA_VERSION + 1)
    refused: list[BaseException | None] = []

    async def take() -> int:
        older = (await opening.located(sql_url, 8, create=False)).open()
        try:
            return await older.take("a runtime of the older release")
        finally:
            await older.close()

    def upgrade_slowly(connection: Connection) -> None:
        upgrade(connection)
        with ThreadPoolExecutor(1) as thread:
            refused.append(thread.submit(asyncio.run, take()).exception())

    monkeypatch.setattr(migrating, "upgrade", upgrade_slowly)
    assert await migrate(sql_url) == SCHEMA_VERSION
    assert isinstance(refused[0], StoreUnavailable)
    assert refused[0].passing


async def test_nothing_is_made_where_no_store_is(tmp_path: Path) -> None:
    with pytest.raises(NotAStore, match="no such file"):
        await migrate(f"sqlite:///{tmp_path}/none.db")
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_checks_and_migrates(tmp_path: Path) -> None:
    copy = tmp_path / "golden.db"
    copy.write_bytes(GOLDEN.read_bytes())
    (tmp_path / "old.db").write_bytes(GOLDEN.read_bytes())
    with closing(sqlite3.connect(tmp_path / "old.db")) as connection, connection:
        connection.execute("UPDATE runtime SET schema_version = 0")

    def eventray(*words: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", "from cluster.cli import main; main()", "store", *words]
        return subprocess.run(program, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])

    assert eventray("migrate", "--store", f"sqlite:///{copy}").returncode == 0
    fine = eventray("check", "--store", f"sqlite:///{copy}")
    assert (fine.returncode, fine.stdout) == (0, f"schema version {SCHEMA_VERSION}, as needed\n"), fine.stderr
    older = eventray("check", "--store", f"sqlite:///{tmp_path}/old.db")
    assert (older.returncode, "eventray store migrate" in older.stderr) == (1, True)
