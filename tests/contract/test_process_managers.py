"""What a process manager promises, on each kind of read model: what follows from an event is done, and once."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy import Column, Integer, MetaData, Table, Text

from actors.commands import Command
from actors.customers import ChangeEmail, Customer, CustomerCreated, Order, OrderCreated, PromoteToVip
from actors.errors import CommandIdReused, CommandTimeout, DecideFailed, DomainError, InvalidCommand
from actors.registry import AggregateRegistry
from projections import outbox_sql
from projections.changes import Changes
from projections.customers import LoyaltyProgramme
from projections.errors import ConsistencyTimeout, ReadModelUnavailable
from projections.handler import Policy
from projections.issuing import Issued, Issuing
from projections.managing import ProcessManagerSubscriber
from projections.outbox import Outbox
from projections.outbox_sql import OutboxState
from projections.process_manager import ProcessManager
from projections.progress import SubscriberLimits
from projections.read_models import ReadModels
from projections.rebuild import fill, finish
from projections.relay import RelayLimits
from store import EventrayError, EventRecord, InvalidValue, StoreRejected
from store.identity import shard_of
from store.memory import MemoryStore
from store.records import IMPORTED, Checkpoint, micros, moment
from tests.logs import EVENTS, RECORDED_AT, Log, created, ordered

SHARDS = 4
REGISTRY = AggregateRegistry([Customer, Order])
QUIET = SubscriberLimits(heads_interval_s=3600, retry_first_s=0, retry_max_s=0)
RELAY = RelayLimits(
    look_interval_s=0.05, settle_interval_s=0, stop_s=0, retries=Policy(wait_first_s=0.001, wait_max_s=0.002)
)
NAMES = [f"c-{number}" for number in range(12)]

counted = Table("counted", MetaData(), Column("id", Text, primary_key=True), Column("orders", Integer, default=0))


class Unknown(Command):
    """No aggregate decides it."""

    customer_id: str


def mail(event: OrderCreated, number: int = 0) -> ChangeEmail:
    return ChangeEmail(customer_id=event.customer_id, email=f"{event.order_id}-{number}@a.example")


class Mailing(ProcessManager, start="beginning"):
    """For each order two commands, the second of which nobody knows where the order's number ends so."""

    tables: ClassVar = [counted]

    def on_created(self, event: CustomerCreated, changes: Changes) -> None:
        changes.insert(counted, id=event.customer_id)

    def on_ordered(self, event: OrderCreated, changes: Changes) -> Iterator[Command]:
        changes.add(counted, event.customer_id, orders=1)
        yield mail(event)
        yield Unknown(customer_id=event.customer_id) if event.order_id.endswith("odd") else mail(event, 1)


class MailingMore(Mailing, name="Mailing", version=2):
    def on_ordered(self, event: OrderCreated, changes: Changes) -> Iterator[Command]:
        changes.add(counted, event.customer_id, orders=1)
        yield mail(event, 2)


class FromNow(Mailing, name="FromNow", start="now"):
    pass


class InBatches(ProcessManager, start="beginning"):
    tables: ClassVar = [counted]

    def on_orders(self, events: Sequence[OrderCreated], changes: Changes) -> list[tuple[OrderCreated, ChangeEmail]]:
        return [(event, mail(event, number)) for number in range(2) for event in events]


class Hosts:
    """Decides commands as hosts do, each id once, and fails by a script."""

    def __init__(self) -> None:
        self.sent: list[Issued] = []
        self.done: dict[str, Issued] = {}
        """Commands that had an effect, in their order."""
        self.before: Callable[[Issued], Exception | None] = lambda _: None
        """What goes wrong before a command is decided."""
        self.after: Callable[[Issued], Exception | None] = lambda _: None
        """What goes wrong afterwards: the answer is lost."""
        self.gate: Callable[[Issued], Awaitable[Any]] = lambda _: asyncio.sleep(0)

    async def submit(self, command: Issued) -> None:
        self.sent.append(command)
        await self.gate(command)
        if (error := self.before(command)) is not None:
            raise error
        self.done.setdefault(command.command_id, command)
        if (error := self.after(command)) is not None:
            raise error


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    store = MemoryStore("managing", shards=SHARDS)
    yield await Log.on(store)
    await store.close()


@pytest.fixture(params=["memory", "sqlite", "postgres"])
async def read_models(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ReadModels]:
    urls = {"memory": "memory://managing", "sqlite": f"sqlite:///{tmp_path}/shop.db"}
    opened = ReadModels(urls.get(request.param) or request.getfixturevalue("postgres_url"))
    yield opened
    await opened.close()


@pytest.fixture
def hosts() -> Hosts:
    return Hosts()


def managing(
    log: Log,
    read_models: ReadModels,
    hosts: Hosts,
    process_manager: type[ProcessManager] = Mailing,
    limits: SubscriberLimits = QUIET,
    relay_limits: RelayLimits = RELAY,
) -> ProcessManagerSubscriber:
    shards = range(SHARDS)
    return ProcessManagerSubscriber(
        log.store, read_models, process_manager, REGISTRY, hosts, shards, limits=limits, relay_limits=relay_limits
    )


@asynccontextmanager
async def running(subscriber: ProcessManagerSubscriber) -> AsyncIterator[ProcessManagerSubscriber]:
    await subscriber.start()
    task = asyncio.create_task(subscriber.run())
    try:
        yield subscriber
    finally:
        subscriber.stop()
        await task


async def taken(subscriber: ProcessManagerSubscriber) -> None:
    """Take all that the log holds, and send nothing."""
    await subscriber._compare_heads()
    while (await subscriber.step()).more:
        pass


async def through(subscriber: ProcessManagerSubscriber, log: Log) -> None:
    """Wait until all that follows from what the log holds is acknowledged."""
    for shard, head in (await log.store.heads()).items():
        await subscriber.wait_for(shard, head, 20)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


async def state(read_models: ReadModels, process_manager: type[ProcessManager] = Mailing) -> OutboxState:
    return await Outbox(read_models, process_manager).state()


def of_each_order(orders: Sequence[EventRecord], numbers: Sequence[int] = (0, 1)) -> list[tuple[str, str]]:
    """Key and address of what follows from orders, in their order."""
    events: list[Any] = [EVENTS.decode(record) for record in orders]
    return [(event.customer_id, mail(event, number).email) for event in events for number in numbers]


def effects(hosts: Hosts) -> list[tuple[str, str]]:
    return [(command.partition_key, json.loads(command.data)["email"]) for command in hosts.done.values()]


async def test_what_a_command_is_and_because_of_what(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    happened = datetime(1997, 1, 6, tzinfo=UTC)
    await log.write(created("c-1"))
    (order,) = await log.write(ordered("c-1", "1"), occurred_at=micros(happened))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    first, second = hosts.done.values()
    event = EVENTS.decode(order)
    assert first == Issued(
        shard=order.shard,
        position=order.position,
        number=0,
        command_id=f"{event.id}:Mailing:0",
        partition_key="c-1",
        command_type="ChangeEmail",
        data='{"customer_id":"c-1","email":"c-1-1-0@a.example"}',
        occurred_at=micros(happened),
        metadata=first.metadata,
    )
    assert json.loads(first.metadata) == {"correlation_id": str(event.id), "causation_id": str(event.id)}
    assert second.command_id == f"{event.id}:Mailing:1"
    assert await state(read_models) == OutboxState(0, 0, "", 2, 0, 0, "")


async def test_ids_and_order_do_not_depend_on_batches(log: Log, hosts: Hosts) -> None:
    orders = await log.write(*(ordered(name, str(number)) for number in range(3) for name in NAMES[:4]))
    found = []
    for size in (1, 5, 5_000):
        read_models, hosts = ReadModels("memory://managing"), Hosts()
        limits = SubscriberLimits(batch_size_max=size)
        async with running(managing(log, read_models, hosts, InBatches, limits=limits)) as subscriber:
            await through(subscriber, log)
        await read_models.close()
        found.append(sorted(hosts.done.values()))
        assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    assert found[0] == found[1] == found[2]


async def test_state_checkpoint_and_outbox_change_together_or_not_at_all(
    log: Log, read_models: ReadModels, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await log.write(created("c-1"), ordered("c-1", "1"))
    subscriber = managing(log, read_models, hosts)
    await subscriber.start()
    broken = pytest.MonkeyPatch()
    put = outbox_sql.put

    def put_and_fail(*arguments: Any) -> None:
        put(*arguments)
        raise ReadModelUnavailable("the process has died here")

    broken.setattr(outbox_sql, "put", put_and_fail)
    with pytest.raises(ReadModelUnavailable):
        await taken(subscriber)
    broken.undo()
    assert (await read_models.query(Mailing, "c-1")).row is None
    assert set((await read_models.positions(Mailing)).values()) == {0}
    assert (await state(read_models)).waiting == 0
    await taken(subscriber)
    assert (await read_models.query(Mailing, "c-1")).row == {"id": "c-1", "orders": 1}
    assert (await state(read_models)).waiting == 2


async def test_what_one_process_has_left_the_next_one_sends(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    orders = await log.write(*map(created, NAMES)) and await log.write(*(ordered(name, "1") for name in NAMES))
    died = managing(log, read_models, hosts)
    await died.start()
    await taken(died)
    assert hosts.sent == []
    async with running(managing(log, read_models, hosts)) as subscriber:
        await until(lambda: len(hosts.done) == 2 * len(orders))
        await through(subscriber, log)
    assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    assert len(hosts.sent) == len(hosts.done)


async def test_events_that_come_twice_have_one_effect(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    async with running(managing(log, read_models, hosts)) as subscriber:
        people = await log.write(*map(created, NAMES))
        orders = await log.write(*(ordered(name, "1") for name in NAMES))
        for records in (people, orders, people, orders):
            subscriber.push(records)
        await through(subscriber, log)
    assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    assert (await state(read_models)).acknowledged == len(hosts.sent) == 2 * len(orders)


async def test_two_owners_at_once_have_one_effect_and_count_it_once(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    await log.write(*map(created, NAMES))
    async with running(managing(log, read_models, hosts)) as one, running(managing(log, read_models, hosts)) as other:
        orders: list[EventRecord] = []
        for number in range(5):
            more = await log.write(*(ordered(name, str(number)) for name in NAMES))
            orders += more
            one.push(more)
            other.push(more)
            await asyncio.sleep(0.01)
        await through(one, log)
        await through(other, log)
    assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    assert await state(read_models) == OutboxState(0, 0, "", 2 * len(orders), 0, 0, "")


async def test_a_refusal_is_final_and_counted(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    hosts.before = lambda command: DomainError("She wants no mail.") if command.partition_key == "c-1" else None
    await log.write(created("c-1"), created("c-2"), ordered("c-1", "1"), ordered("c-2", "1"))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert {key for key, _ in effects(hosts)} == {"c-2"}
    assert len(hosts.sent) == 4
    assert await state(read_models) == OutboxState(0, 0, "", 2, 2, 0, "")


@pytest.mark.parametrize(
    "error",
    [InvalidCommand("email", "x", "another"), CommandIdReused("id", "customer-c-1"), StoreRejected("too long")],
    ids=lambda error: type(error).__name__,
)
async def test_what_can_never_succeed_is_counted_and_holds_up_nothing(
    log: Log, read_models: ReadModels, hosts: Hosts, error: EventrayError
) -> None:
    hosts.before = lambda command: error if command.number == 0 else None
    await log.write(created("c-1"))
    orders = await log.write(ordered("c-1", "1"), ordered("c-1", "2"))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert effects(hosts) == of_each_order(orders, (1,))
    now = await state(read_models)
    assert (now.waiting, now.acknowledged, now.refused, now.failed) == (0, 2, 0, 2)
    assert now.last_failure.endswith(f":Mailing:0: {error}")


async def test_a_command_that_nobody_decides_is_counted_and_holds_up_nothing(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    await log.write(created("c-1"))
    orders = await log.write(ordered("c-1", "1"), ordered("c-1", "odd"), ordered("c-1", "3"))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    by_order = of_each_order(orders)
    assert effects(hosts) == by_order[:3] + by_order[4:]
    now = await state(read_models)
    assert (now.waiting, now.acknowledged, now.failed) == (0, 5, 1)
    assert ":Mailing:1: Unknown: command = 'Unknown'" in now.last_failure


async def test_what_fails_is_tried_again_in_order_and_holds_up_its_own_key_only(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    troubled = True
    hosts.before = lambda command: (
        DecideFailed("customer-c-1", "ChangeEmail", "a bug") if command.partition_key == "c-1" and troubled else None
    )
    await log.write(*map(created, NAMES))
    async with running(managing(log, read_models, hosts)) as subscriber:
        orders = await log.write(*(ordered(name, str(number)) for number in range(30) for name in ("c-1", "c-2")))
        subscriber.push(orders)
        of_one = [record for record in orders if record.partition_key == "c-1"]
        of_other = [record for record in orders if record.partition_key == "c-2"]
        await until(lambda: any(command.partition_key == "c-1" for command in hosts.sent))
        with pytest.raises(ConsistencyTimeout, match="not acknowledged"):
            await subscriber.wait_for(of_one[0].shard, of_one[0].position, 0.3)
        await subscriber.wait_for(of_other[-1].shard, of_other[-1].position, 20)
        assert effects(hosts) == of_each_order(of_other)
        assert len({command.command_id for command in hosts.sent if command.partition_key == "c-1"}) == 1
        now = await state(read_models)
        assert (now.waiting, now.retried, "a bug" in now.retry_error) == (60, 1, True)
        troubled = False
        await through(subscriber, log)
    assert effects(hosts) == of_each_order(of_other) + of_each_order(of_one)
    assert (await state(read_models)).acknowledged == 120


async def test_lost_answers_and_lost_settlements_have_one_effect(
    log: Log, read_models: ReadModels, hosts: Hosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    chance = random.Random(7)
    hosts.before = lambda command: CommandTimeout(command.command_id, 1) if chance.random() < 0.3 else None
    hosts.after = lambda command: CommandTimeout(command.command_id, 1) if chance.random() < 0.3 else None
    settle = Outbox.settle

    async def lossy(self: Outbox, outcomes: Any) -> None:
        lost = chance.random()
        if lost < 0.2:
            raise ReadModelUnavailable("before the commit")
        await settle(self, outcomes)
        if lost < 0.4:
            raise ReadModelUnavailable("the reply to the commit was lost")

    monkeypatch.setattr(Outbox, "settle", lossy)
    monkeypatch.setattr("projections.relay.FAILURES", SubscriberLimits(retry_first_s=0.001, retry_max_s=0.002))
    await log.write(*map(created, NAMES))
    orders = await log.write(*(ordered(name, str(number)) for number in range(4) for name in NAMES))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    for name in NAMES:
        mine = [record for record in orders if record.partition_key == name]
        assert [effect for effect in effects(hosts) if effect[0] == name] == of_each_order(mine)
    assert len(hosts.sent) > len(hosts.done)
    assert await state(read_models) == OutboxState(0, 0, "", 2 * len(orders), 0, 0, "")


async def test_one_with_many_commands_leaves_room_to_others(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    """One key's first command gets no answer; those of its neighbour in the shard come after all of its own."""
    stuck, other = [f"c-{n}" for n in range(100) if shard_of(f"c-{n}", SHARDS) == 0][:2]
    never = asyncio.Event()
    hosts.gate = lambda command: never.wait() if command.partition_key == stuck else asyncio.sleep(0)
    limits = replace(RELAY, under_way_max=10, of_one_key_max=5)
    await log.write(created(stuck), created(other), *(ordered(stuck, str(number)) for number in range(20)))
    orders = await log.write(ordered(other, "1"))
    async with running(managing(log, read_models, hosts, relay_limits=limits)):
        await until(lambda: len(hosts.done) == 2)
    assert effects(hosts) == of_each_order(orders)


async def test_one_that_begins_now_acts_on_what_comes_later_only(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    await log.write(created("c-1"), ordered("c-1", "1"))
    first = managing(log, read_models, hosts, FromNow)
    await first.start()
    orders = await log.write(ordered("c-1", "2"))
    other = ReadModels("memory://made-anew")  # the log says where it began, not the read model
    for models in (read_models, other):
        async with running(managing(log, models, hosts, FromNow)) as subscriber:
            await through(subscriber, log)
        assert (await models.query(FromNow, "c-1")).row == {"id": "c-1", "orders": 2}
        assert effects(hosts) == of_each_order(orders)
    await other.close()
    assert len(hosts.sent) == 4


async def test_none_acts_on_what_an_import_has_brought(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    brought = await log.write(created("c-1"), ordered("c-1", "1"))
    await log.store.keep_checkpoints(IMPORTED, {brought[-1].shard: Checkpoint(2, brought[-1].event_id)})
    orders = await log.write(ordered("c-1", "2"))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert effects(hosts) == of_each_order(orders)
    assert (await read_models.query(Mailing, "c-1")).row == {"id": "c-1", "orders": 2}


async def rebuilt(log: Log, read_models: ReadModels, process_manager: type[ProcessManager]) -> None:
    build = await read_models.begin_rebuild(process_manager, range(SHARDS))
    issuing = Issuing(process_manager, REGISTRY, log.store)
    for shard in range(SHARDS):
        await fill(log.store, read_models, process_manager, EVENTS, build, [shard], lambda more: None, issuing)
    await finish(log.store, read_models, process_manager, EVENTS, build, issuing)


async def test_a_rebuild_sends_nothing_again_and_loses_nothing(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    await log.write(*map(created, NAMES))
    sent = await log.write(*(ordered(name, "1") for name in NAMES))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    waiting = await log.write(*(ordered(name, "2") for name in NAMES))
    died = managing(log, read_models, hosts)
    await died.start()
    await taken(died)
    unseen = await log.write(*(ordered(name, "3") for name in NAMES))
    hosts.sent.clear()
    await rebuilt(log, read_models, Mailing)
    assert hosts.sent == []
    assert (await state(read_models)).waiting == 2 * (len(waiting) + len(unseen))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert len(hosts.sent) == 2 * (len(waiting) + len(unseen))
    assert Counter(effects(hosts)) == Counter(of_each_order([*sent, *waiting, *unseen]))
    assert (await state(read_models)).acknowledged == 2 * len([*sent, *waiting, *unseen])
    assert (await read_models.query(Mailing, "c-1")).row == {"id": "c-1", "orders": 3}


async def test_what_a_rebuild_has_issued_too_is_sent_once(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    """The build that is filled is further than the live one for a while; that one then sends, and is replaced."""
    await log.write(*map(created, NAMES))
    live = managing(log, read_models, hosts)
    await live.start()
    await taken(live)
    orders = await log.write(*(ordered(name, "1") for name in NAMES))
    build, issuing = await read_models.begin_rebuild(Mailing, range(SHARDS)), Issuing(Mailing, REGISTRY, log.store)
    await fill(log.store, read_models, Mailing, EVENTS, build, range(SHARDS), lambda more: None, issuing)
    async with running(live):
        await through(live, log)
    waiting = await log.write(*(ordered(name, "2") for name in NAMES))
    await fill(log.store, read_models, Mailing, EVENTS, build, range(SHARDS), lambda more: None, issuing)
    await taken(live)
    await finish(log.store, read_models, Mailing, EVENTS, build, issuing)
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert Counter(effects(hosts)) == Counter(of_each_order([*orders, *waiting]))
    assert len(hosts.sent) == len(hosts.done)


async def test_a_rebuild_counts_nothing_again(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    await log.write(created("c-1"), ordered("c-1", "odd"))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    await log.write(ordered("c-1", "2-odd"))
    for _ in range(2):
        await rebuilt(log, read_models, Mailing)
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    now = await state(read_models)
    assert (now.acknowledged, now.failed, len(hosts.sent)) == (2, 2, 2)


async def test_a_rebuild_of_one_that_begins_now_and_never_ran_sends_nothing(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    await log.write(created("c-1"), ordered("c-1", "1"))
    await rebuilt(log, read_models, FromNow)
    orders = await log.write(ordered("c-1", "2"))
    async with running(managing(log, read_models, hosts, FromNow)) as subscriber:
        await through(subscriber, log)
    assert effects(hosts) == of_each_order(orders)


async def test_a_rebuild_beside_one_at_work_has_one_effect(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    await log.write(*map(created, NAMES))
    orders: list[EventRecord] = []
    async with running(managing(log, read_models, hosts, limits=SubscriberLimits())) as subscriber:
        rebuilding = asyncio.create_task(rebuilt(log, read_models, Mailing))
        number = 0
        while not rebuilding.done():
            number += 1
            more = await log.write(*(ordered(name, str(number)) for name in NAMES))
            orders += more
            subscriber.push(more)
            await asyncio.sleep(0.01)
        await rebuilding
        await through(subscriber, log)
    assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    assert len(hosts.sent) == 2 * len(orders)
    assert (await state(read_models)).acknowledged == 2 * len(orders)


async def test_a_higher_version_goes_on_where_the_lower_one_has_acted(
    log: Log, read_models: ReadModels, hosts: Hosts
) -> None:
    await log.write(*map(created, NAMES))
    sent = await log.write(*(ordered(name, "1") for name in NAMES))
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    waiting = await log.write(*(ordered(name, "2") for name in NAMES))
    old = managing(log, read_models, hosts)
    await old.start()
    await taken(old)
    unseen = await log.write(*(ordered(name, "3") for name in NAMES))
    limits = SubscriberLimits(batch_size_max=5)
    async with running(managing(log, read_models, hosts, MailingMore, limits=limits)) as subscriber:
        await through(subscriber, log)
    expected = of_each_order([*sent, *waiting]) + of_each_order(unseen, (2,))
    assert Counter(effects(hosts)) == Counter(expected)
    assert len(hosts.sent) == len(expected)
    assert (await read_models.query(MailingMore, "c-1")).row == {"id": "c-1", "orders": 3}


async def test_a_build_that_is_given_up_leaves_no_command(log: Log, read_models: ReadModels, hosts: Hosts) -> None:
    await log.write(created("c-1"), ordered("c-1", "1"))
    build = await read_models.begin_rebuild(Mailing, range(SHARDS))
    issuing = Issuing(Mailing, REGISTRY, log.store)
    await fill(log.store, read_models, Mailing, EVENTS, build, range(SHARDS), lambda more: None, issuing)
    async with running(managing(log, read_models, hosts, MailingMore)) as subscriber:
        await through(subscriber, log)
    assert len(hosts.sent) == 1
    found = await read_models._database.read(
        lambda connection: connection.exec_driver_sql("SELECT count(*) FROM process_manager_outbox").scalar()
    )
    assert found == 0


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_dies_when_each_command_has_one_effect(seed: int, log: Log, read_models: ReadModels) -> None:
    """Owners begin, are cancelled wherever they are, and overlap; answers are lost; a rebuild comes in between."""
    chance, hosts = random.Random(seed), Hosts()
    hosts.before = lambda command: CommandTimeout(command.command_id, 1) if chance.random() < 0.2 else None
    hosts.after = lambda command: CommandTimeout(command.command_id, 1) if chance.random() < 0.2 else None
    await log.write(*map(created, NAMES))
    orders: list[EventRecord] = []

    async def owner() -> None:
        subscriber = managing(log, read_models, hosts, limits=SubscriberLimits(apply_interval_s=0, heads_interval_s=0))
        await subscriber.start()
        await subscriber.run()

    owners = [asyncio.create_task(owner())]
    for number in range(15):
        orders += await log.write(*(ordered(name, str(number)) for name in chance.sample(NAMES, 4)))
        await asyncio.sleep(chance.random() * 0.01)
        if chance.random() < 0.4:
            owners.append(asyncio.create_task(owner()))
        if chance.random() < 0.4:
            owners.pop(chance.randrange(len(owners))).cancel() if owners else None
        if number == 8 and seed % 3 == 0:
            with suppress(EventrayError):
                await rebuilt(log, read_models, Mailing)
    for task in owners:
        task.cancel()
    await asyncio.gather(*owners, return_exceptions=True)
    hosts.before = hosts.after = lambda _: None
    async with running(managing(log, read_models, hosts)) as subscriber:
        await through(subscriber, log)
    assert Counter(effects(hosts)) == Counter(of_each_order(orders))
    now = await state(read_models)
    assert (now.waiting, now.acknowledged, now.refused, now.failed) == (0, 2 * len(orders), 0, 0)


class TestLoyaltyProgramme:
    async def test_promotes_with_the_order_that_reaches_500_dollars(
        self, log: Log, read_models: ReadModels, hosts: Hosts
    ) -> None:
        await log.write(created("c-1"), created("c-2"), created("c-3"))
        await log.write(ordered("c-1", "1", "499.99"), ordered("c-2", "1", "500"), ordered("c-3", "1", "499.9999"))
        (crossing,) = await log.write(ordered("c-1", "2", "0.01"), occurred_at=RECORDED_AT - 5)
        await log.write(ordered("c-1", "3", "1000"), ordered("c-2", "2", "500"))
        async with running(managing(log, read_models, hosts, LoyaltyProgramme)) as subscriber:
            await through(subscriber, log)
        promoted = {command.partition_key: command for command in hosts.done.values()}
        assert promoted.keys() == {"c-1", "c-2"}
        assert len(hosts.sent) == 2
        assert promoted["c-1"].command_id == f"{EVENTS.decode(crossing).id}:LoyaltyProgramme:0"
        assert moment(promoted["c-1"].occurred_at) == moment(RECORDED_AT - 5)
        assert promoted["c-1"].command_type == PromoteToVip.command_type
        row = (await read_models.query(LoyaltyProgramme, "c-1")).row
        assert row is not None
        assert str(row["spent"]) == "1500.00"


def test_what_is_wrong_about_one_is_named() -> None:
    class Eager(Mailing, start="soon"):  # type: ignore[arg-type]
        pass

    class LongName(Mailing, name="n" * 101):
        pass

    for process_manager, field in ((Eager, "start"), (LongName, "name")):
        with pytest.raises(InvalidValue, match=f"^{field} = "):
            process_manager.event_methods()
