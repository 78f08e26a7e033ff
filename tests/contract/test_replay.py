"""Folding a shard's whole history, on every backend."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import pytest

from actors import Aggregate, replay
from actors.customers import Customer, Order, OrderCreated
from actors.registry import AggregateRegistry
from actors.replay import ShardReplay, replay_shard
from store import EventRecord, EventStore, paging
from store.metadata import Metadata
from tests.contract.rows import SHARDS
from tests.logs import Log, created, ordered

CUSTOMERS = [f"c-{number}" for number in range(12)]
REGISTRY = AggregateRegistry([Customer, Order])


@pytest.fixture
async def log(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> Log:
    """A log of 12 customers in turns, each with two events and an order."""
    monkeypatch.setattr(paging, "FIRST_PAGE_RECORDS", 2)
    monkeypatch.setattr(paging, "PAGE_RECORDS_MAX", 3)
    log = await Log.on(store)
    await log.write(*(created(customer) for customer in CUSTOMERS))
    await log.write(*(ordered(customer, "1") for customer in CUSTOMERS))
    await log.write(*(created(customer) for customer in CUSTOMERS))
    return log


async def replay_all(store: EventStore, registry: AggregateRegistry = REGISTRY) -> list[ShardReplay]:
    seen: list[int] = []
    replays = [await replay_shard(store, registry, shard, seen.append) for shard in range(SHARDS)]
    assert sum(seen) == sum((await store.heads()).values())
    return replays


async def test_all_aggregates_are_folded_and_counted(store: EventStore, log: Log) -> None:
    replays = await replay_all(store)
    assert sum(each.events for each in replays) == 36
    assert sum(each.aggregates for each in replays) == 24
    types = sum((each.types for each in replays), start=replays[0].types.__class__())
    assert types == {"CustomerCreated": 24, "OrderCreated": 12}
    assert [each.failures for each in replays] == [[]] * SHARDS
    assert all(each.seconds > 0 for each in replays)


@pytest.mark.parametrize("live_max", [1, 2, 3])
async def test_more_aggregates_than_may_live_are_folded_in_several_passes(
    store: EventStore, log: Log, monkeypatch: pytest.MonkeyPatch, live_max: int
) -> None:
    folded: list[tuple[str, int]] = []
    most = 0
    original = Aggregate.load_from_history

    def recording(self: Aggregate, events: Sequence[OrderCreated], versions: Sequence[int]) -> None:
        original(self, events, versions)
        folded.append((self.stream, self.version))

    class Watched(replay._Fold):
        def page(self, records: Sequence[EventRecord]) -> None:
            nonlocal most
            super().page(records)
            most = max(most, len(self._live))

    monkeypatch.setattr(Aggregate, "load_from_history", recording)
    monkeypatch.setattr(replay, "AGGREGATES_MAX", live_max)
    monkeypatch.setattr(replay, "_Fold", Watched)
    replays = await replay_all(store)
    expected = [(f"customer-{key}", version) for key in CUSTOMERS for version in (1, 2)]
    assert sorted(folded) == sorted(expected + [(f"order-{key}-1", 1) for key in CUSTOMERS])
    assert (sum(each.events for each in replays), sum(each.aggregates for each in replays)) == (36, 24)
    assert most <= live_max


async def test_what_can_not_be_folded_is_told_and_the_rest_is_folded(store: EventStore, log: Log) -> None:
    skipped = log.record(created("c-2"))._replace(version=9)
    undecodable = log.record(created("c-1"))._replace(data='{"customer_id":5}')
    behind_it = log.record(created("c-1"))
    stranger = log.record(created("c-3"))._replace(stream="robot-c-3", version=1)
    await log.append([skipped, undecodable, behind_it, stranger])
    replays = await replay_all(store)
    failures = [failure for each in replays for failure in each.failures]
    assert sorted((failure.stream, failure.version) for failure in failures) == [
        ("customer-c-1", 3),
        ("customer-c-2", 9),
        ("robot-c-3", 1),
    ]
    assert sum(each.failed for each in replays) == 3
    assert (sum(each.events for each in replays), sum(each.left_out for each in replays)) == (36, 4)


async def test_metadata_are_not_looked_at(store: EventStore, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at: list[EventRecord] = []
    monkeypatch.setattr(Metadata, "of", looked_at.append)
    await log.append([log.record(created("c-1"), occurred_at=5)])
    assert sum(each.events for each in await replay_all(store)) == 37
    assert looked_at == []


async def test_streams_without_a_beginning_are_told_whatever_pass_meets_them(
    store: EventStore, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.append([log.record(created("c-1"))._replace(stream="customer-late", version=2)])
    for live_max in (1, 1000):
        monkeypatch.setattr(replay, "AGGREGATES_MAX", live_max)
        replays = await replay_all(store)
        assert sum(each.failed for each in replays) == 1
        assert (sum(each.events for each in replays), sum(each.left_out for each in replays)) == (36, 1)


async def test_code_that_breaks_on_an_event_is_told(store: EventStore, log: Log) -> None:
    class Broken(Aggregate, category="order", partition_key_field="customer_id"):
        def on_created(self, event: OrderCreated) -> None:
            raise ZeroDivisionError(event.total_amount / Decimal(2))

    replays = await replay_all(store, AggregateRegistry([Customer, Broken]))
    failures = [failure for each in replays for failure in each.failures]
    assert {failure.stream for failure in failures} == {f"order-{key}-1" for key in CUSTOMERS}
    assert all("ZeroDivisionError" in failure.reason for failure in failures)
    assert sum(each.events for each in replays) == 24
