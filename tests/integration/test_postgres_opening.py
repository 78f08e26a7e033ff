"""Opening a PostgreSQL store: what is there, what may be made, clear errors for the rest, and no password in any."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest

from store import (
    InvalidValue,
    NotAStore,
    OtherSchema,
    ShardCountMismatch,
    StoreUnavailable,
    open_store,
    postgres_database,
)
from store.postgres import PostgresStore
from store.postgres_database import PostgresDatabase
from tests.postgres import Server

TABLES = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = current_schema()"


@pytest.fixture
def database(postgres_server: Server) -> Iterator[str]:
    with postgres_server.database() as name:
        yield name


async def make(url: str, shards: int | None = None) -> str:
    store = await open_store(url, shards)
    await store.close()
    return store.store_id


async def test_a_store_keeps_its_id_and_number_of_shards(postgres_server: Server, database: str) -> None:
    url = postgres_server.url(database)
    store_id = await make(url, shards=4)
    for create in (True, False):
        store = await open_store(url, create=create)
        assert (store.store_id, store.shards) == (store_id, 4)
        assert len(await store.routes()) == len(await store.heads()) == 4
        await store.close()
    with pytest.raises(ShardCountMismatch, match="made with 4 shards, 8 were"):
        await open_store(url, shards=8)


async def test_each_schema_is_a_store_of_its_own(postgres_server: Server, database: str) -> None:
    postgres_server.sql("CREATE SCHEMA left_shop; CREATE SCHEMA right_shop", database)
    url = postgres_server.url(database)
    ids = {await make(url + option) for option in ("", "&search_path=left_shop", "&search_path=right_shop,public")}
    assert len(ids) == 3


async def test_a_missing_store_is_not_made_unless_asked_for(postgres_server: Server, database: str) -> None:
    with pytest.raises(NotAStore, match="no tables of a store"):
        await open_store(postgres_server.url(database), create=False)
    assert postgres_server.sql(TABLES, database) == ""


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ("CREATE TABLE events (something text)", "events"),
        ("CREATE VIEW shards AS SELECT 1 AS shard", "shards"),
        ("CREATE TABLE runtime (a int); CREATE TABLE shards (a int); CREATE TABLE hosts (a int); "
         "CREATE TABLE events (a int)", "something else"),
    ],
)  # fmt: skip
async def test_tables_of_our_names_are_left_alone(
    postgres_server: Server, database: str, tables: str, reason: str
) -> None:
    postgres_server.sql(tables, database)
    before = postgres_server.sql(TABLES, database)
    with pytest.raises(NotAStore, match=rf"{reason}.*search_path=SCHEMA"):
        await open_store(postgres_server.url(database))
    assert postgres_server.sql(TABLES, database) == before


async def test_tables_of_other_names_do_not_matter(postgres_server: Server, database: str) -> None:
    postgres_server.sql("CREATE TABLE customers (id text)", database)
    await make(postgres_server.url(database))
    assert "customers" in postgres_server.sql(TABLES, database).split()


async def test_an_empty_runtime_table_is_no_store(postgres_url: str, postgres_server: Server) -> None:
    await make(postgres_url)
    postgres_server.sql(f"DELETE FROM {postgres_url.partition('search_path=')[2]}.runtime")
    with pytest.raises(NotAStore, match="empty"):
        await open_store(postgres_url)


async def test_a_store_of_a_newer_schema_is_refused(postgres_url: str, postgres_server: Server) -> None:
    await make(postgres_url)
    postgres_server.sql(f"UPDATE {postgres_url.partition('search_path=')[2]}.runtime SET schema_version = 99")
    with pytest.raises(OtherSchema, match=r"99.*newer"):
        await open_store(postgres_url)


async def test_no_such_database_and_no_such_schema(postgres_server: Server) -> None:
    with pytest.raises(NotAStore, match="createdb"):
        await open_store(postgres_server.url("nowhere"))
    for create in (True, False):
        with pytest.raises(NotAStore, match="CREATE SCHEMA"):
            await open_store(postgres_server.url("postgres") + "&search_path=nowhere", create=create)


@pytest.mark.parametrize("option", ["colour=red", "work_mem=much", "shared_buffers=1GB"])
async def test_an_option_that_nobody_knows_is_named(postgres_server: Server, option: str) -> None:
    with pytest.raises(InvalidValue, match=f'option.*"{option.partition("=")[0]}"') as refused:
        await open_store(postgres_server.url("postgres") + f"&{option}")
    assert refused.value.field == "store"


async def test_a_database_that_can_not_hold_all_text_is_refused(postgres_server: Server) -> None:
    with postgres_server.database("ENCODING 'LATIN1' LOCALE 'C'") as name, pytest.raises(NotAStore, match="LATIN1"):
        await open_store(postgres_server.url(name))


async def test_one_who_may_not_make_tables_is_told_so(postgres_server: Server, database: str) -> None:
    postgres_server.sql("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN; REVOKE CREATE ON SCHEMA public FROM guest")
    url = postgres_server.url(database).replace("postgres@", "guest@")
    with pytest.raises(StoreUnavailable, match="42501") as refused:
        await open_store(url)
    assert not refused.value.passing
    await make(postgres_server.url(database))
    postgres_server.sql("GRANT SELECT ON ALL TABLES IN SCHEMA public TO guest", database)
    reader = await open_store(url, create=False)
    assert len(await reader.heads()) == 64
    with pytest.raises(StoreUnavailable, match="42501"):
        await reader.take("guest")
    await reader.close()
    postgres_server.sql("DROP OWNED BY guest; DROP ROLE guest", database)


def test_processes_that_make_it_at_once_get_one_store(postgres_url: str) -> None:
    program = (
        "import asyncio, sys; from store import open_store\n"
        "async def main():\n"
        "    store = await open_store(sys.argv[1]); print(store.store_id); await store.close()\n"
        "sys.stdin.readline(); asyncio.run(main())"
    )
    command = [sys.executable, "-c", program, postgres_url]
    root = Path(__file__).parents[2]
    makers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) for _ in range(3)
    ]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.write("go\n")
        maker.stdin.flush()
    answers = [maker.communicate(timeout=30)[0] for maker in makers]
    assert [maker.returncode for maker in makers] == [0, 0, 0]
    assert len(set(answers)) == 1


async def test_ten_openers_at_once_get_one_store(postgres_url: str) -> None:
    assert len(set(await asyncio.gather(*(make(postgres_url) for _ in range(10))))) == 1


@pytest.mark.parametrize(
    "url",
    ["postgresql://", "postgresql://u@h", "postgresql://u@h/", "postgresql://u:geheim@h:port/db", "postgres://u@h/db",
     "postgresql+asyncpg://u:geheim@h/db", "postgresql://u:geheim@h/db?sslmode=sometimes", "postgresql://u@h/d\0b"],
)  # fmt: skip
async def test_a_url_that_can_not_be_meant(url: str) -> None:
    with pytest.raises(InvalidValue, match="postgresql://USER@HOST/DATABASE") as refused:
        await open_store(url)
    assert refused.value.field == "store"
    assert "geheim" not in "".join(traceback.format_exception(refused.value))


async def test_an_option_of_a_wrong_value_is_named() -> None:
    with pytest.raises(InvalidValue, match="mend sslmode: "):
        await open_store("postgresql://u@h/db?host=h2&sslmode=sometimes")


async def test_nobody_listening_is_passing() -> None:
    where = r"no server can be reached at postgresql://postgres:\*\*\*@127\.0\.0\.1:1/shop \(.*\): start it there"
    with pytest.raises(StoreUnavailable, match=where) as refused:
        await open_store("postgresql://postgres:geheim@127.0.0.1:1/shop")
    assert refused.value.passing


@pytest.mark.parametrize(("mode", "option"), [("verify-ca", "sslrootcert"), ("require", "sslcert")])
async def test_a_file_of_the_url_that_is_not_there_is_named_and_no_server_that_is_away(
    mode: str, option: str, tmp_path: Path
) -> None:
    missing = tmp_path / "none.crt"
    with pytest.raises(InvalidValue, match=f"mend {option}: the file can't be read"):
        await open_store(f"postgresql://ada@127.0.0.1:1/shop?sslmode={mode}&{option}={missing}")


async def test_a_socket_that_is_not_there_is_named_and_passing(tmp_path: Path) -> None:
    where = f"no server can be reached at postgresql://ada@/shop?host={tmp_path}/none (No such file or directory): "
    with pytest.raises(StoreUnavailable, match=re.escape(where)) as refused:
        await open_store(f"postgresql://ada@/shop?host={tmp_path}/none")
    assert refused.value.passing


async def test_one_who_listens_but_says_nothing_is_passing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_database, "CONNECT_TIMEOUT_S", 0.3)
    callers: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda reader, writer: callers.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    with pytest.raises(StoreUnavailable, match=r"\(no answer within 0.3 s\)") as refused:
        async with asyncio.timeout(5):
            await open_store(f"postgresql://postgres@127.0.0.1:{port}/shop")
    assert refused.value.passing
    silent.close()
    for caller in callers:
        caller.transport.abort()
    await asyncio.sleep(0)


SECRET = "s3cr3t@/:%?"
QUOTED = "s3cr3t%40%2F%3A%25%3F"


async def test_the_password_is_never_shown(
    postgres_server: Server, database: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    url = postgres_server.url(database).replace("postgres@", f"postgres:{QUOTED}@")
    shown = []
    for broken in (
        url.replace(database, "nowhere"),
        url.replace("host=", "host=/nowhere"),
        url + "&search_path=nowhere",
        url.replace("postgresql:", "postgres:"),
        f"postgresql://postgres@/{database}?password={QUOTED}&host=/nowhere",
        f"postgresql://postgres:{SECRET}@h/db",
    ):
        with pytest.raises((NotAStore, StoreUnavailable, InvalidValue)) as refused:
            await open_store(broken)
        shown += ["".join(traceback.format_exception(refused.value)), repr(refused.value), repr(refused.value.args)]
    store = await open_store(url)
    assert isinstance(store, PostgresStore)
    shown += [repr(store), str(store._engine), repr(PostgresDatabase(url)), caplog.text]
    shown += [path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    await store.close()
    assert not [text for text in shown if "s3cr3t" in text]


async def test_without_its_driver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name == "store.postgres" or name.startswith("store.postgres_")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    with pytest.raises(InvalidValue, match=r'pip install "eventray\[postgres\]"') as refused:
        await open_store("postgresql://u:geheim@h/db")
    assert "geheim" not in str(refused.value)
