"""What goes wrong beneath read models on PostgreSQL: each event still counts once, and every call ends in time.

What is stored is looked at by SQL of the test's own. Each event adds one order, so `total_orders` is the position.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, text

from actors.customers import OrderCreated
from projections import postgres
from projections.changes import Changes
from projections.customers import CustomerProjection, customers
from projections.errors import ReadModelMissing, ReadModelRejected, ReadModelUnavailable
from projections.postgres import PostgresReadDatabase
from projections.projection import Projection
from projections.read_models import ReadModels
from store import InvalidValue, open_store, postgres_database, postgres_sessions
from store.records import Advance, Checkpoint
from tests.postgres import Server, Sql
from tests.proxies import Proxy

STATE = """SELECT position, total_orders FROM customers, checkpoints
    WHERE id = 'c-1' AND subscriber = 'CustomerProjection@1' AND shard = 0"""
SAYS = "application_name = 'eventray read models'"


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_database, "REPLY_TIMEOUT_S", 1.5)
    monkeypatch.setattr(postgres_database, "CONNECT_TIMEOUT_S", 1.0)
    monkeypatch.setattr(postgres_database, "LOCK_TIMEOUT_S", 0.3)
    monkeypatch.setattr(postgres_sessions, "CLOSE_TIMEOUT_S", 0.3)


@pytest.fixture
def sql(postgres_server: Server, postgres_url: str) -> Sql:
    return Sql(postgres_server, postgres_url)


async def made(url: str) -> ReadModels:
    """Read models at a URL, with one customer without orders."""
    read_models = ReadModels(url)
    await read_models.prepare(CustomerProjection, [0, 1])
    changes = Changes()
    born = datetime(2026, 1, 1, tzinfo=UTC)
    changes.insert(customers, id="c-1", name="n", email="e", type="t", status="s", created_at=born)
    assert await read_models.apply(CustomerProjection, [Advance(1, 0, 1, b"1")], changes) == {}
    return read_models


@pytest.fixture
async def read_models(postgres_url: str) -> AsyncIterator[ReadModels]:
    opened = await made(postgres_url)
    yield opened
    await opened.close()


@pytest.fixture
async def by_proxy(proxy: Proxy, postgres_url: str) -> AsyncIterator[ReadModels]:
    opened = await made(proxy.url(postgres_url))
    yield opened
    await opened.close()


async def apply(read_models: ReadModels, position: int) -> dict[int, Checkpoint]:
    """Apply the event after `position`."""
    changes = Changes()
    changes.add(customers, "c-1", total_orders=1)
    return await read_models.apply(CustomerProjection, [Advance(0, position, position + 1, b"1")], changes)


def state(sql: Sql) -> tuple[int, int]:
    position, orders = sql(STATE).split("|")
    return int(position), int(orders)


def sessions(read_models: ReadModels) -> list[Any]:
    database = read_models._database
    assert isinstance(database, PostgresReadDatabase)
    return list(database._sessions._all)


async def until_noticed(read_models: ReadModels) -> None:
    async with asyncio.timeout(10):
        while not all(session.is_closed() for session in sessions(read_models)):
            await asyncio.sleep(0.005)


async def test_sessions_are_few_and_ones_that_were_ended_are_replaced(read_models: ReadModels, sql: Sql) -> None:
    def slow(connection: Connection) -> None:
        connection.execute(text("SELECT pg_sleep(0.1)"))

    reading = asyncio.gather(*(read_models._database.read(slow) for _ in range(12)))
    while not reading.done():
        count = await asyncio.to_thread(sql, f"SELECT count(*) FROM pg_stat_activity WHERE {SAYS}")
        assert int(count) <= postgres.SESSIONS_MAX
    await reading
    sql(f"SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE {SAYS}")
    await until_noticed(read_models)
    assert await apply(read_models, 0) == {}
    assert (await read_models.query(CustomerProjection, "c-1", 0)).position == 1
    assert state(sql) == (1, 1)


async def test_a_connection_lost_before_the_commit_leaves_nothing(read_models: ReadModels, sql: Sql) -> None:
    sql.fall("customers_v1", on="UPDATE")
    with pytest.raises(ReadModelUnavailable):
        await apply(read_models, 0)
    assert state(sql) == (0, 0)
    sql.heal("customers_v1")
    assert await apply(read_models, 0) == {}
    assert state(sql) == (1, 1)


@pytest.mark.parametrize("closes", [True, False], ids=["closed", "silent"])
@pytest.mark.parametrize("loses_request", [True, False], ids=["request lost", "reply lost"])
async def test_a_commit_whose_reply_is_lost_counts_once(
    by_proxy: ReadModels, proxy: Proxy, sql: Sql, loses_request: bool, closes: bool
) -> None:
    proxy.loses_request, proxy.closes, proxy.marker = loses_request, closes, b"COMMIT;"
    since = time.monotonic()
    with pytest.raises(ReadModelUnavailable):
        await apply(by_proxy, 0)
    assert time.monotonic() - since < 4
    assert proxy.lost
    async with asyncio.timeout(5):  # the lost session's transaction is over once the server has noticed
        while (outcome := await _retried(by_proxy)) is None:
            await asyncio.sleep(0.01)
    assert outcome == ({} if loses_request else {0: Checkpoint(1, b"1")})
    assert state(sql) == (1, 1)
    assert await apply(by_proxy, 1) == {}
    assert state(sql) == (2, 2)


async def _retried(read_models: ReadModels) -> dict[int, Checkpoint] | None:
    try:
        return await apply(read_models, 0)
    except ReadModelUnavailable:
        return None


async def test_a_server_that_hangs_ends_each_call_in_time_and_then_serves_on(
    by_proxy: ReadModels, proxy: Proxy, sql: Sql
) -> None:
    proxy.passing.clear()
    since = time.monotonic()
    outcomes = await asyncio.gather(
        apply(by_proxy, 0),
        by_proxy.query(CustomerProjection, "c-1", 0),
        by_proxy.positions(CustomerProjection),
        by_proxy.prepare(CustomerProjection, [0]),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [ReadModelUnavailable] * 4
    assert time.monotonic() - since < 6
    proxy.passing.set()
    position, orders = state(sql)
    assert position == orders
    assert await apply(by_proxy, position) == {}
    assert state(sql) == (position + 1, position + 1)


async def test_closing_does_not_wait_for_a_server_that_hangs(by_proxy: ReadModels, proxy: Proxy) -> None:
    proxy.passing.clear()
    async with asyncio.timeout(3):
        await by_proxy.close()


async def test_a_server_that_restarts_is_found_again(
    read_models: ReadModels, sql: Sql, postgres_server: Server
) -> None:
    assert await apply(read_models, 0) == {}
    await asyncio.to_thread(postgres_server.stop)
    try:
        await until_noticed(read_models)
        for use in (apply(read_models, 1), read_models.query(CustomerProjection, "c-1")):
            with pytest.raises(ReadModelUnavailable):
                await use
    finally:
        await asyncio.to_thread(postgres_server.start)
    assert await apply(read_models, 1) == {}
    assert state(sql) == (2, 2)


@pytest.mark.parametrize("sqlstate", ["40001", "40P01"], ids=["serialization failure", "deadlock"])
async def test_what_a_rival_undid_is_done_again(read_models: ReadModels, sql: Sql, sqlstate: str) -> None:
    sql.fail("customers_v1", sqlstate, times=2, on="UPDATE")
    assert await apply(read_models, 0) == {}
    assert state(sql) == (1, 1)
    sql.heal("customers_v1")
    sql.fail("customers_v1", sqlstate, on="UPDATE")
    with pytest.raises(ReadModelUnavailable, match=sqlstate):
        await apply(read_models, 1)
    assert state(sql) == (1, 1)


by_day, by_kind = (
    Table(name, MetaData(), Column("id", Text, primary_key=True), Column("sold", Integer, nullable=False, default=0))
    for name in ("by_day", "by_kind")
)


class Sales(Projection):
    """Two tables whose rows all shards feed."""

    tables: ClassVar = [by_day, by_kind]

    def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
        raise NotImplementedError


SLOWLY = """CREATE OR REPLACE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM pg_sleep(0.2); RETURN NULL; END $$;
    CREATE TRIGGER slowly AFTER INSERT OR UPDATE ON by_day_v1 FOR EACH STATEMENT EXECUTE FUNCTION slowly();
    CREATE TRIGGER slowly AFTER INSERT OR UPDATE ON by_kind_v1 FOR EACH STATEMENT EXECUTE FUNCTION slowly()"""
DEADLOCKS = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
SOLD = "SELECT by_day.sold, by_kind.sold FROM by_day, by_kind"


async def sell(host: ReadModels, shard: int, *tables: Table) -> None:
    """Apply the first event of a shard, which adds one to a row of each table, in that order."""
    changes = Changes()
    for table in tables:
        changes.accumulate(table, "x", sold=1)
    assert await host.apply(Sales, [Advance(shard, 0, 1, b"1")], changes) == {}


@pytest.fixture
async def two_hosts(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[ReadModels]]:
    """Two processes of one projection, patient where rows are locked."""
    monkeypatch.setattr(postgres_database, "LOCK_TIMEOUT_S", 10.0)
    monkeypatch.setattr(postgres_database, "REPLY_TIMEOUT_S", 20.0)
    hosts = [ReadModels(postgres_url) for _ in range(2)]
    await hosts[0].prepare(Sales, [0, 1, 2])
    await sell(hosts[0], 0, by_day, by_kind)
    yield hosts
    for host in hosts:
        await host.close()


async def test_two_hosts_that_feed_the_same_rows_of_two_tables_never_lock_each_other_out(
    two_hosts: list[ReadModels], sql: Sql
) -> None:
    before = sql(DEADLOCKS)
    sql(SLOWLY)
    await asyncio.gather(sell(two_hosts[0], 1, by_day, by_kind), sell(two_hosts[1], 2, by_kind, by_day))
    for host in two_hosts:
        await host.close()  # their sessions say what they met when they end
    assert (sql(SOLD), sql(DEADLOCKS)) == ("3|3", before)


async def test_where_a_stranger_locks_crosswise_the_loser_is_done_again_and_counts_once(
    two_hosts: list[ReadModels], sql: Sql
) -> None:
    before = int(sql(DEADLOCKS))
    sql(SLOWLY)
    stranger = """SET deadlock_timeout = '1min'; BEGIN; UPDATE by_kind_v1 SET sold = sold + 10;
        UPDATE by_day_v1 SET sold = sold + 10; COMMIT"""
    await asyncio.gather(asyncio.to_thread(sql, stranger), sell(two_hosts[0], 1, by_day, by_kind))
    await two_hosts[0].close()
    assert (sql(SOLD), int(sql(DEADLOCKS))) == ("12|12", before + 1)


@pytest.mark.parametrize(
    ("sqlstate", "error"),
    [
        ("53100", ReadModelUnavailable),
        ("25006", ReadModelUnavailable),
        ("57014", ReadModelUnavailable),
        ("42501", ReadModelUnavailable),
        ("23514", ReadModelRejected),
        ("22003", ReadModelRejected),
    ],
    ids=["disk full", "read-only", "cancelled", "no privilege", "check", "out of range"],
)
async def test_its_code_says_whether_the_database_or_the_event_is_at_fault(
    read_models: ReadModels, sql: Sql, sqlstate: str, error: type[Exception]
) -> None:
    sql.fail("customers_v1", sqlstate, on="UPDATE")
    with pytest.raises(error, match=sqlstate):
        await apply(read_models, 0)
    assert state(sql) == (0, 0)
    sql.heal("customers_v1")
    assert await apply(read_models, 0) == {}


async def test_one_that_stopped_in_a_transaction_is_ended_and_its_successor_goes_on(
    read_models: ReadModels, postgres_url: str, sql: Sql
) -> None:
    stopped = PostgresReadDatabase(postgres_database.PostgresDatabase(postgres_url))
    session = await stopped._connect()
    await session.execute("BEGIN; UPDATE checkpoints SET position = 7; UPDATE customers_v1 SET total_orders = 7")
    with pytest.raises(ReadModelUnavailable, match="55P03"):
        await apply(read_models, 0)
    async with asyncio.timeout(4):
        while await _retried(read_models) is None:
            await asyncio.sleep(0.01)
    assert state(sql) == (1, 1)
    await stopped.close()


async def test_text_that_is_too_long_is_refused_not_cut(read_models: ReadModels, sql: Sql) -> None:
    sql("DROP VIEW customers; ALTER TABLE customers_v1 ALTER COLUMN email TYPE varchar(3)")
    changes = Changes()
    changes.set(customers, "c-1", email="long")
    with pytest.raises(ReadModelRejected, match="22001"):
        await read_models.apply(CustomerProjection, [Advance(0, 0, 1, b"1")], changes)
    assert sql("SELECT email FROM customers_v1") == "e"


async def test_a_key_of_another_type_is_refused_by_name(read_models: ReadModels) -> None:
    for key in (5, "\0"):
        with pytest.raises(InvalidValue, match=r"^key = "):
            await read_models.query(CustomerProjection, key)


async def test_read_models_are_in_the_schema_of_their_events(postgres_url: str, sql: Sql) -> None:
    """Another store's, further on in the search path, are not taken for this one's."""
    await (await made(postgres_url)).close()
    other = postgres_url.partition("search_path=")[2]
    sql(f"CREATE SCHEMA {other}_first")
    first = postgres_url.replace(other, f"{other}_first,{other}")
    read_models = ReadModels(first)
    try:
        with pytest.raises(ReadModelMissing):
            await read_models.query(CustomerProjection, "c-1")
        await (await open_store(first)).close()
        assert (await read_models.prepare(CustomerProjection, [1])).checkpoints == {1: Checkpoint(0, None)}
        assert (await read_models.query(CustomerProjection, "c-1", 1)) == (None, 1, 0)
    finally:
        await read_models.close()
        sql(f"DROP SCHEMA {other}_first CASCADE")
    assert sql("SELECT id FROM customers") == "c-1"
