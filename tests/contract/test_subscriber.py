"""What a subscriber promises its sink, whatever the sink does: each shard's next records, in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping, Sequence

import pytest

from projections.errors import NotFollowed, RestoredBehind
from projections.progress import Start, SubscriberLimits
from projections.sink import Taken
from projections.subscriber import Subscriber
from store import EventRecord
from store.errors import EventrayError
from store.memory import MemoryStore
from store.records import Checkpoint
from tests.logs import Log, created, ordered

SHARDS = 4
NEVER_S = 3600.0
QUIET = SubscriberLimits(heads_interval_s=NEVER_S, retry_first_s=1, retry_max_s=4)


class ListSink:
    """Keeps what it takes; takes at most `most` of a batch, and none of an event whose id is `refused`."""

    name = subscriber = "list"
    restored_remedy = "write another list"

    def __init__(self) -> None:
        self.taken: list[EventRecord] = []
        self.checkpoints: dict[int, Checkpoint] = {}
        self.most = 1_000
        self.refused: set[bytes] = set()

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        self.checkpoints = {**begin, **self.checkpoints}
        return self.checkpoints

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        applied, failed = 0, dict[int, EventrayError]()
        for record in batch:
            if applied == self.most or record.shard in failed:
                continue
            if record.event_id in self.refused:
                failed[record.shard] = EventrayError("refused")
                continue
            assert record.position == self.checkpoints[record.shard].position + 1
            self.taken.append(record)
            self.checkpoints[record.shard] = Checkpoint(record.position, record.event_id)
            applied += 1
        shards = {record.shard for record in batch}
        return Taken(applied, {shard: self.checkpoints[shard].position for shard in shards}, failed)

    def let_go(self, shards: Collection[int]) -> None:
        self.checkpoints = {n: at for n, at in self.checkpoints.items() if n not in shards}

    async def tend(self) -> dict[int, int]:
        return {}

    def positions(self, shard: int) -> list[int]:
        return [record.position for record in self.taken if record.shard == shard]


@pytest.fixture
async def store() -> AsyncIterator[MemoryStore]:
    opened = MemoryStore("subscriber", shards=SHARDS)
    yield opened
    await opened.close()


@pytest.fixture
async def log(store: MemoryStore) -> Log:
    return await Log.on(store)


async def started(store: MemoryStore, sink: ListSink, start: Start = "beginning") -> Subscriber:
    subscriber = Subscriber(store, sink, range(SHARDS), start=start, limits=QUIET, clock=lambda: 0.0)
    await subscriber.start()
    return subscriber


async def settled(subscriber: Subscriber) -> None:
    async with asyncio.timeout(5):
        while (await subscriber.step()).more:
            pass


async def test_one_that_begins_now_sees_only_what_comes_later(store: MemoryStore, log: Log) -> None:
    await log.write(*(created(f"c-{number}") for number in range(8)))
    sink = ListSink()
    subscriber = await started(store, sink, "now")
    later = await log.write(ordered("c-1", "1"), ordered("c-2", "1"))
    subscriber.push(later)
    await settled(subscriber)
    assert sink.taken == later


async def test_its_checkpoint_goes_before_its_start(store: MemoryStore, log: Log) -> None:
    sink = ListSink()
    await started(store, sink, "now")
    missed = await log.write(created("c-1"))
    await settled(await started(store, sink, "now"))
    assert sink.taken == missed


async def test_one_that_begins_now_notices_a_log_that_was_restored(store: MemoryStore, log: Log) -> None:
    await log.write(created("c-1"))
    sink = ListSink()
    await started(store, sink, "now")
    await store.close()
    restored = MemoryStore("subscriber", shards=SHARDS)
    try:
        with pytest.raises(RestoredBehind):
            await started(restored, sink, "now")
    finally:
        await restored.close()


async def test_a_sink_may_take_less_than_it_is_given(store: MemoryStore, log: Log) -> None:
    sink = ListSink()
    sink.most = 3
    subscriber = await started(store, sink)
    await log.write(*(created(f"c-{number}") for number in range(20)))
    await subscriber._compare_heads()
    await settled(subscriber)
    assert len(sink.taken) == 20
    assert subscriber.lag().applied == 20


async def test_what_a_sink_refuses_holds_up_its_shard_alone_until_it_is_taken(store: MemoryStore, log: Log) -> None:
    sink = ListSink()
    subscriber = await started(store, sink)
    await log.write(*(created(f"c-{number}") for number in range(12)))
    records = await log.write(*(ordered("c-0", str(number)) for number in range(5)))
    shard, refused = records[0].shard, records[2]
    sink.refused = {refused.event_id}
    await subscriber._compare_heads()
    await settled(subscriber)
    assert sink.positions(shard) == list(range(1, refused.position))
    assert subscriber.lag().blocked == {shard: str(EventrayError("refused"))}
    assert len({record.shard for record in sink.taken}) == SHARDS
    sink.refused = set()
    subscriber._clock = lambda: 1.0
    await settled(subscriber)
    assert sink.positions(shard) == list(range(1, records[-1].position + 1))
    assert subscriber.lag().blocked == {}


async def test_what_ends_it_is_told_by_its_lag(store: MemoryStore, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async def exits(_batch: Sequence[EventRecord]) -> Taken:
        raise SystemExit(3)

    await log.write(created("c-1"))
    sink = ListSink()
    monkeypatch.setattr(sink, "take", exits)
    subscriber = await started(store, sink)
    with pytest.raises(SystemExit):
        await subscriber.run()
    assert subscriber.lag().failure == "It has ended: SystemExit(3)"


async def test_shards_come_and_go_while_it_runs_and_each_goes_on_where_its_checkpoint_is(
    store: MemoryStore, log: Log
) -> None:
    sink = ListSink()
    subscriber = Subscriber(store, sink, [0, 1], limits=QUIET)
    await subscriber.start()
    running = asyncio.create_task(subscriber.run())
    records = await log.write(*(created(f"c-{number}") for number in range(12)))
    subscriber.push(records)
    heads = await store.heads()
    await asyncio.gather(*(subscriber.wait_for(shard, heads[shard], 5) for shard in (0, 1)))
    reader = asyncio.create_task(subscriber.wait_for(0, heads[0] + 1, 5))
    await asyncio.sleep(0)
    await subscriber.follow([1, 2])
    with pytest.raises(NotFollowed, match="shard 0"):
        await reader
    await subscriber.wait_for(2, heads[2], 5)
    subscriber.push(await log.write(*(ordered(f"c-{number}", "1") for number in range(12))))
    await subscriber.wait_for(2, heads[2] + 1, 5)
    await subscriber.follow(range(SHARDS))
    heads = await store.heads()
    await asyncio.gather(*(subscriber.wait_for(shard, head, 5) for shard, head in heads.items()))
    for shard, head in heads.items():
        assert sink.positions(shard) == [*range(1, head + 1)] or shard == 0
    assert sink.positions(0)[-1] == heads[0]
    subscriber.stop()
    await running


@pytest.mark.parametrize(("share", "took_s", "interval_s"), [(0.5, 0.004, 0.008), (0.5, 0.1, 0.04), (0.0, 0.004, 0.04)])
def test_quick_transactions_follow_each_other_sooner(
    store: MemoryStore, share: float, took_s: float, interval_s: float
) -> None:
    limits = SubscriberLimits(apply_interval_s=0.04, apply_share=share)
    assert Subscriber(store, ListSink(), limits=limits)._interval_s(took_s) == interval_s
