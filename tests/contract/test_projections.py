"""What a projection promises its readers, on each kind of read model: every event counts once, whatever pushes do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from actors.customers import (
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerType,
    OrderCreated,
)
from projections.changes import Changes
from projections.customers import CustomerProjection, customers
from projections.errors import (
    ConsistencyTimeout,
    NotFollowed,
    ReadModelMissing,
    ReadModelRejected,
    ReadModelVersion,
    RestoredBehind,
)
from projections.progress import SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import ProjectionSink
from projections.read_models import ReadModels
from projections.subscriber import Subscriber
from store import Event, EventRecord
from store.memory import MemoryStore
from store.records import Advance, moment
from tests.logs import EVENTS, RECORDED_AT, Log, created, ordered

SHARDS = 4
NEVER_S = 3600.0
"""An interval in which a test ends: what happens within it was not the periodic comparison's doing."""
QUIET = SubscriberLimits(heads_interval_s=NEVER_S)


class CountingStore(MemoryStore):
    """Counts how often a shard is read."""

    reads = 0

    async def read_shard(self, shard: int, after_position: int, limit: int) -> Sequence[EventRecord]:
        self.reads += 1
        return await super().read_shard(shard, after_position, limit)


@pytest.fixture
async def store() -> AsyncIterator[CountingStore]:
    opened = CountingStore("projections", shards=SHARDS)
    yield opened
    await opened.close()


@pytest.fixture
async def log(store: CountingStore) -> Log:
    return await Log.on(store)


@pytest.fixture
async def read_models(store_url: str) -> AsyncIterator[ReadModels]:
    opened = ReadModels(store_url)
    yield opened
    await opened.close()


def following(
    store: MemoryStore, read_models: ReadModels, projection: type[Projection] = CustomerProjection, **options: Any
) -> Subscriber:
    return Subscriber(store, ProjectionSink(read_models, projection, EVENTS), range(SHARDS), **options)


async def started(store: MemoryStore, read_models: ReadModels, limits: SubscriberLimits = QUIET) -> Subscriber:
    runner = following(store, read_models, limits=limits)
    await runner.start()
    await settled(runner)
    return runner


class Untold(Exception):
    """An error whose text can't be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


async def settled(runner: Subscriber) -> int:
    """Take steps until nothing is left to do at once; return how many events were applied."""
    applied = 0
    for _ in range(100):
        progress = await runner.step()
        applied += progress.applied
        if not progress.more:
            return applied
    raise AssertionError("the runner finds no rest")


async def rows(read_models: ReadModels, ids: set[str]) -> dict[str, dict[str, Any]]:
    readings = [await read_models.query(CustomerProjection, key) for key in sorted(ids)]
    return {reading.row["id"]: reading.row for reading in readings if reading.row is not None}


async def fold(store: MemoryStore) -> dict[str, dict[str, Any]]:
    """The read model as the log says it, by a fold that shares no code with the projection."""
    result: dict[str, dict[str, Any]] = {}
    for shard in range(store.shards):
        for record in await store.read_shard(shard, 0, 10_000):
            event: Any = EVENTS.decode(record)
            if record.type == "CustomerCreated":
                result[event.customer_id] = {
                    "id": event.customer_id, "name": event.name, "email": event.email, "type": "Regular",
                    "status": "Active", "created_at": event.occurred_at, "last_promoted_at": None,
                    "total_orders": 0, "total_spent": Decimal(0),
                }  # fmt: skip
                continue
            row = result[event.customer_id]
            match record.type:
                case "OrderCreated":
                    row["total_orders"] += 1
                    row["total_spent"] += event.total_amount
                case "CustomerPromoted":
                    row["type"], row["last_promoted_at"] = "Vip", event.occurred_at
                case "CustomerEmailChanged":
                    row["email"] = event.new_email
                case "CustomerDeactivated":
                    row["status"] = "Deactivated"
    return result


async def assert_equals_log(read_models: ReadModels, store: MemoryStore) -> None:
    expected = await fold(store)
    assert expected
    assert await rows(read_models, set(expected)) == expected


def ids(count: int) -> list[str]:
    return [f"c-{number}" for number in range(count)]


async def history(log: Log) -> list[list[EventRecord]]:
    """Three commits over all shards, in which every event type occurs."""
    names = ids(12)
    first = await log.write(*(created(name) for name in names), occurred_at=RECORDED_AT - 5)
    second = await log.write(*(ordered(name, f"{n}", "0.1") for name in names for n in range(3)))
    third = await log.write(
        CustomerEmailChanged(customer_id=names[0], old_email="c-0@a.example", new_email="new@a.example"),
        CustomerPromoted(
            customer_id=names[1], from_type=CustomerType.REGULAR, to_type=CustomerType.VIP, reason="loyal"
        ),
        ordered(names[0], "last", "12.3456"),
        CustomerDeactivated(customer_id=names[2], reason=""),
    )
    return [first, second, third]


class TestPushes:
    async def test_in_order_are_applied_without_reading_the_store(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        commits = await history(log)
        store.reads = 0
        for commit in commits:
            runner.push(commit)
        assert await settled(runner) == sum(map(len, commits))
        assert store.reads == 0
        await assert_equals_log(read_models, store)

    async def test_that_come_twice_count_once(self, log: Log, store: CountingStore, read_models: ReadModels) -> None:
        runner = await started(store, read_models)
        commits = await history(log)
        store.reads = 0
        for commit in commits:
            runner.push(commit)
            runner.push(commit)
        await settled(runner)
        for commit in commits:
            runner.push(commit)
        assert await settled(runner) == 0
        assert store.reads == 0
        await assert_equals_log(read_models, store)

    async def test_that_overlap_are_trimmed(self, log: Log, store: CountingStore, read_models: ReadModels) -> None:
        runner = await started(store, read_models)
        first, second, third = await history(log)
        runner.push(first)
        await settled(runner)
        runner.push(first + second + third)
        assert await settled(runner) == len(second) + len(third)
        await assert_equals_log(read_models, store)

    async def test_that_come_late_or_out_of_order_lose_nothing(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        first, second, third = await history(log)
        runner.push(third)
        await settled(runner)
        runner.push(first)
        runner.push(second)
        await settled(runner)
        await assert_equals_log(read_models, store)

    async def test_one_lost_in_the_middle_is_read_from_the_store(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        first, _lost, third = await history(log)
        runner.push(first)
        await settled(runner)
        gap_reads = runner.lag().gap_reads
        runner.push(third)
        await settled(runner)
        assert runner.lag().gap_reads > gap_reads
        touched = {record.shard for record in third}
        expected = await fold(store)
        found = await rows(read_models, set(expected))
        for record in third:
            assert found[record.partition_key] == expected[record.partition_key]
        assert touched

    async def test_the_last_one_lost_is_found_by_comparing_heads(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models, SubscriberLimits(heads_interval_s=0.02))
        task = asyncio.create_task(runner.run())
        try:
            first, second, _lost = await history(log)
            runner.push(first)
            runner.push(second)
            async with asyncio.timeout(5):
                expected = await fold(store)
                while await rows(read_models, set(expected)) != expected:
                    await asyncio.sleep(0.005)
        finally:
            runner.stop()
            await task
        assert runner.lag().behind == 0
        await assert_equals_log(read_models, store)

    async def test_beyond_the_bound_are_left_to_the_store(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        limits = SubscriberLimits(batch_size_max=5, buffer_size_max=10, heads_interval_s=NEVER_S)
        runner = await started(store, read_models, limits)
        commits = await history(log)
        for commit in commits:
            runner.push(commit)
        assert len(runner._backlog.records) == 10
        await settled(runner)
        await assert_equals_log(read_models, store)


class TestOnce:
    async def test_two_runners_over_one_read_model_count_each_event_once(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        one = await started(store, read_models)
        people, *commits = await history(log)
        one.push(people)
        await settled(one)  # an event that makes a row is refused the second time; those that follow are not
        zombie = await started(store, read_models)
        zombie._go_on_from({record.shard: record.position for record in people})
        for commit in commits:
            one.push(commit)
            zombie.push(commit)
            await asyncio.gather(settled(one), settled(zombie))
        await assert_equals_log(read_models, store)
        assert one.lag().applied + zombie.lag().applied == sum((await store.heads()).values())

    async def test_a_zombie_learns_where_the_read_model_is(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        one, zombie = await started(store, read_models), await started(store, read_models)
        first, second, third = await history(log)
        one.push(first)
        await settled(one)
        zombie.push(first + second)
        assert await settled(zombie) == len(second)
        one.push(third)
        await settled(one)
        await assert_equals_log(read_models, store)

    async def test_the_read_model_and_its_checkpoint_change_together_or_not_at_all(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        (record,) = await log.write(created("c-1"))
        good, bad = Changes(), Changes()
        for changes in (good, bad):
            CustomerProjection().on_created(EVENTS.decode(record), changes)  # type: ignore[arg-type]
        bad.insert(customers, id="c-2")  # NOT NULL columns are missing, so this statement fails after the checkpoint's
        advance = [Advance(record.shard, 0, 1, record.event_id)]
        with pytest.raises(ReadModelRejected):
            await read_models.apply(CustomerProjection, advance, bad)
        reading = await read_models.query(CustomerProjection, "c-1", record.shard)
        assert (reading.row, reading.position) == (None, 0)
        assert await read_models.apply(CustomerProjection, advance, good) == {}
        moved = await read_models.apply(CustomerProjection, advance, good)
        assert moved[record.shard].position == 1
        assert await settled(runner) == 0

    async def test_of_two_that_apply_the_same_at_once_one_does_and_the_other_is_told(
        self, log: Log, store: CountingStore, store_url: str, read_models: ReadModels
    ) -> None:
        other = read_models if store_url.startswith("memory") else ReadModels(store_url)
        await log.write(created("c-1"))
        (row,) = await log.write(ordered("c-1", "0"))
        await started(store, read_models)
        changes = Changes()
        changes.add(customers, "c-1", total_orders=1)
        for position in range(row.position, row.position + 20):
            advance = [Advance(row.shard, position, position + 1, row.event_id)]
            results = await asyncio.gather(
                *(models.apply(CustomerProjection, advance, changes) for models in (read_models, other))
            )
            assert sorted(map(bool, results)) == [False, True]
        reading = await read_models.query(CustomerProjection, "c-1", row.shard)
        await other.close()
        assert reading.row is not None
        assert reading.row["total_orders"] == 21
        assert reading.position == row.position + 20

    async def test_a_restart_goes_on_at_the_checkpoint(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        first, second, third = await history(log)
        runner.push(first)
        await settled(runner)
        again = following(store, read_models)
        await again.start()
        assert await settled(again) == len(second) + len(third)
        await assert_equals_log(read_models, store)


class TestReaders:
    async def test_waiting_ends_once_the_checkpoint_has_passed(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        runner.push(await log.write(created("c-1")))
        (record,) = await log.write(ordered("c-1", "1"))
        waiting = asyncio.create_task(runner.wait_for(record.shard, record.position, 5))
        await runner._take(runner._backlog.records)
        await asyncio.sleep(0)
        assert not waiting.done()  # the first event's being there is not enough
        await settled(runner)  # nothing was pushed: it is the reader's wait that makes it look into the store
        await waiting
        reading = await read_models.query(CustomerProjection, "c-1", record.shard)
        assert reading.row is not None
        assert reading.position == record.position
        await runner.wait_for(record.shard, record.position, 0)

    async def test_waiting_too_long_says_that_the_command_did_succeed(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        (record,) = await log.write(created("c-1"))
        with pytest.raises(ConsistencyTimeout, match="command did succeed") as caught:
            await runner.wait_for(record.shard, record.position, 0.01)
        assert (caught.value.position, caught.value.reached) == (1, 0)

    async def test_waiting_for_a_shard_of_another_host_is_refused(
        self, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        with pytest.raises(NotFollowed):
            await runner.wait_for(SHARDS, 1, 1)

    async def test_a_row_has_exact_values_and_the_time_of_the_facts(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        await log.write(created("c-1"), occurred_at=852_076_800_000_000)
        await log.write(ordered("c-1", "1", "999999999999.9999"), ordered("c-1", "2", "0.0001"))
        await log.write(created("c-2"), ordered("c-2", "1", "42"))
        await started(store, read_models)
        first, second = (await rows(read_models, {"c-1", "c-2"})).values()
        assert first["created_at"] == datetime(1997, 1, 1, tzinfo=UTC)
        assert str(first["total_spent"]) == "1000000000000.00"
        assert str(second["total_spent"]) == "42.00"
        assert second["created_at"] == moment(RECORDED_AT)

    async def test_an_unknown_key_has_no_row_and_an_unmade_read_model_is_said(
        self, store: CountingStore, read_models: ReadModels
    ) -> None:
        with pytest.raises(ReadModelMissing, match="CustomerProjection"):
            await read_models.query(CustomerProjection, "c-1")
        await started(store, read_models)
        assert (await read_models.query(CustomerProjection, "c-1")).row is None


class TestTrouble:
    async def test_a_log_behind_the_checkpoint_is_refused_with_the_remedy(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        await history(log)
        await started(store, read_models)
        await store.close()
        restored = MemoryStore("projections", shards=SHARDS)
        try:
            with pytest.raises(RestoredBehind, match=r"ends before it.*move the read model away"):
                await started(restored, read_models)
            await history(await Log.on(restored))
            with pytest.raises(RestoredBehind, match="has another event there"):
                await started(restored, read_models)
        finally:
            await restored.close()

    async def test_types_that_the_projection_does_not_name_are_not_even_decoded(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        runner = await started(store, read_models)
        unknown = log.record(created("c-1"))._replace(type="SomethingElse", data="not JSON")
        await log.append([unknown])
        await log.write(ordered("c-1", "1"))
        runner.push([unknown])
        await runner._compare_heads()
        assert await settled(runner) == 2
        assert runner.lag().blocked == {}

    @pytest.mark.parametrize("place", [0, 3, 7])
    @pytest.mark.parametrize(
        "fault",
        [
            {"data": "not JSON"},
            {"schema_version": 9},
            {"type": "CustomerCreated", "data": created("c-0").model_dump_json()},  # a second row under one key
        ],
        ids=["undecodable", "unknown schema version", "refused by SQL"],
    )
    async def test_an_event_that_cannot_be_applied_holds_up_its_shard_and_says_so(
        self, log: Log, store: CountingStore, read_models: ReadModels, place: int, fault: dict[str, Any]
    ) -> None:
        limits = SubscriberLimits(heads_interval_s=NEVER_S, retry_first_s=NEVER_S, retry_max_s=NEVER_S)
        runner = await started(store, read_models, limits)
        first = await log.write(*(created(name) for name in ids(12)))
        runner.push(first)
        records = [log.record(ordered("c-0", str(number))) for number in range(8)]
        shard = records[0].shard
        poison = records[place]._replace(**fault)
        runner.push(await log.append([*records[:place], poison, *records[place + 1 :]]))
        other = next(record.partition_key for record in first if record.shard != shard)
        await settled(runner)
        lag = runner.lag()
        assert set(lag.blocked) == {shard}
        assert f"{poison.stream} version {poison.version}" in lag.blocked[shard]
        reading = await read_models.query(CustomerProjection, "c-0", shard)
        assert reading.position == poison.position - 1
        assert reading.row is not None
        assert reading.row["total_orders"] == place
        assert (await read_models.query(CustomerProjection, other)).row is not None
        with pytest.raises(ConsistencyTimeout, match="can't apply"):
            await runner.wait_for(shard, poison.position, 0.01)

    async def test_a_value_that_its_column_cannot_hold_holds_up_its_shard_and_says_so(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        class Sevenths(CustomerProjection, name="Sevenths"):
            def on_ordered(self, events: Sequence[OrderCreated], changes: Changes) -> None:
                changes.add(customers, events[0].customer_id, total_spent=events[0].total_amount / 7)

        runner = following(store, read_models, Sevenths, limits=QUIET)
        await runner.start()
        await log.write(created("c-1"))
        (record,) = await log.write(ordered("c-1", "1"))
        runner.push([record])
        await settled(runner)
        assert f"{record.stream} version 1" in runner.lag().blocked[record.shard]
        assert "at most 4 decimals" in runner.lag().blocked[record.shard]
        assert runner.lag().failure == ""

    async def test_a_failing_event_is_retried_ever_more_slowly_until_it_goes_through(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        failing = True
        now = 0.0

        class Fragile(Projection):
            tables = CustomerProjection.tables

            def on_created(self, event: Event, changes: Changes) -> None:
                if failing:
                    raise RuntimeError("not yet")

        limits = SubscriberLimits(heads_interval_s=NEVER_S, retry_first_s=1, retry_max_s=4)
        runner = following(store, read_models, Fragile, limits=limits, clock=lambda: now)
        await runner.start()
        (record,) = await log.write(created("c-1"))
        runner.push([record])
        tried_at = []
        for second in range(16):
            now = float(second)
            before = runner._blocked.get(record.shard)
            await settled(runner)
            if runner._blocked[record.shard] is not before:
                tried_at.append(second)
        assert tried_at == [0, 1, 3, 7, 11, 15]
        assert "not yet" in runner.lag().blocked[record.shard]
        failing, now = False, 60.0
        assert await settled(runner) == 1
        assert runner.lag().blocked == {}

    @pytest.mark.parametrize("error", [SystemExit(3), Untold()], ids=["SystemExit", "no text"])
    async def test_sys_exit_and_errors_without_a_text_hold_up_their_shard_alone(
        self, error: BaseException, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        class Ending(Projection):
            tables = CustomerProjection.tables

            def on_created(self, event: CustomerCreated, changes: Changes) -> None:
                if event.customer_id == "c-1":
                    raise error

        runner = following(store, read_models, Ending, limits=SubscriberLimits(heads_interval_s=NEVER_S))
        await runner.start()
        records = await log.write(*(created(f"c-{number}") for number in range(20)))
        (failed,) = [record for record in records if record.stream == "customer-c-1"]
        runner.push(records)
        await settled(runner)
        blocked = runner.lag().blocked
        assert blocked.keys() == {failed.shard}
        assert type(error).__name__ in blocked[failed.shard]
        for last in {record.shard: record for record in records if record.shard != failed.shard}.values():
            await runner.wait_for(last.shard, last.position, 1)

    async def test_another_version_of_the_projection_is_not_mistaken_for_this_one(
        self, store: CountingStore, read_models: ReadModels
    ) -> None:
        class Newer(CustomerProjection, name="CustomerProjection", version=2):
            pass

        await following(store, read_models, Newer).start()
        with pytest.raises(ReadModelVersion, match=r"version 2.*version 1"):
            await started(store, read_models)
        with pytest.raises(ReadModelVersion):
            await read_models.query(CustomerProjection, "c-1")

    async def test_an_unreachable_store_is_told_and_tried_again(
        self, log: Log, store: CountingStore, read_models: ReadModels
    ) -> None:
        from store import StoreUnavailable

        class Flaky(CountingStore):
            down = True

            async def heads(self) -> dict[int, int]:
                if self.down:
                    raise StoreUnavailable("it is being moved", True)
                return await super().heads()

        flaky = Flaky("projections")
        flaky.down = False
        limits = SubscriberLimits(heads_interval_s=0.01, retry_first_s=0.01, retry_max_s=0.02)
        runner = await started(flaky, read_models, SubscriberLimits(heads_interval_s=NEVER_S))
        runner._limits = limits
        flaky.down = True
        task = asyncio.create_task(runner.run())
        try:
            (record,) = await log.write(created("c-1"))
            async with asyncio.timeout(5):
                while "it is being moved" not in runner.lag().failure:
                    await asyncio.sleep(0.001)
                flaky.down = False
                await runner.wait_for(record.shard, record.position, 5)
                while runner.lag().failure:
                    await asyncio.sleep(0.001)
        finally:
            runner.stop()
            await task
            await flaky.close()
        assert (await read_models.query(CustomerProjection, "c-1")).row is not None
