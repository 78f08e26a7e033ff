"""A shop with three read models for the audits to look at, and ways to damage them. Not a test itself."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Table

from actors.customers import (
    Customer,
    CustomerDeactivated,
    CustomerEmailChanged,
    CustomerPromoted,
    CustomerType,
    Order,
)
from actors.registry import AggregateRegistry
from projections.auditing import Comparison, LiveRows, RowFinding, fold_shard
from projections.customers import CustomerDirectory, CustomerProjection, DailySales
from projections.issuing import Issuing
from projections.process_manager import ProcessManager
from projections.progress import SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import ProjectionSubscriber
from projections.read_models import ReadModels
from store import EventStore
from tests.logs import EVENTS, Log, created, ordered

PROJECTIONS = (CustomerProjection, DailySales, CustomerDirectory)
REGISTRY = AggregateRegistry([Customer, Order])
LIMITS = SubscriberLimits(batch_size_max=7, heads_interval_s=0.0)
NAMES = [f"c-{number}" for number in range(12)]


class Shop:
    """A store with a log, and the read models of it."""

    def __init__(self, store: EventStore, log: Log, read_models: ReadModels, directory: Path) -> None:
        self.store, self.log, self.read_models, self._directory = store, log, read_models, directory
        self._audits = 0

    async def follow(self, *projections: type[Projection]) -> None:
        """Let the read models take all that the log holds."""
        for projection in projections or PROJECTIONS:
            follower = ProjectionSubscriber(
                self.store,
                self.read_models,
                projection,
                EVENTS,
                range(self.store.shards),
                limits=LIMITS,
                issuing=Issuing(projection, REGISTRY, self.store) if issubclass(projection, ProcessManager) else None,
            )
            await follower.start()
            while (await follower.step()).more:
                pass

    async def audit(self, *projections: type[Projection], between: Any = None) -> list[RowFinding]:
        chosen = projections or PROJECTIONS
        self._audits += 1
        live = LiveRows(self._directory / f"audit-{self._audits}")
        for projection in chosen:
            await live.read(self.read_models, projection, range(self.store.shards))
        if between is not None:
            await between()
        comparison = Comparison(live, chosen)
        for shard in range(self.store.shards):
            comparison.add(await fold_shard(self.store, chosen, EVENTS, shard, live.checkpoints, lambda more: None))
        comparison.finish()
        live.close()
        assert sum(comparison.found.values()) == len(comparison.findings)
        return comparison.findings

    async def damage(self, projection: type[Projection], table: Table, make: Any) -> None:
        """Change a row of what is read behind everybody's back."""
        physical = projection.physical_tables()[table]
        await self.read_models._database.write(lambda connection: connection.execute(make(physical)))

    async def row(self, projection: type[Projection], key: Any) -> dict[str, Any]:
        row = (await self.read_models.query(projection, key)).row
        assert row is not None
        return row


@asynccontextmanager
async def running_shop(store: EventStore, store_url: str, directory: Path) -> AsyncIterator[Shop]:
    """Twelve customers with all that may happen to one, followed by three projections."""
    read_models, log = ReadModels(store_url), await Log.on(store)
    found = Shop(store, log, read_models, directory)
    at = int(datetime(2026, 3, 1, tzinfo=UTC).timestamp() * 1_000_000)
    for day, name in enumerate(NAMES):
        await log.write(created(name))
        await log.write(*(ordered(name, str(number), "19.99") for number in range(4)), occurred_at=at + day * 10**10)
    draw = random.Random(3)
    for name in draw.sample(NAMES, 6):
        await log.write(
            CustomerPromoted(
                customer_id=name, from_type=CustomerType.REGULAR, to_type=CustomerType.VIP, reason="loyal"
            ),
            ordered(name, "late", "0.01"),
            CustomerEmailChanged(customer_id=name, old_email=f"{name}@a.example", new_email="same@b.example"),
        )
    await log.write(CustomerDeactivated(customer_id="c-7", reason="gone"))
    await found.follow()
    yield found
    await read_models.close()
