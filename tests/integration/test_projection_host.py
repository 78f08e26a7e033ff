"""The projection host over a SQLite store, its methods called as Ray calls them, without Ray."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from projections.customers import CustomerProjection
from projections.errors import NotFollowed, RestoredBehind
from projections.host import ProjectionHealth, ProjectionHost, ProjectionPlan
from projections.progress import SubscriberLimits
from projections.read_models import ReadModels
from store import EventStore, NotAStore, open_store
from tests.logs import EVENTS, Log, created, ordered

SHARDS = 4
ALL = [*range(SHARDS)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
async def store(url: str) -> AsyncIterator[EventStore]:
    opened = await open_store(url, shards=SHARDS)
    yield opened
    await opened.close()


def host_for(url: str) -> ProjectionHost:
    limits = SubscriberLimits(heads_interval_s=3600)
    return ProjectionHost(ProjectionPlan(url, (CustomerProjection,), tuple(EVENTS.types.values()), limits))


async def health(host: ProjectionHost) -> ProjectionHealth:
    method: Any = host.health
    answer: ProjectionHealth = await method()
    return answer


async def test_it_follows_what_is_pushed_and_serves_readers_who_wait(url: str, store: EventStore) -> None:
    log, host = await Log.on(store), host_for(url)
    assert repr(host) == "Projections 1 · CustomerProjection · shop.db"
    await host.push(msgpack.packb(await log.write(created("c-1"))))  # before it is open: left to the store
    await host.open()
    await host.open()
    await host.follow(ALL)
    await host.follow(ALL)
    records = await log.write(ordered("c-1", "1"), ordered("c-1", "2"))
    packed = msgpack.packb(records)
    await host.push(packed[:100], packed[100:])
    await host.wait_for("CustomerProjection", records[-1].shard, records[-1].position, 5)
    with pytest.raises(NotFollowed):
        await host.wait_for("Another", 0, 1, 5)
    (lag,) = (await health(host)).lags
    assert (lag.subscriber, lag.applied, lag.failure, lag.blocked) == ("CustomerProjection@1", 3, "", {})
    await host.stop()
    read_models = ReadModels(url)
    reading = await read_models.query(CustomerProjection, "c-1", records[-1].shard)
    await read_models.close()
    assert reading.row is not None
    assert (reading.row["total_orders"], reading.position) == (2, records[-1].position)


async def test_when_it_has_stopped_it_has_applied_all_that_was_stored(url: str, store: EventStore) -> None:
    log, host = await Log.on(store), host_for(url)
    await host.open()
    await host.follow(ALL)
    records = await log.write(*(created(f"c-{number}") for number in range(20)))  # and nobody pushes them
    await host.stop()
    read_models = ReadModels(url)
    positions = await read_models.positions(CustomerProjection)
    await read_models.close()
    assert sum(positions.values()) == len(records)


async def test_what_keeps_it_from_opening_is_raised_and_it_may_be_tried_again(url: str, tmp_path: Path) -> None:
    host = host_for(url)
    with pytest.raises(NotAStore):
        await host.open()
    store = await open_store(url, shards=SHARDS)
    await (await Log.on(store)).write(created("c-1"))
    await host.open()
    await host.follow(ALL)
    await host.wait_for("CustomerProjection", 0, 0, 5)
    await store.close()
    await host.stop()


async def test_a_store_made_anew_under_an_old_read_model_is_refused(url: str, tmp_path: Path) -> None:
    store = await open_store(url, shards=SHARDS)
    (record,) = await (await Log.on(store)).write(created("c-1"))
    host = host_for(url)
    await host.open()
    await host.follow(ALL)
    await host.wait_for("CustomerProjection", record.shard, record.position, 5)
    await host.stop()
    await store.close()
    for path in tmp_path.glob("shop.db*"):
        path.unlink()
    await (await open_store(url, shards=SHARDS)).close()
    again = host_for(url)
    await again.open()
    with pytest.raises(RestoredBehind, match="move the read model away"):
        await again.follow(ALL)
    await again.stop()


async def test_health_raises_once_a_projection_has_ended(url: str, store: EventStore) -> None:
    host = host_for(url)
    await host.open()
    await host.follow(ALL)
    assert [lag.failure for lag in (await health(host)).lags] == [""]
    following = host._following
    assert following is not None
    following._subscribers["CustomerProjection"].stop()
    await following._tasks["CustomerProjection"]
    with pytest.raises(RuntimeError, match="CustomerProjection"):
        await health(host)
    await host.stop()
