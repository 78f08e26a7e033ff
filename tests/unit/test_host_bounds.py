"""What a host holds is bounded: commands, events not stored yet, live aggregates, what it reads at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from decimal import Decimal

import pytest

from actors import Aggregate, Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from actors.errors import ApplyFailed, NotOwner, Overloaded, StaleCall
from actors.health import HostHealth
from actors.limits import HostLimits
from actors.recording import EVENT_FRAME_BYTES
from actors.registry import AggregateRegistry
from actors.wire import Call, Receipt, pack_call
from store import Event, EventrayError, EventStore, open_store
from store.identity import shard_of, uuid7
from store.records import ShardAppend
from tests.hosts import HostUnderTest, held, host_on, until_held

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
PROMOTE = PromoteToVip(customer_id="c-1", reason="loyal")


class Write(Command):
    note_id: str
    text: str


class Written(Event):
    text: str


class Note(Aggregate):
    def write(self, command: Write) -> None:
        self.raise_event(Written(text=command.text))

    def on_written(self, event: Written) -> None:
        """The note keeps nothing."""


NOTES = AggregateRegistry([Note])


def customer(number: int) -> CreateCustomer:
    return CreateCustomer(customer_id=f"c-{number}", name="A", email="a@example.com")


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def store() -> AsyncIterator[EventStore]:
    opened = await open_store(f"memory://{uuid7()}", shards=4)
    yield opened
    await opened.close()


def live(host: HostUnderTest) -> int:
    return host.core.health().live_aggregates


async def test_a_full_host_says_so_at_once(store: EventStore) -> None:
    async with host_on(store, limits=HostLimits(pending_commands_max=1)) as host:
        held(host)
        first = asyncio.create_task(host.submit(ADA, "k-1"))
        await until_held(host)
        assert isinstance(await host.submit(PROMOTE, "k-2"), Overloaded)
        host.store.open_gate.set()
        assert isinstance(await first, Receipt)


async def test_the_bytes_that_a_host_holds_are_bounded_too_and_an_empty_one_takes_any_call(store: EventStore) -> None:
    def write(number: int, size: int) -> asyncio.Task[Receipt | EventrayError]:
        return asyncio.create_task(host.submit(Write(note_id=f"n-{number}", text="x" * size), f"k-{number}"))

    async with host_on(store, limits=HostLimits(pending_bytes_max=5_000), registry=NOTES) as host:
        held(host)
        larger_than_all = write(1, 6_000)
        await until_held(host)
        assert isinstance(await write(2, 1), Overloaded)
        host.store.open_gate.set()
        assert isinstance(await larger_than_all, Receipt)
        held(host)
        first = write(3, 3_000)
        await until_held(host)
        assert isinstance(await write(4, 3_000), Overloaded)
        small = write(5, 1)
        done, _ = await asyncio.wait([small], timeout=0.05)
        assert not done
        host.store.open_gate.set()
        assert [type(answer) for answer in await asyncio.gather(first, small)] == [Receipt, Receipt]
        assert isinstance(await write(6, 3_000), Receipt)


async def test_it_tells_how_long_its_loop_has_stood_and_its_oldest_command_has_waited(store: EventStore) -> None:
    def asked_later() -> HostHealth:
        time.sleep(0.3)
        return host.core.health()

    async with host_on(store, limits=HostLimits(beat_s=0.01)) as host:
        held(host)
        waiting = asyncio.create_task(host.submit(ADA, "k-1"))
        await until(lambda: host.core.health().oldest_pending_s > 0.1)
        asking = asyncio.get_running_loop().run_in_executor(None, asked_later)
        time.sleep(0.4)  # noqa: ASYNC251 - the loop stands
        told = await asking
        assert told.loop_age_s > 0.25
        assert told.oldest_pending_s > 0.35, "also what has been waited since the loop has turned last"
        host.store.open_gate.set()
        assert isinstance(await waiting, Receipt)
        await until(lambda: host.core.health().oldest_pending_s == 0.0)
        await until(lambda: host.core.health().loop_age_s < 0.2)


async def test_passivated_aggregates_come_back_whole(store: EventStore) -> None:
    async with host_on(store, limits=HostLimits(live_aggregates_max=3)) as host:
        for n in range(20):
            created = CreateCustomer(customer_id=f"c-{n}", name="A", email="a@example.com")
            assert isinstance(await host.submit(created, f"k-{n}"), Receipt)
        for n in range(20):
            promote = PromoteToVip(customer_id=f"c-{n}", reason="loyal")
            receipt = await host.submit(promote, f"p-{n}")
            assert isinstance(receipt, Receipt)
            assert receipt.version == 2
        held(host)
        waiting = []
        for wave in ("one", "two"):
            for n in range(20):
                change = ChangeEmail(customer_id=f"c-{n}", email=f"{wave}@example.com")
                waiting.append(asyncio.create_task(host.submit(change, f"{wave}-{n}")))
            done, _ = await asyncio.wait(waiting, timeout=3 * HostLimits().beat_s)
            assert not done
        host.store.open_gate.set()
        assert all(isinstance(answer, Receipt) for answer in await asyncio.gather(*waiting))
        assert not host.store.errors, "an aggregate was forgotten while its events were on their way"
        async with asyncio.timeout(5):
            while host.core.health().live_aggregates > 3 or not host.core.health().live_aggregates:
                await asyncio.sleep(0.01)


def bytes_of(appends: list[ShardAppend]) -> int:
    rows = [record for append in appends for record in append.records]
    return sum(EVENT_FRAME_BYTES + len(record.data) + len(record.metadata) for record in rows)


async def test_while_the_store_stands_still_no_more_events_are_made_than_the_bound_allows(store: EventStore) -> None:
    text = "x" * 5_000
    async with host_on(store, limits=HostLimits(unstored_bytes_max=20_000), registry=NOTES) as host:
        held(host)
        waiting = [
            asyncio.create_task(host.submit(Write(note_id=f"n-{n % 12}", text=text), f"k-{n}")) for n in range(60)
        ]
        await until_held(host)
        done, _ = await asyncio.wait(waiting, timeout=0.1)
        assert not done
        host.store.open_gate.set()
        assert all(isinstance(answer, Receipt) for answer in await asyncio.gather(*waiting))
        assert len(await host.log()) == 60
        sizes = [bytes_of(list(appends)) for appends in host.store.appends]
        assert max(sizes) < 20_000 + 2 * len(text), "one append takes what the bound allows, and the last command's"
        assert len(sizes) < 30, "they still go together"


class StricterNote(Note, category="note"):
    """The same aggregate after a careless change of its code."""

    def on_written(self, event: Written) -> None:
        if event.text == "bad":
            raise ValueError("bad")


async def test_mail_for_a_damaged_stream_is_not_read_again_and_again_while_it_must_wait(store: EventStore) -> None:
    async with host_on(store, registry=NOTES) as host:
        await host.submit(Write(note_id="n-1", text="bad"), "k-1")
    limits = HostLimits(unstored_bytes_max=1)
    async with host_on(store, "host-2", limits, AggregateRegistry([StricterNote])) as host:
        held(host)
        first = asyncio.create_task(host.submit(Write(note_id="n-2", text="good"), "k-2"))
        await until_held(host)
        second = asyncio.create_task(host.submit(Write(note_id="n-1", text="good"), "k-3"))
        await asyncio.wait([first, second], timeout=0.1)
        assert sum("note-n-1" in streams for streams in host.store.stream_reads) <= 1
        host.store.open_gate.set()
        assert isinstance(await first, Receipt)
        assert isinstance(await second, ApplyFailed)


async def test_mail_that_waited_for_room_is_decided_when_the_room_comes_from_a_shard_claimed_anew(
    store: EventStore,
) -> None:
    limits = HostLimits(unstored_bytes_max=1)
    async with host_on(store, limits=limits, registry=NOTES) as host:
        (full, first), (_, second), *_ = {shard_of(f"n-{n}", 4): f"n-{n}" for n in range(20)}.items()
        for name in (first, second):
            await host.submit(Write(note_id=name, text="warm"), f"warm-{name}")
        deciding, waiting = (
            asyncio.create_task(host.submit(Write(note_id=name, text="x"), f"k-{name}", first_send=True))
            for name in (first, second)
        )
        claiming = asyncio.create_task(host.core.claim([full]))  # before the writer has its turn
        assert isinstance(await asyncio.wait_for(waiting, 5), Receipt)
        assert isinstance(await deciding, NotOwner)
        await claiming


async def test_an_aggregate_that_is_idle_is_forgotten_and_comes_back_whole(store: EventStore) -> None:
    async with host_on(store, limits=HostLimits(live_idle_s=0.3)) as host:
        for n in range(10):
            await host.submit(customer(n), f"k-{n}")
        await until(lambda: live(host) == 10)
        for n in range(40):
            await host.submit(ChangeEmail(customer_id="c-1", email=f"a{n}@example.com"), f"e-{n}")
            await asyncio.sleep(0.01)
        await until(lambda: live(host) == 1)
        await until(lambda: live(host) == 0)
        again = await host.submit(PROMOTE, "p-1")
        assert isinstance(again, Receipt)
        assert again.version == 42


async def test_what_was_used_last_stays_whichever_shard_it_is_in(store: EventStore) -> None:
    async with host_on(store, limits=HostLimits(live_aggregates_max=6)) as host:
        for n in range(3):
            await host.submit(customer(n), f"k-{n}")
        for n in range(30):
            order = CreateOrder(order_id=f"o-{n}", customer_id=f"c-{n % 3}", total_amount=Decimal(1))
            await host.submit(order, f"o-{n}")
        await until(lambda: live(host) == 6)
        before = len(host.store.stream_reads)
        for n in range(3):
            await host.submit(PromoteToVip(customer_id=f"c-{n}", reason="loyal"), f"p-{n}")
        assert len(host.store.stream_reads) == before, "the customers, whom every order has read, were still there"


async def test_so_many_sessions_are_remembered_and_no_more(store: EventStore) -> None:
    async with host_on(store, limits=HostLimits(sessions_max=2)) as host:

        async def call(session: str) -> None:
            await host.core.execute(pack_call(Call(session, 5, host.epochs, [])))

        await call("a")
        await call("b")
        with pytest.raises(StaleCall):
            await call("a")
        await call("c")
        await call("a")
