"""The loyalty programme at work, with real hosts on each kind of store: one promotion each, and what it came from."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from actors.customers import CreateCustomer, CreateOrder, Customer, CustomerPromoted, CustomerType, Order, PromoteToVip
from actors.wire import Receipt
from cluster.application import Application
from cluster.testing import InProcessRuntime
from projections.customers import CustomerProjection, LoyaltyProgramme
from projections.issuing import Issued
from projections.managing import ProcessManagerSubscriber
from projections.outbox import Outbox
from projections.outbox_sql import OutboxState
from projections.read_models import ReadModels
from store import Event, open_store

SHOP = Application([Customer, Order], [CustomerProjection], process_managers=[LoyaltyProgramme])
WITHOUT = Application([Customer, Order], [CustomerProjection])
THEN = datetime(1997, 1, 6, tzinfo=UTC)


def create(customer: str) -> CreateCustomer:
    return CreateCustomer(customer_id=customer, name="Ada", email="ada@example.com")


def order(customer: str, number: int, amount: str) -> CreateOrder:
    return CreateOrder(order_id=f"{customer}-{number}", customer_id=customer, total_amount=Decimal(amount))


async def events_of(runtime: InProcessRuntime, event_type: type[Event]) -> list[Any]:
    store, events = runtime._ports.store, runtime.registry.events
    records = [record for shard in range(store.shards) for record in await store.read_shard(shard, 0, 1_000)]
    return [events.decode(record) for record in records if record.type == event_type.event_type]


async def state(runtime: InProcessRuntime) -> OutboxState:
    return await Outbox(runtime._ports.read_models, LoyaltyProgramme).state()


async def test_who_orders_for_500_dollars_is_promoted_once_and_because_of_that_order(store_url: str) -> None:
    async with InProcessRuntime.open(store_url, app=SHOP, shards=4) as runtime:
        await runtime.submit_many([create("c-1"), create("c-2")])
        await runtime.submit(order("c-1", 1, "499.99"))
        crossing = {"correlation_id": "cart-7", "asked_by": "Ada"}
        receipt = await runtime.submit(
            order("c-1", 2, "0.01"), occurred_at=THEN, consistency=[LoyaltyProgramme], metadata=crossing
        )
        (promoted,) = await events_of(runtime, CustomerPromoted)
        assert (promoted.customer_id, promoted.occurred_at) == ("c-1", THEN)
        (cause,) = await runtime._ports.store.read_stream(receipt.stream, 0, 10)
        metadata = promoted.metadata
        assert metadata.causation_id == str(runtime.registry.events.decode(cause).id)
        assert (metadata.correlation_id, metadata.asked_by) == ("cart-7", "Ada")
        await asyncio.gather(*(runtime.submit(order("c-2", number, "400")) for number in range(5)))
        await runtime.catch_up(LoyaltyProgramme)
        await runtime.catch_up(CustomerProjection)
        assert len(await events_of(runtime, CustomerPromoted)) == 2
        row = await runtime.query(LoyaltyProgramme, "c-2", after=receipt)
        assert row is not None
        assert row["spent"] == Decimal(2_000)
        shown = await runtime.query(CustomerProjection, "c-2")
        assert shown is not None
        assert shown["type"] == "Vip"
        assert (await state(runtime)).acknowledged == 2


async def test_what_the_log_held_before_it_was_there_is_acted_on_and_who_is_a_vip_already_is_refused(
    store_url: str,
) -> None:
    kept = await open_store(store_url, shards=4)  # a store in memory lasts as long as it is open
    async with InProcessRuntime.open(store_url, app=WITHOUT) as runtime:
        await runtime.submit_many([create("c-1"), create("c-2"), order("c-1", 1, "600"), order("c-2", 1, "600")])
        await runtime.submit(PromoteToVip(customer_id="c-2", reason="loyal"))
    async with InProcessRuntime.open(store_url, app=SHOP) as runtime:
        await runtime.catch_up(LoyaltyProgramme)
        promoted = await events_of(runtime, CustomerPromoted)
        assert sorted(event.customer_id for event in promoted) == ["c-1", "c-2"]
        now = await state(runtime)
        assert (now.waiting, now.acknowledged, now.refused, now.failed) == (0, 1, 1, 0)
        customer = await runtime.load(Customer, "c-1")
        assert customer.type is CustomerType.VIP
    await kept.close()


class SameHosts:
    """Sends to a runtime's hosts what another process, which knows nothing of that one, has issued."""

    def __init__(self, runtime: InProcessRuntime) -> None:
        self._client = runtime._ports.client
        self.receipts: list[Receipt] = []

    async def submit(self, command: Issued) -> None:
        fields = (command.partition_key, command.command_type, command.data, command.command_id)
        self.receipts.append(await self._client.submit(*fields, metadata=command.metadata))


async def test_a_crossing_that_two_see_has_one_effect(store_url: str) -> None:
    """The second one keeps a read model of its own, so that nothing but the command's id tells."""
    async with InProcessRuntime.open(store_url, app=SHOP, shards=4) as runtime:
        await runtime.submit_many([create("c-1"), order("c-1", 1, "300"), order("c-1", 2, "300")])
        await runtime.catch_up(LoyaltyProgramme)
        store: Any = runtime._ports.store
        hosts, own = SameHosts(runtime), ReadModels("memory://own")
        other = ProcessManagerSubscriber(store, own, LoyaltyProgramme, runtime.registry, hosts, range(4))
        await other.start()
        running = asyncio.create_task(other.run())
        for shard, head in (await store.heads()).items():
            await other.wait_for(shard, head, 20)
        other.stop()
        await running
        await own.close()
        assert [receipt.duplicate for receipt in hosts.receipts] == [True]
        assert len(await events_of(runtime, CustomerPromoted)) == 1
        await runtime.submit(order("c-1", 3, "700"), consistency=[LoyaltyProgramme])
        assert len(await events_of(runtime, CustomerPromoted)) == 1
        assert (await state(runtime)).acknowledged == 1
