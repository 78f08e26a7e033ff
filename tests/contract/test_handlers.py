"""What handlers are promised, on every store: each event at least once, in order, whatever fails."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from typing import Any, ClassVar

import pytest

from actors.customers import CustomerCreated, OrderCreated
from projections.errors import RestoredBehind, RetryLater, Undeliverable
from projections.following import Following
from projections.handler import Handler, Policy
from projections.handler_sink import HandlerSink
from projections.progress import SubscriberLimits
from projections.read_models import ReadModels
from projections.rewinding import rewind
from projections.subscriber import Subscriber
from store import Event, EventRecord, EventStore, StoreUnavailable
from store.forwarding import Forwarding
from store.identity import shard_of
from store.records import Checkpoint, ParkedKey
from tests.contract.conftest import Opener
from tests.logs import EVENTS, Log, created, ordered

QUICK = Policy(attempts_max=3, wait_first_s=0.001, wait_max_s=0.002)
LIMITS = SubscriberLimits(heads_interval_s=0.0, apply_interval_s=0.0, retry_first_s=0.001, retry_max_s=0.002)


class Notes(Handler, start="beginning", policy=QUICK):
    """Notes what it is called with; fails as `fail` says."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        """Ids of orders, in the order of the calls."""
        self.keys: list[str] = []
        self.fail: Callable[[OrderCreated], None] = lambda event: None

    async def on_ordered(self, event: OrderCreated) -> None:
        self.calls.append(event.order_id)
        self.keys.append(self.idempotency_key(event))
        self.fail(event)

    def done_of(self, customer_id: str) -> list[str]:
        """The orders of a customer by their first call."""
        return [each for each in dict.fromkeys(self.calls) if each.startswith(f"{customer_id}-")]


class Broken(Exception):
    """What the handlers here raise."""


def failing_at(*order_ids: str) -> Callable[[OrderCreated], None]:
    def fail(event: OrderCreated) -> None:
        if event.order_id in order_ids:
            raise Broken(f"not {event.order_id}")

    return fail


class Follower:
    """A handler on a store, stepped until nothing moves."""

    def __init__(self, store: EventStore, handler: Handler) -> None:
        self.handler = handler
        self.sink = HandlerSink(store, handler, EVENTS)
        self.subscriber = Subscriber(store, self.sink, range(store.shards), start=handler.start, limits=LIMITS)

    async def settle(self) -> None:
        """Step until all that can be done is done."""
        still = 0
        async with asyncio.timeout(20):
            while still < 3:
                progress = await self.subscriber.step()
                blocked = any("stands still" not in reason for reason in self.subscriber.lag().blocked.values())
                still = 0 if progress.applied or blocked else still + 1
                await asyncio.sleep(0.001)


@pytest.fixture
async def log(store: EventStore) -> Log:
    return await Log.on(store)


@pytest.fixture
async def follow(store: EventStore) -> AsyncIterator[Callable[[Handler], Any]]:
    followers: list[Follower] = []

    async def begin(handler: Handler, on: EventStore | None = None) -> Follower:
        followers.append(Follower(on or store, handler))
        await followers[-1].subscriber.start()
        return followers[-1]

    yield begin
    for follower in followers:
        follower.sink.close()


Follow = Callable[..., Any]


def orders(customer_id: str, count: int, first: int = 1) -> list[Event]:
    return [ordered(customer_id, str(number)) for number in range(first, first + count)]


def ids(customer_id: str, count: int) -> list[str]:
    return [f"{customer_id}-{number}" for number in range(1, count + 1)]


async def test_each_event_of_the_annotated_type_comes_once_and_in_order(log: Log, follow: Follow) -> None:
    notes = Notes()
    follower = await follow(notes)
    await log.write(*(event for customer in "abcdef" for event in [created(customer), *orders(customer, 5)]))
    await follower.settle()
    assert {customer: notes.done_of(customer) for customer in "abcdef"} == {each: ids(each, 5) for each in "abcdef"}
    assert len(notes.calls) == len(set(notes.keys)) == 30
    again = await follow(Notes())
    await again.settle()
    assert again.handler.calls == []


async def test_one_begins_now_unless_it_says_otherwise(log: Log, follow: Follow) -> None:
    class FromNow(Notes):
        pass

    class FromTheBeginning(Notes, start="beginning"):
        pass

    FromNow.start = Handler.start
    await log.write(*orders("a", 2))
    now, beginning = await follow(FromNow()), await follow(FromTheBeginning())
    await log.write(ordered("a", "3"))
    await now.settle()
    await beginning.settle()
    assert now.handler.calls == ["a-3"]
    assert beginning.handler.calls == ids("a", 3)


async def test_what_fails_is_tried_again_before_what_follows_it(log: Log, follow: Follow) -> None:
    notes = Notes()
    left = {"a-2": 2}

    def fail(event: OrderCreated) -> None:
        if left.get(event.order_id, 0):
            left[event.order_id] -= 1
            raise Broken

    notes.fail = fail
    follower = await follow(notes)
    await log.write(*orders("a", 3))
    await follower.settle()
    assert notes.calls == ["a-1", "a-2", "a-2", "a-2", "a-3"]
    assert len(set(notes.keys)) == 3


@pytest.mark.parametrize("poison", [1, 3, 5])
async def test_poison_parks_its_key_alone_and_a_retry_takes_all_in_order(
    store: EventStore, log: Log, follow: Follow, poison: int
) -> None:
    notes = Notes()
    notes.fail = failing_at(f"a-{poison}")
    follower = await follow(notes)
    await log.write(*orders("a", 5), *orders("b", 5))
    await follower.settle()
    (row,) = await store.parked("Notes")
    assert (row.partition_key, row.attempts, row.wish) == ("a", 3, "")
    assert row.error == f"Broken: not a-{poison}"
    assert "in fail" in row.traceback
    assert notes.done_of("b") == ids("b", 5)
    assert notes.done_of("a") == ids("a", poison)
    assert notes.calls.count(f"a-{poison}") == 3
    await log.write(*orders("a", 2, first=6))
    await follower.settle()
    assert notes.done_of("a") == ids("a", poison)
    notes.fail = lambda event: None
    before = len(notes.calls)
    await store.wish("Notes", ["a"], "retry")
    await follower.settle()
    assert await store.parked("Notes") == []
    assert notes.calls[before:] == [f"a-{number}" for number in range(poison, 8)]
    await log.write(ordered("a", "8"))
    await follower.settle()
    assert notes.done_of("a") == ids("a", 8)


async def test_a_key_that_was_parked_stays_parked_over_a_restart(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()
    notes.fail = failing_at("a-1")
    follower = await follow(notes)
    await log.write(*orders("a", 2))
    await follower.settle()
    again = await follow(Notes())
    await log.write(ordered("a", "3"), ordered("b", "1"))
    await again.settle()
    assert again.handler.calls == ["b-1"]


async def test_a_retry_drains_while_new_events_arrive(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()
    notes.fail = failing_at("a-2")
    follower = await follow(notes)
    await log.write(*orders("a", 4))
    await follower.settle()
    arriving = iter(range(5, 9))
    written: list[asyncio.Task[list[EventRecord]]] = []
    loop = asyncio.get_running_loop()

    def write_more(event: OrderCreated) -> None:
        if (number := next(arriving, None)) is not None:
            work = log.write(ordered("a", str(number)))
            loop.call_soon_threadsafe(lambda: written.append(asyncio.ensure_future(work)))

    notes.fail = write_more
    await store.wish("Notes", None, "retry")
    await follower.settle()
    await asyncio.gather(*written)
    await follower.settle()
    assert await store.parked("Notes") == []
    assert notes.done_of("a") == ids("a", 8)
    assert len(notes.calls) == 8 + 3


async def test_only_who_follows_its_shard_takes_up_a_key_or_counts_it_as_parked(
    store: EventStore, log: Log, follow: Follow
) -> None:
    shard = shard_of("a", store.shards)
    there = next(key for key in "bcdefgh" if shard_of(key, store.shards) != shard)
    notes, other = Notes(), Notes()
    notes.fail = failing_at("a-1", f"{there}-1")
    owner, elsewhere = await follow(notes), await follow(other)
    await log.write(ordered("a", "1"), ordered(there, "1"))
    await owner.settle()
    await elsewhere.settle()
    assert elsewhere.sink.state().parked == 2
    await elsewhere.subscriber.follow(set(range(store.shards)) - {shard})
    assert elsewhere.sink.state().parked == 1
    notes.fail = lambda event: None
    await store.wish("Notes", ["a"], "retry")
    await elsewhere.settle()
    assert [row.partition_key for row in await store.parked("Notes", wished=True)] == ["a"]
    assert other.calls == []
    await owner.settle()
    assert [row.partition_key for row in await store.parked("Notes")] == [there]


async def test_a_discarded_event_is_left_out_and_what_follows_it_is_taken(
    store: EventStore, log: Log, follow: Follow
) -> None:
    notes = Notes()
    notes.fail = failing_at("a-2")
    follower = await follow(notes)
    await log.write(*orders("a", 4))
    await follower.settle()
    before = len(notes.calls)
    await store.wish("Notes", ["a"], "discard")
    await follower.settle()
    assert await store.parked("Notes") == []
    assert notes.calls[before:] == ["a-3", "a-4"]


async def test_a_retry_that_fails_is_parked_again_where_it_fails(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()
    notes.fail = failing_at("a-1")
    follower = await follow(notes)
    records = await log.write(*orders("a", 3))
    await follower.settle()
    notes.fail = failing_at("a-3")
    await store.wish("Notes", ["a"], "retry")
    await follower.settle()
    (row,) = await store.parked("Notes")
    assert (row.position, row.attempts, row.wish, row.error) == (records[2].position, 1, "", "Broken: not a-3")
    assert row.event_id == records[2].event_id
    assert row.failed_at > row.parked_at
    assert notes.done_of("a") == ids("a", 3)


async def test_by_its_policy_it_skips(store: EventStore, log: Log, follow: Follow) -> None:
    class Careless(Notes, policy=Policy(attempts_max=2, wait_first_s=0.001, wait_max_s=0.001, then="skip")):
        pass

    notes = Careless()
    notes.fail = failing_at("a-2")
    follower = await follow(notes)
    await log.write(*orders("a", 3))
    await follower.settle()
    assert notes.calls == ["a-1", "a-2", "a-2", "a-3"]
    assert await store.parked() == []
    assert follower.sink.state().skipped == 1


async def test_past_the_bound_it_stands_still_and_says_so(store: EventStore, log: Log, follow: Follow) -> None:
    class Bounded(Notes, policy=Policy(attempts_max=1, wait_first_s=0.001, wait_max_s=0.01, parked_max=1)):
        pass

    notes = Bounded()
    notes.fail = failing_at("a-1", "b-1")
    follower = await follow(notes)
    await log.write(*orders("a", 1))
    await follower.settle()
    await log.write(*orders("b", 2))
    await follower.settle()
    assert [row.partition_key for row in await store.parked()] == ["a"]
    (reason,) = follower.subscriber.lag().blocked.values()
    assert "has parked 1 keys, as many as it may, and stands still at OrderCreated (order-b-1 version 1)" in reason
    assert notes.done_of("b") == ["b-1"]
    notes.fail = failing_at("b-1")
    await store.wish("Bounded", ["a"], "retry")
    async with asyncio.timeout(20):
        while [row.partition_key for row in await store.parked()] != ["b"]:
            await follower.settle()
    assert notes.done_of("a") == ["a-1"]


async def test_what_is_undeliverable_is_not_tried_again(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()

    def refuse(event: OrderCreated) -> None:
        raise Undeliverable("no such address")

    notes.fail = refuse
    follower = await follow(notes)
    await log.write(*orders("a", 1))
    await follower.settle()
    assert notes.calls == ["a-1"]
    assert [row.error for row in await store.parked()] == [
        "Undeliverable: no such address; no later attempt could do better."
    ]


async def test_a_method_may_say_when_to_try_again(log: Log, follow: Follow) -> None:
    notes = Notes()
    moments: list[float] = []

    def later(event: OrderCreated) -> None:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise RetryLater("busy", 0.3)

    notes.fail = later
    follower = await follow(notes)
    await log.write(*orders("a", 1))
    await follower.settle()
    assert moments[1] - moments[0] >= 0.3


async def test_data_that_can_not_be_decoded_park_their_key(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()
    follower = await follow(notes)
    broken = log.record(ordered("a", "1"))._replace(data='{"order_id": 1}')
    await log.append([broken])
    await log.write(ordered("a", "2"), ordered("b", "1"))
    await follower.settle()
    (row,) = await store.parked()
    assert "UndecodableEvent" in row.error
    assert notes.calls == ["b-1"]


async def test_what_texts_can_not_hold_is_kept_all_the_same(store: EventStore, log: Log, follow: Follow) -> None:
    notes = Notes()

    def odd(event: OrderCreated) -> None:
        raise Broken("nul \0 and surrogate \ud800 " + "x" * 10_000)

    notes.fail = odd
    follower = await follow(notes)
    await log.write(*orders("a", 1))
    await follower.settle()
    (row,) = await store.parked()
    assert row.error.startswith("Broken: nul \\0 and surrogate \\ud800 xxx")
    assert len(row.error) == 2_000


class Untold(Exception):
    """An error whose text can't be made."""

    def __str__(self) -> str:
        raise ValueError("no text")


class Ending(Handler, start="beginning", policy=QUICK):
    """Ends its process, or so it means to, at one customer and one order."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_created(self, event: CustomerCreated) -> None:
        self.calls.append(event.customer_id)
        if event.customer_id == "a":
            sys.exit(3)

    async def on_ordered(self, event: OrderCreated) -> None:
        self.calls.append(event.order_id)
        if event.order_id == "b-1":
            raise SystemExit
        if event.order_id == "c-1":
            raise Untold
        if event.order_id == "d-1":
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.to_thread(sys.exit))
        if event.order_id == "e-1":
            cancelled = asyncio.ensure_future(asyncio.sleep(60))
            cancelled.cancel()
            await cancelled


async def test_what_would_end_a_process_or_has_no_text_parks_its_key_alone(
    store: EventStore, log: Log, follow: Follow
) -> None:
    ending = Ending()
    follower = await follow(ending)
    await log.write(created("a"), created("b"), ordered("b", "1"), *(ordered(key, "1") for key in "cdef"))
    await follower.settle()
    assert {(row.partition_key, row.error) for row in await store.parked()} == {
        ("a", "CallEnded: The function raised SystemExit, which ends nothing here but this call."),
        ("b", "CallEnded: The function raised SystemExit, which ends nothing here but this call."),
        ("c", "Untold, whose text can't be made (ValueError)"),
        ("d", "CallEnded: The function raised SystemExit, which ends nothing here but this call."),
        ("e", "CallEnded: The function raised CancelledError, which ends nothing here but this call."),
    }
    ids = ("a", "b-1", "c-1", "d-1", "e-1")
    assert Counter(ending.calls) == {"b": 1, "f-1": 1} | dict.fromkeys(ids, 3)
    await log.write(created("g"), ordered("g", "1"))
    await follower.settle()
    assert ending.calls[-2:] == ["g", "g-1"]


async def test_a_handler_that_stops_its_event_loop_or_cancels_all_in_it_harms_its_own_key_alone(
    store: EventStore, log: Log, follow: Follow
) -> None:
    notes = Notes()

    def fail(event: OrderCreated) -> None:
        if event.order_id == "a-1":
            asyncio.get_running_loop().stop()
        if event.order_id == "b-1":
            for task in asyncio.all_tasks():
                task.cancel()

    notes.fail = fail
    follower = await follow(notes)
    for customer_id in "abc":
        await log.write(*orders(customer_id, 2))
        await follower.settle()
    assert [(row.partition_key, row.position > 0) for row in await store.parked()] == [("b", True)]
    assert notes.done_of("a") + notes.done_of("c") == ids("a", 2) + ids("c", 2)


class Blocked(Handler, start="beginning", policy=Policy(attempts_max=1, wait_first_s=0.01, timeout_s=0.1, stuck_max=2)):
    """Never returns from `a`'s events: a plain method, or one that blocks its own event loop."""

    released: ClassVar[threading.Event]

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_created(self, event: CustomerCreated) -> None:
        if event.customer_id.startswith("a"):
            self.released.wait()
        self.calls.append(event.customer_id)

    async def on_ordered(self, event: OrderCreated) -> None:
        if event.customer_id.startswith("a"):
            self.released.wait()
        self.calls.append(event.order_id)


@pytest.fixture
def released() -> Any:
    Blocked.released = threading.Event()
    yield Blocked.released
    Blocked.released.set()


@pytest.mark.parametrize("event", [created, lambda customer: ordered(customer, "1")], ids=["plain", "async"])
async def test_one_that_never_returns_is_given_up_and_holds_up_no_other(
    store: EventStore, log: Log, follow: Follow, released: threading.Event, event: Callable[[str], Event]
) -> None:
    blocked, notes = await follow(Blocked()), await follow(Notes())
    await log.write(event("a1"), event("b1"), *orders("c", 3))
    stepping = asyncio.ensure_future(blocked.settle())
    await notes.settle()
    assert len(notes.handler.calls) >= 3
    assert not stepping.done()
    await stepping
    assert [row.partition_key for row in await store.parked("Blocked")] == ["a1"]
    assert "CallTimedOut: It took longer than 0.1 s" in (await store.parked("Blocked"))[0].error
    assert len(set(blocked.handler.calls)) == 4
    assert blocked.sink.state().stuck == 1
    for customer in ("a2", "a3"):
        await log.write(event(customer))
        await blocked.settle()
        assert blocked.sink.state().stuck == 2
    assert "2 calls of handler Blocked have not returned" in "".join(blocked.subscriber.lag().blocked.values())


async def test_a_reset_makes_a_running_one_take_events_again_and_again_only_its_own(
    store: EventStore, log: Log, follow: Follow
) -> None:
    notes = Notes()
    notes.fail = failing_at("a-3")
    follower = await follow(notes)
    await log.write(*orders("a", 4))
    await follower.settle()
    notes.calls.clear()
    notes.fail = lambda event: None
    await store.reset("Notes", {shard: Checkpoint(0, None) for shard in range(store.shards)})
    await follower.settle()
    assert notes.calls == ids("a", 4)
    assert await store.parked() == []


@pytest.mark.parametrize(("position", "found"), [(2, "has another event there"), (3, "ends before it")])
async def test_a_log_behind_its_progress_is_refused_with_the_remedy(
    store: EventStore, log: Log, follow: Follow, position: int, found: str
) -> None:
    """As after a restore of the log to an earlier state, or where it is another log."""
    records = await log.write(*orders("a", 2))
    await store.reset("Notes", {records[0].shard: Checkpoint(position, b"of another log")})
    with pytest.raises(RestoredBehind, match=f"{found}.*eventray replay --handler Notes --from now"):
        await follow(Notes())
    await rewind(store, "Notes", "now")
    follower = await follow(Notes())
    await log.write(ordered("a", "3"))
    await follower.settle()
    assert follower.handler.calls == ["a-3"]


class Crash(Exception):
    """The process ended there."""


class CrashingStore(Forwarding):
    """A store whose handler calls end the process, before or after they were done."""

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.points: list[str] = []
        """Where it crashes next: `advance:before`."""
        self.met: set[str] = set()

    async def advance(self, handler: str, advances: Any, parks: Any, passed: Any) -> dict[int, int]:
        result = await self._around("advance", lambda: self.inner.advance(handler, advances, parks, passed))
        return dict(result)

    async def keep_parked(self, before: ParkedKey, after: ParkedKey) -> bool:
        return bool(await self._around("keep_parked", lambda: self.inner.keep_parked(before, after)))

    async def unpark(self, before: ParkedKey, checkpoint: int) -> bool:
        return bool(await self._around("unpark", lambda: self.inner.unpark(before, checkpoint)))

    async def _around(self, step: str, work: Callable[[], Any]) -> Any:
        self._crash(f"{step}:before")
        result = await work()
        self._crash(f"{step}:after")
        return result

    def _crash(self, point: str) -> None:
        if self.points and self.points[0] == point:
            self.points.pop(0)
            self.met.add(point)
            raise Crash(point)


@pytest.mark.parametrize("step", ["advance", "keep_parked", "unpark"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_crash_at_any_step_leaves_nothing_out(
    store: EventStore, log: Log, follow: Follow, step: str, when: str
) -> None:
    crashing = CrashingStore(store)
    notes = Notes()
    notes.fail = failing_at("a-2")
    await log.write(*orders("a", 3), *orders("b", 3))

    async def until_it_crashes() -> None:
        follower = await follow(notes, crashing)
        try:
            await follower.settle()
        except Crash:
            await (await follow(notes, store)).settle()

    if step == "advance":
        crashing.points = [f"{step}:{when}"]
    await until_it_crashes()
    notes.fail = failing_at("a-3") if step == "keep_parked" else lambda event: None
    crashing.points = crashing.points or ([f"{step}:{when}"] if step != "advance" else [])
    await store.wish("Notes", None, "retry")
    await until_it_crashes()
    await log.write(*orders("a", 2, first=4))
    await until_it_crashes()
    notes.fail = lambda event: None
    await store.wish("Notes", None, "retry")
    await until_it_crashes()
    assert crashing.met == {f"{step}:{when}"}
    assert await store.parked() == []
    assert notes.done_of("a") == ids("a", 5)
    assert notes.done_of("b") == ids("b", 3)


@pytest.mark.parametrize("seed", range(4))
async def test_two_owners_at_once_leave_nothing_out(
    store: EventStore, open_another: Opener, log: Log, follow: Follow, seed: int
) -> None:
    draw = random.Random(seed)
    notes = Notes()
    poison: set[str] = set()

    def fail(event: OrderCreated) -> None:
        failing_at(*poison)(event)

    notes.fail = fail
    owners = [await follow(notes), await follow(notes, await open_another())]
    written = dict.fromkeys("abcd", 0)
    for _ in range(60):
        match draw.randrange(8):
            case 0 | 1 | 2:
                customer = draw.choice("abcd")
                written[customer] += 1
                order = ordered(customer, str(written[customer]))
                if draw.random() < 0.3:
                    poison.add(order.order_id)
                records = await log.write(order)
                if draw.random() < 0.7:
                    draw.choice(owners).subscriber.push(records)
            case 3:
                poison.clear()
            case 4:
                await store.wish("Notes", None, draw.choice(["retry", "retry"]))
            case 5:
                await asyncio.gather(*(owner.subscriber.step() for owner in owners))
            case _:
                await draw.choice(owners).subscriber.step()
    poison.clear()
    for _ in range(2):
        for owner in owners:
            await owner.settle()
        await store.wish("Notes", None, "retry")
    await owners[0].settle()
    assert await store.parked() == []
    for customer, count in written.items():
        assert set(notes.done_of(customer)) == set(ids(customer, count))


async def test_a_store_that_is_away_holds_up_the_handler_only_as_long(
    store: EventStore, log: Log, follow: Follow
) -> None:
    class Away(CrashingStore):
        away = 3

        async def advance(self, handler: str, advances: Any, parks: Any, passed: Any) -> dict[int, int]:
            if self.away:
                self.away -= 1
                raise StoreUnavailable("locked", True)
            return await self.inner.advance(handler, advances, parks, passed)

    follower = await follow(Notes(), Away(store))
    running = asyncio.ensure_future(follower.subscriber.run())
    await log.write(*orders("a", 2))
    async with asyncio.timeout(10):
        while 2 not in {checkpoint.position for checkpoint in (await store.checkpoints("Notes")).values()}:
            await asyncio.sleep(0.01)
    follower.subscriber.stop()
    await running
    assert set(follower.handler.calls) == {"a-1", "a-2"}


async def test_a_shard_with_a_long_backlog_leaves_room_to_others(log: Log, store: EventStore, store_url: str) -> None:
    """More of its events wait than a batch has, and the handler takes its time for each."""

    class Slow(Notes, policy=QUICK):
        async def on_ordered(self, event: OrderCreated) -> None:
            await asyncio.sleep(0.01)
            self.calls.append(event.order_id)

    keys = {shard_of(key, store.shards): key for key in "abcdefghij"}
    many, few = keys[min(keys)], keys[max(keys)]
    await log.write(*orders(many, 2_000), *orders(few, 1))
    slow, read_models = Slow(), ReadModels(store_url)
    following = Following(store, read_models, [], [slow], EVENTS, SubscriberLimits(batch_size_max=500))
    try:
        await following.follow(range(store.shards))
        await following.wait_for("Slow", shard_of(few, store.shards), 1, 3)
        assert len(slow.calls) < 1_000
    finally:
        await following.abandon()
        await read_models.close()


async def test_one_that_can_not_follow_its_shards_says_why(log: Log, store: EventStore, store_url: str) -> None:
    """As where a projection host is replaced: nobody waits for its beginning."""
    await log.write(*orders("a", 1))
    await store.keep_checkpoints("Notes", {log.record(ordered("a", "2")).shard: Checkpoint(99, b"of another log.")})
    read_models = ReadModels(store_url)
    following = Following(store, read_models, [], [Notes()], EVENTS)
    try:
        with pytest.raises(RestoredBehind):
            await following.follow(range(store.shards))
        (lag,) = following.lags()
        assert "the log ends before it" in lag.failure
        await rewind(store, "Notes", "now")
        await following.follow(range(store.shards))
        (lag,) = following.lags()
        assert lag.failure == ""
    finally:
        await following.abandon()
        await read_models.close()
