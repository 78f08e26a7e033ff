"""Replay and audit of a whole store, in parallel on Ray."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from actors.customers import Customer
from actors.repository import load_aggregate
from actors.snapshots import Snapshots
from cluster import replaying
from cluster.application import Application, default_application
from cluster.replaying import audit_store, replay_store
from store import InvalidValue, NotAStore, StoreUnavailable, open_store
from store.audit import Finding
from store.ports import EventReader
from tests.logs import EVENTS, Log, created, ordered

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("ray_address")]


class Watched:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.done: list[int] = []

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        self.total = total
        return self.done.append


@pytest.fixture
async def shop(store_url: str) -> str:
    """A store of 8 shards with 20 customers, 2 events each."""
    store = await open_store(store_url, shards=8)
    log = await Log.on(store)
    keys = [f"c-{number}" for number in range(20)]
    await log.write(*(event for key in keys for event in (created(key), ordered(key, "1"))))
    await store.release(1)
    await store.close()
    return store_url


async def test_the_shards_are_replayed_and_put_together(shop: str) -> None:
    watched = Watched()
    replay = await replay_store(shop, default_application(), watched)
    assert (replay.shards, replay.events, replay.aggregates, replay.failed) == (8, 40, 40, 0)
    assert replay.types == {"CustomerCreated": 20, "OrderCreated": 20}
    assert replay.events_per_s == replay.events / replay.seconds > 0
    assert (watched.total, len(watched.done), sum(watched.done)) == (40, 8, 40)


async def test_what_an_application_does_not_know_is_told(shop: str) -> None:
    replay = await replay_store(shop, Application(aggregates=[Customer]), Watched())
    assert (replay.events, replay.failed) == (20, 20)
    assert {failure.stream for failure in replay.failures} == {f"order-c-{number}-1" for number in range(20)}
    assert "order-c-" in str(replay.failures[0])


async def test_findings_of_all_shards_are_put_together(shop: str, tmp_path: Path) -> None:
    sound = await audit_store(shop, default_application(), Watched())
    assert (sound.shards, sound.events, sound.found, sound.findings) == (8, 40, 0, [])
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("UPDATE events SET metadata = 'x' WHERE stream IN ('customer-c-1', 'customer-c-2')")
        connection.commit()
    store = await open_store(shop)
    right = Snapshots().take(await load_aggregate(store, EVENTS, Customer, "c-3"), 0)
    assert right is not None
    damaged = right._replace(data=right.data.replace("Name of c-3", "Eve"))
    await store.write_snapshots([damaged, right._replace(stream="customer-c-4", version=9), right._replace(stream="x")])
    await store.close()
    watched = Watched()
    audit = await audit_store(shop, default_application(), watched)
    assert {(finding.check, finding.stream) for finding in audit.findings} == {
        ("metadata", "customer-c-1"),
        ("metadata", "customer-c-2"),
        ("snapshot", "customer-c-3"),
        ("snapshot", "customer-c-4"),
        ("snapshot", "x"),
    }
    assert audit.found == 5
    none, *shards = [finding.shard for finding in audit.findings]
    assert none is None
    assert shards == sorted(shards, key=str)
    assert sum(watched.done) == 40 + 3


async def test_snapshots_that_can_not_be_looked_at_take_no_finding_of_the_log_along(
    shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def lost(store: EventReader, done: Callable[[int], None]) -> AsyncIterator[Finding]:
        yield Finding("snapshot", "its stream has no events", None, None, "x", 1)
        raise StoreUnavailable("the connection is lost", True)

    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("UPDATE events SET metadata = 'x' WHERE stream = 'customer-c-1'")
        connection.commit()
    monkeypatch.setattr(replaying, "unsupported_snapshots", lost)
    audit = await audit_store(shop, default_application(), Watched())
    assert sorted(finding.check for finding in audit.findings) == ["metadata", "reading", "snapshot"]


async def test_what_can_not_be_reached_by_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidValue, match="memory"):
        await replay_store("memory://shop", default_application(), Watched())
    with pytest.raises(NotAStore):
        await audit_store(f"sqlite:///{tmp_path}/none.db", default_application(), Watched())
