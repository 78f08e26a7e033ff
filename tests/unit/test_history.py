"""What each event changed, told from the fold."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from actors import Aggregate, Command
from actors.history import FieldChange, changes_of
from actors.registry import AggregateRegistry
from actors.repository import Repository
from store import Event, EventStore, open_store
from store.errors import InvalidValue
from store.identity import uuid7


class Put(Command):
    basket_id: str
    what: str
    count: int | None


class ItemPut(Event):
    basket_id: str
    what: str
    count: int | None


class Basket(Aggregate):
    items: dict[str, int | None]
    order: list[str]
    _cache: int

    def put(self, command: Put) -> None:
        self.raise_event(ItemPut(basket_id=self.aggregate_id, what=command.what, count=command.count))

    def on_put(self, event: ItemPut) -> None:
        if event.version == 1:
            self.items, self.order = {}, []
        self._cache = event.version
        if event.count == 0:
            del self.items[event.what]
        else:
            self.items[event.what] = event.count
        if event.what not in self.order:
            self.order.append(event.what)


REGISTRY = AggregateRegistry([Basket])


async def filled(*puts: tuple[str, int | None]) -> EventStore:
    store = await open_store(f"memory://{uuid7()}", shards=2)
    async with Repository(store, REGISTRY) as repository:
        basket = Basket("b")
        for what, count in puts:
            basket.put(Put(basket_id="b", what=what, count=count))
        await repository.save(basket)
    return store


async def told(store: EventStore, **until: Any) -> list[list[FieldChange]]:
    return [event.changes for event in await changes_of(store, REGISTRY.events, Basket, "b", **until)]


async def test_values_that_come_change_and_go_are_told_also_within_dicts_and_where_changed_in_place() -> None:
    store = await filled(("pear", 1), ("fig", None), ("pear", 2), ("fig", None), ("fig", 0))
    assert await told(store) == [
        [
            FieldChange("items", False, None, True, {"pear": 1}),
            FieldChange("order", False, None, True, ["pear"]),
        ],
        [
            FieldChange("items.fig", False, None, True, None),
            FieldChange("order", True, ["pear"], True, ["pear", "fig"]),
        ],
        [FieldChange("items.pear", True, 1, True, 2)],
        [],
        [FieldChange("items.fig", True, None, False, None)],
    ]


async def test_it_ends_at_a_version_or_a_time() -> None:
    store = await filled(("pear", 1), ("pear", 2))
    assert len(await told(store, version=1)) == 1
    now = datetime.now(UTC)
    assert len(await told(store, as_of=now + timedelta(hours=1))) == 2
    assert await told(store, as_of=now - timedelta(hours=1)) == []
    with pytest.raises(InvalidValue, match="has 2 so far"):
        await told(store, version=3)
