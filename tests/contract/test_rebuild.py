"""Rebuilding a read model: old rows are read until the new ones are as far, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, select, text

from actors.customers import CustomerCreated, OrderCreated
from projections.builds import read_builds
from projections.changes import Changes
from projections.customers import CustomerProjection
from projections.errors import (
    ConsistencyTimeout,
    ReadModelMissing,
    ReadModelUnavailable,
    ReadModelVersion,
    RebuildStopped,
)
from projections.making import table_names
from projections.progress import SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import ProjectionSubscriber, RebuildSink
from projections.read_models import ReadModels
from projections.rebuild import fill, finish
from projections.subscriber import Subscriber
from projections.tables import Build
from store.memory import MemoryStore
from tests.logs import EVENTS, Log, created, ordered

SHARDS = 4
QUIET = SubscriberLimits(batch_size_max=5, heads_interval_s=3600, retry_first_s=0, retry_max_s=0)
NAMES = [f"c-{number}" for number in range(12)]

old_table = Table("spent", MetaData(), Column("id", Text, primary_key=True), Column("orders", Integer, default=0))
new_table = Table(
    "spent",
    MetaData(),
    Column("id", Text, primary_key=True),
    Column("orders", Integer, default=0),
    Column("double", Integer, default=0),
)


class Old(Projection, name="Spent"):
    tables: ClassVar = [old_table]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(old_table, id=event.customer_id)

    def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
        changes.add(old_table, event.customer_id, orders=1)


class New(Projection, name="Spent", version=2):
    tables: ClassVar = [new_table]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(new_table, id=event.customer_id)

    def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
        changes.add(new_table, event.customer_id, orders=1, double=2)


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = MemoryStore("rebuild", shards=SHARDS)
    opened = await Log.on(store)
    await opened.write(*(created(name) for name in NAMES), *(ordered(name, "1") for name in NAMES))
    yield opened
    await store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def read_models(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReadModels]:
    urls = {"memory": "memory://rebuild", "sqlite": f"sqlite:///{tmp_path}/shop.db"}
    opened = ReadModels(urls.get(request.param) or request.getfixturevalue("postgres_url"))
    yield opened
    await opened.close()


async def started(log: Log, read_models: ReadModels, projection: type[Projection]) -> ProjectionSubscriber:
    subscriber = ProjectionSubscriber(log.store, read_models, projection, EVENTS, range(SHARDS), limits=QUIET)
    await subscriber.start()
    return subscriber


async def settled(subscriber: Subscriber) -> None:
    await subscriber._compare_heads()
    while (await subscriber.step()).more:
        pass


async def settled_again(held: Sequence[Subscriber]) -> set[Subscriber]:
    """Step until none is held any more, for two seconds at most; return those that are not."""
    taken: set[Subscriber] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2):
            while len(taken) < len(held):
                for subscriber in held:
                    with contextlib.suppress(ReadModelUnavailable):
                        await settled(subscriber)
                        taken.add(subscriber)
                await asyncio.sleep(0.01)
    return taken


async def filling(log: Log, read_models: ReadModels, projection: type[Projection], build: Build) -> Subscriber:
    sink = RebuildSink(read_models, projection, EVENTS, build)
    subscriber = Subscriber(log.store, sink, range(SHARDS), limits=QUIET)
    await subscriber.start()
    return subscriber


async def row(read_models: ReadModels, projection: type[Projection], key: str = "c-1") -> dict[str, Any] | None:
    return (await read_models.query(projection, key)).row


async def tables(read_models: ReadModels) -> set[str]:
    found = await read_models._database.read(table_names)
    return {name for name in found if name.startswith(("spent", "customers"))}


async def test_a_higher_version_takes_over_once_it_is_as_far(log: Log, read_models: ReadModels) -> None:
    old = await started(log, read_models, Old)
    await settled(old)
    new = await started(log, read_models, New)
    assert await tables(read_models) == {"spent_v1", "spent_v2"}
    for _ in range(3):
        await new.step()
        assert await row(read_models, New) == {"id": "c-1", "orders": 1}  # the old one's
    await settled(new)
    assert await row(read_models, New) == {"id": "c-1", "orders": 1, "double": 2}
    assert await tables(read_models) == {"spent_v2"}
    of_one = select(new_table).where(new_table.c.id == "c-1")
    assert await read_models.select(New, of_one) == [{"id": "c-1", "orders": 1, "double": 2}], "by the view of its name"
    await log.write(ordered("c-1", "2"))
    await old._compare_heads()
    with pytest.raises(ReadModelVersion):
        await old.step()
    await settled(new)
    assert await row(read_models, New) == {"id": "c-1", "orders": 2, "double": 4}


async def test_two_that_share_the_shards_of_a_higher_version_let_it_take_over_together(
    log: Log, read_models: ReadModels
) -> None:
    await settled(await started(log, read_models, Old))
    limits = replace(QUIET, heads_interval_s=0)
    first, second = (
        ProjectionSubscriber(log.store, read_models, New, EVENTS, shards, limits=limits) for shards in ([0, 1], [2, 3])
    )
    for each in (first, second):
        await each.start()
    for each in (first, second):
        assert await row(read_models, New) == {"id": "c-1", "orders": 1}
        await settled(each)
    assert await row(read_models, New) == {"id": "c-1", "orders": 1, "double": 2}
    reader = asyncio.create_task(first.wait_for(0, 1, 5))
    await first.step()  # nothing has come for it, and yet it learns that its build is read
    await reader


async def test_reads_never_go_back(log: Log, read_models: ReadModels, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("projections.read_models.HOLD_S", 0)
    old = await started(log, read_models, Old)
    await settled(old)
    new = await started(log, read_models, New)
    (record,) = await log.write(ordered("c-1", "2"))
    await settled(old)
    while new.lag().applied < 20:
        await new.step()
        reading = await read_models.query(New, "c-1", record.shard)
        assert reading.position == record.position
        assert reading.row is not None
        assert reading.row["orders"] == 2
    await settled(new)
    reading = await read_models.query(New, "c-1", record.shard)
    assert (reading.version, reading.position) == (2, record.position)


async def test_who_waits_for_a_version_that_is_filled_waits_until_it_is_read(log: Log, read_models: ReadModels) -> None:
    await settled(await started(log, read_models, Old))
    new = await started(log, read_models, New)
    records = await log.store.read_shard(0, 0, 1)
    assert await new.step()
    with pytest.raises(ConsistencyTimeout, match="command did succeed"):
        await new.wait_for(0, records[0].position, 0.01)
    waiting = asyncio.create_task(new.wait_for(0, records[0].position, 5))
    await settled(new)
    await waiting


async def test_a_rebuild_beside_a_live_one_loses_and_doubles_nothing(log: Log, read_models: ReadModels) -> None:
    live = await started(log, read_models, CustomerProjection)
    await settled(live)
    build = await read_models.begin_rebuild(CustomerProjection, range(SHARDS))
    assert await read_models.begin_rebuild(CustomerProjection, range(SHARDS)) == build == Build(1, 1)
    rebuild = await filling(log, read_models, CustomerProjection, build)
    await settled(rebuild)
    await log.write(*(ordered(name, "2") for name in NAMES))
    await settled(live)
    assert await read_models.take_over(CustomerProjection, build) == len(NAMES)
    await settled(rebuild)
    assert await read_models.take_over(CustomerProjection, build) == 0
    assert await tables(read_models) == {"customers_v1_1"}
    await log.write(*(ordered(name, "3") for name in NAMES))
    await settled(live)
    for name in NAMES:
        found = await row(read_models, CustomerProjection, name)
        assert found is not None
        assert found["total_orders"] == 3
    assert live.lag().subscriber == "CustomerProjection@1.1"


async def test_a_live_one_that_is_held_leaves_its_rows_as_they_are_for_a_moment(
    log: Log, read_models: ReadModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("projections.read_models.HOLD_S", 0.05)
    live = await started(log, read_models, CustomerProjection)
    build = await read_models.begin_rebuild(CustomerProjection, range(SHARDS))
    await read_models.hold(CustomerProjection)
    with pytest.raises(ReadModelUnavailable, match="take its place"):
        await live.step()
    await settled(await filling(log, read_models, CustomerProjection, build))
    assert await settled_again([live]) == {live}
    assert await read_models.take_over(CustomerProjection, build) == 0


async def test_two_that_are_held_at_once_are_held_no_longer_than_one(
    log: Log, read_models: ReadModels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As two rebuilds that were ended before their builds took over leave them."""
    monkeypatch.setattr("projections.read_models.HOLD_S", 0.05)
    both: list[type[Projection]] = [CustomerProjection, Old]
    live = [await started(log, read_models, each) for each in both]
    for each in both:
        await read_models.begin_rebuild(each, range(SHARDS))
        await read_models.hold(each)
    assert await settled_again(live) == {*live}


async def test_a_build_that_was_given_up_is_filled_no_further(log: Log, read_models: ReadModels) -> None:
    await settled(await started(log, read_models, Old))
    await read_models.begin_rebuild(Old, range(SHARDS))
    given_up = await filling(log, read_models, Old, Build(1, 1))
    await given_up.step()
    new = await started(log, read_models, New)
    with pytest.raises(ReadModelMissing):
        await given_up.step()
    await settled(new)
    assert await tables(read_models) == {"spent_v2"}


async def test_a_build_that_was_given_up_begins_empty_when_it_is_begun_again(log: Log, read_models: ReadModels) -> None:
    await settled(await started(log, read_models, Old))
    new = await started(log, read_models, New)
    await settled(await filling(log, read_models, New, Build(2)))
    await read_models.begin_rebuild(Old, range(SHARDS))
    (record,) = await log.write(ordered("c-1", "2"))
    new.push([record])
    await new.step()
    new._heads_read_at = -QUIET.heads_interval_s
    await settled(new)
    assert await row(read_models, New) == {"id": "c-1", "orders": 2, "double": 4}
    assert (await row(read_models, New, "c-2")) == {"id": "c-2", "orders": 1, "double": 2}


async def test_a_rebuild_that_was_interrupted_goes_on_where_it_was(log: Log, read_models: ReadModels) -> None:
    live = await started(log, read_models, CustomerProjection)
    await settled(live)
    build = await read_models.begin_rebuild(CustomerProjection, range(SHARDS))
    first: list[int] = []
    await fill(log.store, read_models, CustomerProjection, EVENTS, build, range(2), first.append)
    assert await read_models.begin_rebuild(CustomerProjection, range(SHARDS)) == build
    rest: list[int] = []
    await fill(log.store, read_models, CustomerProjection, EVENTS, build, range(SHARDS), rest.append)
    assert 0 < sum(first) == 24 - sum(rest)
    await log.write(ordered("c-1", "2"))
    await settled(live)
    await finish(log.store, read_models, CustomerProjection, EVENTS, build)
    assert await tables(read_models) == {"customers_v1_1"}
    found = await row(read_models, CustomerProjection)
    assert found is not None
    assert found["total_orders"] == 2


async def test_an_event_that_cannot_be_applied_stops_it_and_the_old_rows_are_read_on(
    log: Log, read_models: ReadModels
) -> None:
    class Poisoned(Old, name="Spent"):
        def on_ordered(self, event: OrderCreated, changes: Changes) -> None:
            raise RuntimeError("poison")

    await settled(await started(log, read_models, Old))
    build = await read_models.begin_rebuild(Poisoned, range(SHARDS))
    with pytest.raises(RebuildStopped, match="poison"):
        await finish(log.store, read_models, Poisoned, EVENTS, build)
    assert await row(read_models, Old) == {"id": "c-1", "orders": 1}
    await finish(log.store, read_models, Old, EVENTS, build)
    assert await tables(read_models) == {"spent_v1_1"}


async def test_one_that_was_given_up_stops_and_replaces_nothing(log: Log, read_models: ReadModels) -> None:
    await settled(await started(log, read_models, Old))
    build = await read_models.begin_rebuild(Old, range(SHARDS))
    await settled(await filling(log, read_models, Old, build))
    await started(log, read_models, New)
    with pytest.raises(ReadModelMissing):
        await read_models.take_over(Old, build)
    with pytest.raises(RebuildStopped, match="another version"):
        await finish(log.store, read_models, Old, EVENTS, build)
    assert await tables(read_models) == {"spent_v1", "spent_v1_1", "spent_v2"}


async def test_read_models_of_before_there_were_builds_are_read_and_gone_on_with(
    log: Log, read_models: ReadModels
) -> None:
    await settled(await started(log, read_models, Old))
    for column in ("live_build", "next_version", "next_build", "hold"):
        older = text(f"ALTER TABLE projections DROP COLUMN {column}")
        await read_models._database.write(lambda connection, older=older: connection.execute(older))  # type: ignore[misc]
    read_models._made = False
    assert await row(read_models, Old) == {"id": "c-1", "orders": 1}
    await log.write(ordered("c-1", "2"))
    await settled(await started(log, read_models, Old))
    assert await row(read_models, Old) == {"id": "c-1", "orders": 2}
    await settled(await started(log, read_models, New))
    assert await row(read_models, New) == {"id": "c-1", "orders": 2, "double": 4}


async def test_who_is_reading_reads_on_while_it_is_replaced(log: Log, read_models: ReadModels) -> None:
    """A transaction has seen which build is read; before it reads the row, that build is replaced."""
    await settled(await started(log, read_models, Old))
    build = await read_models.begin_rebuild(Old, range(SHARDS))
    await settled(await filling(log, read_models, Old, build))
    loop, began, replacing = asyncio.get_running_loop(), asyncio.Event(), threading.Event()

    def slowly(connection: Connection) -> tuple[Build | None, int]:
        live = read_builds(connection, "Spent").live
        loop.call_soon_threadsafe(began.set)
        wait_a_moment(connection, replacing)
        assert live is not None
        return live, connection.exec_driver_sql(f"SELECT count(*) FROM spent{live.suffix}").scalar_one()

    reading = asyncio.create_task(read_models._database.read(slowly))
    await began.wait()
    taking_over = asyncio.create_task(read_models.take_over(Old, build))
    loop.call_later(0.3, replacing.set)
    assert await reading == (Build(1), len(NAMES))
    assert await taking_over == 0
    assert await row(read_models, Old) == {"id": "c-1", "orders": 1}


def wait_a_moment(connection: Connection, replacing: threading.Event) -> None:
    """Let whatever replaces the build get as far as it can: on PostgreSQL this is the event loop's own thread."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SELECT pg_sleep(0.3)")
    else:
        replacing.wait(5)
