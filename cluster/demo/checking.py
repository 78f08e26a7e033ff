"""The demo's judge: what the store and the read model hold, held against what the input says.

Not here: computing what the input says (`purchases.py`), and submitting (`driver.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from actors.aggregate import Aggregate
from actors.customers import Customer, Order
from actors.registry import AggregateRegistry
from cluster.demo.purchases import CustomerFacts
from store.ports import EventReader

CATEGORIES = (Customer.category, Order.category)
PAGE_SIZE = 5_000
"""Events read at once."""
ROW_FIELDS = ("name", "email", "type", "status", "created_at", "last_promoted_at", "total_orders", "total_spent")
FOLD_FIELDS = ("name", "email", "type", "status", "total_orders", "total_spent")


class Fold(NamedTuple):
    """The whole log, folded."""

    customers: dict[str, dict[str, Any]]
    """By id; the fields of FOLD_FIELDS."""
    events: int


async def fold_log(reader: EventReader, on_events: Callable[[int], None]) -> Fold:
    """Read every event of the store and fold the customers and their orders from it; other streams are left out."""
    registry = AggregateRegistry([Customer, Order])
    aggregates: dict[str, Aggregate] = {}
    events = 0
    for shard in range(reader.shards):
        position, last_page = 0, False
        while not last_page:
            records = await reader.read_shard(shard, position, PAGE_SIZE)
            for record in records:
                aggregate = aggregates.get(record.stream)
                if aggregate is None:
                    category, _, aggregate_id = record.stream.partition("-")
                    if category not in CATEGORIES:
                        continue
                    aggregate = aggregates[record.stream] = registry.aggregate_of(record.stream)(aggregate_id)
                aggregate.load_from_history((registry.events.decode(record),))
            events += len(records)
            on_events(len(records))
            last_page = len(records) < PAGE_SIZE
            position += len(records)  # positions are gapless
    return Fold(_customers(aggregates), events)


def _customers(aggregates: Mapping[str, Aggregate]) -> dict[str, dict[str, Any]]:
    customers: dict[str, dict[str, Any]] = {}
    for aggregate in aggregates.values():
        if isinstance(aggregate, Customer):
            customers[aggregate.aggregate_id] = {
                "name": aggregate.name,
                "email": aggregate.email,
                "type": str(aggregate.type),
                "status": str(aggregate.status),
                "total_orders": 0,
                "total_spent": Decimal(0),
            }
    for aggregate in aggregates.values():
        if isinstance(aggregate, Order) and aggregate.partition_key in customers:
            customer = customers[aggregate.partition_key]
            customer["total_orders"] += 1
            customer["total_spent"] += aggregate.total_amount
    return customers


def differences(
    facts: Mapping[str, CustomerFacts], rows: Mapping[str, Mapping[str, Any] | None], fold: Fold
) -> list[str]:
    """Return a line for each customer and field in which the read model or the log says other than the input."""
    found = []
    for customer_id, expected in facts.items():
        for source, fields, held in (
            ("the read model", ROW_FIELDS, rows.get(customer_id)),
            ("the log", FOLD_FIELDS, fold.customers.get(customer_id)),
        ):
            if held is None:
                found.append(f"customer {customer_id}: not in {source}")
                continue
            for field in fields:
                by_input = getattr(expected, field)
                if held[field] != by_input:
                    what = f"{field} is {held[field]} in {source}, {by_input} by the input"
                    found.append(f"customer {customer_id}: {what}")
    return found
