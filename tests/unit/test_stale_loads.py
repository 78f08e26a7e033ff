"""What was read before a shard's state was dropped comes too late, and nothing is decided on it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from decimal import Decimal

from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, DeactivateCustomer
from actors.errors import DomainError
from actors.wire import Receipt
from store import EventStore, open_store
from store.forwarding import Forwarding
from store.records import Histories
from tests.hosts import HostUnderTest, held, host_on, lost_reply, once, until_held

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")
GRACE = CreateCustomer(customer_id="c-2", name="Grace", email="grace@example.com")


class LateReader(Forwarding):
    """A store that keeps back what one read has brought."""

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.keep_back = False
        self.kept, self.hand_over = asyncio.Event(), asyncio.Event()

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        found = await self.inner.read_histories(fingerprints, limit)
        if self.keep_back:
            self.keep_back = False
            self.kept.set()
            await self.hand_over.wait()
        return found


async def until_nothing_is_read(host: HostUnderTest) -> None:
    async with asyncio.timeout(5):
        while any(task.get_coro().__name__ == "_load" for task in host.core._tasks):  # type: ignore[union-attr]
            await asyncio.sleep(0)


async def test_what_was_read_before_the_state_was_dropped_is_not_taken_in() -> None:
    """Else the customer would be active again in memory, and could order."""
    memory = await open_store("memory://", shards=1)
    async with host_on(memory) as earlier:
        await earlier.submit(GRACE, "k-1")
    store = LateReader(memory)
    async with host_on(store, "host-2") as host, asyncio.timeout(10):
        await host.submit(ADA, "k-2")
        held(host)
        host.store.after = once(lost_reply())
        changing = asyncio.create_task(host.submit(ChangeEmail(customer_id="c-1", email="a@example.com"), "k-3"))
        await until_held(host)
        store.keep_back = True
        deactivating = asyncio.create_task(host.submit(DeactivateCustomer(customer_id="c-2"), "k-4"))
        await store.kept.wait()
        host.store.open_gate.set()
        assert [type(answer) for answer in await asyncio.gather(changing, deactivating)] == [Receipt, Receipt]
        store.hand_over.set()
        await until_nothing_is_read(host)
        answer = await host.submit(CreateOrder(order_id="o-1", customer_id="c-2", total_amount=Decimal(1)), "k-5")
        assert isinstance(answer, DomainError), answer
        assert [record.type for record in await host.log()].count("OrderCreated") == 0
    await memory.close()
