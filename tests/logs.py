"""Test tools: writing events straight into a store's log, without a host. Not a test itself."""

from __future__ import annotations

import json
from collections.abc import Iterable
from decimal import Decimal

from actors.customers import (
    CustomerCreated,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerType,
    OrderCreated,
)
from store import Event, EventRecord, EventRegistry, EventStore
from store.identity import shard_of, uuid7
from store.records import ShardAppend

EVENTS = EventRegistry([CustomerCreated, CustomerPromoted, CustomerEmailChanged, CustomerDeactivated, OrderCreated])
RECORDED_AT = 1_700_000_000_000_000


class Log:
    """A store's log and its only writer. `write` returns what it appended, as a host would push it."""

    def __init__(self, store: EventStore, epochs: dict[int, int]) -> None:
        self.store, self._epochs = store, epochs
        self._heads = dict.fromkeys(epochs, 0)
        self._versions: dict[str, int] = {}

    @classmethod
    async def on(cls, store: EventStore) -> Log:
        generation = await store.take("test")
        await store.assign(generation, dict.fromkeys(range(store.shards), "test"))
        claims = await store.claim("test", range(store.shards))
        return cls(store, {shard: claim.epoch for shard, claim in claims.items()})

    async def write(self, *events: Event, occurred_at: int | None = None) -> list[EventRecord]:
        return await self.append([self.record(event, occurred_at) for event in events])

    async def append(self, records: Iterable[EventRecord]) -> list[EventRecord]:
        by_shard: dict[int, list[EventRecord]] = {}
        for record in records:
            by_shard.setdefault(record.shard, []).append(record)
        fenced = await self.store.append(
            [
                ShardAppend(shard, self._epochs[shard], found[0].position - 1, found)
                for shard, found in sorted(by_shard.items())
            ]
        )
        assert not fenced
        return [record for _, found in sorted(by_shard.items()) for record in found]

    def record(self, event: Event, occurred_at: int | None = None) -> EventRecord:
        """The event as the next record of its stream and shard."""
        key = str(getattr(event, "customer_id"))  # noqa: B009
        stream = f"order-{event.order_id}" if isinstance(event, OrderCreated) else f"customer-{key}"
        shard = shard_of(key, self.store.shards)
        self._heads[shard] += 1
        self._versions[stream] = self._versions.get(stream, 0) + 1
        return EventRecord(
            shard=shard,
            position=self._heads[shard],
            stream=stream,
            version=self._versions[stream],
            partition_key=key,
            event_id=uuid7().bytes,
            type=event.event_type,
            schema_version=event.schema_version,
            data=event.model_dump_json(),
            metadata="{}" if occurred_at is None else json.dumps({"occurred_at": occurred_at}),
            command_key=None,
            key_id=None,
            recorded_at=RECORDED_AT,
        )


def created(customer_id: str) -> CustomerCreated:
    return CustomerCreated(
        customer_id=customer_id,
        name=f"Name of {customer_id}",
        email=f"{customer_id}@a.example",
        type=CustomerType.REGULAR,
    )


def ordered(customer_id: str, order_id: str, amount: str = "1.50") -> OrderCreated:
    return OrderCreated(order_id=f"{customer_id}-{order_id}", customer_id=customer_id, total_amount=Decimal(amount))
