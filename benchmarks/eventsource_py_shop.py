"""The peer `eventsource-py` deciding the commands that we decide: customers and orders, each change an event.

As its README and its guides use it: an `AggregateRepository` over an event store, many tasks at once, on PostgreSQL
with the pool of its production guide; tracing off. Customers stay in memory between two
saves, so it never reads what it knows. It has no transaction over several aggregates, so no batches. Each task has
customers of its own: a conflict of versions would cost it a second attempt.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections.abc import Sequence
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from eventsource import (
    AggregateRepository,
    AggregateRoot,
    DomainEvent,
    PostgreSQLEventStore,
    SQLiteEventStore,
    create_async_engine,
    register_event,
)
from pydantic import BaseModel

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from benchmarks.places import Place
from store.urls import parsed_url

POOL = {"pool_size": 10, "max_overflow": 20}


@register_event
class CustomerCreated(DomainEvent):
    """A customer signed up."""

    aggregate_type: str = "Customer"
    customer_id: str
    name: str
    email: str
    type: str


@register_event
class CustomerEmailChanged(DomainEvent):
    """A customer is reached at another address."""

    aggregate_type: str = "Customer"
    customer_id: str
    old_email: str
    new_email: str


@register_event
class CustomerPromoted(DomainEvent):
    """A customer became a VIP."""

    aggregate_type: str = "Customer"
    customer_id: str
    from_type: str
    to_type: str
    reason: str


@register_event
class OrderCreated(DomainEvent):
    """An order was placed."""

    aggregate_type: str = "Order"
    order_id: str
    customer_id: str
    total_amount: str


class CustomerState(BaseModel):
    """What a customer is."""

    customer_id: str
    name: str
    email: str
    type: str
    status: str = "Active"


class Customer(AggregateRoot[CustomerState]):
    """A customer."""

    aggregate_type = "Customer"

    def create(self, command: CreateCustomer) -> None:
        """Refused if the id is taken."""
        if self.version:
            raise ValueError(f"Customer {command.customer_id} exists already.")
        self.create_event(
            CustomerCreated, customer_id=command.customer_id, name=command.name, email=command.email, type="Regular"
        )

    def active(self) -> CustomerState:
        """Return the state of a customer who is active. Raises ValueError."""
        state = self.state
        if state is None or state.status != "Active":
            raise ValueError("The customer does not exist or is deactivated.")
        return state

    def change_email(self, command: ChangeEmail) -> None:
        """Refused unless active."""
        state = self.active()
        if command.email != state.email:
            self.create_event(
                CustomerEmailChanged, customer_id=state.customer_id, old_email=state.email, new_email=command.email
            )

    def promote(self, command: PromoteToVip) -> None:
        """Refused unless active and not a VIP yet."""
        state = self.active()
        if state.type == "Vip":
            raise ValueError(f"Customer {state.customer_id} is a VIP already.")
        self.create_event(
            CustomerPromoted,
            customer_id=state.customer_id,
            from_type=state.type,
            to_type="Vip",
            reason=command.reason,
        )

    def _get_initial_state(self) -> CustomerState | None:
        return None

    def _apply(self, event: DomainEvent) -> None:
        match event:
            case CustomerCreated():
                self._state = CustomerState(
                    customer_id=event.customer_id, name=event.name, email=event.email, type=event.type
                )
            case CustomerEmailChanged():
                self._state = self.active().model_copy(update={"email": event.new_email})
            case CustomerPromoted():
                self._state = self.active().model_copy(update={"type": event.to_type})


class OrderState(BaseModel):
    """What an order is."""

    order_id: str
    customer_id: str
    total_amount: str


class Order(AggregateRoot[OrderState]):
    """An order."""

    aggregate_type = "Order"

    def create(self, command: CreateOrder) -> None:
        """Place it."""
        self.create_event(
            OrderCreated,
            order_id=command.order_id,
            customer_id=command.customer_id,
            total_amount=str(command.total_amount),
        )

    def _get_initial_state(self) -> OrderState | None:
        return None

    def _apply(self, event: DomainEvent) -> None:
        if isinstance(event, OrderCreated):
            self._state = OrderState(
                order_id=event.order_id, customer_id=event.customer_id, total_amount=event.total_amount
            )


class EventsourcePyShop:
    """Decides and saves."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self._customers = AggregateRepository(store, Customer, enable_tracing=False)
        self._orders = AggregateRepository(store, Order, enable_tracing=False)
        self._in_memory: dict[str, Customer] = {}

    @classmethod
    async def opened(cls, place: Place, name: str) -> EventsourcePyShop:
        """Open it on a new database (a new schema) of this name."""
        url = await place.new_url(name)
        if place.server_url is None:
            return cls(SQLiteEventStore(parsed_url(url).path))
        engine = create_async_engine(
            place.server_url.replace("postgresql://", "postgresql+asyncpg://", 1),
            connect_args={"server_settings": {"search_path": name}},
            **POOL,
        )
        return cls(PostgreSQLEventStore(engine, create_schema=True, owns_engine=True))

    async def saved_each(self, commands: Sequence[Command], tasks: int) -> float:
        """Decide and save each command, so many at a time; return the seconds."""
        lanes: list[list[Any]] = [[] for _ in range(tasks)]
        for command in commands:
            customer_id: str = command.customer_id  # type: ignore[attr-defined]
            lanes[zlib.crc32(customer_id.encode()) % tasks].append(command)
        began_s = time.perf_counter()
        await asyncio.gather(*(self._lane(lane) for lane in lanes))
        return time.perf_counter() - began_s

    async def events(self) -> int:
        """Return how many events it has stored."""
        return sum([1 async for _ in self._store.read_all()])

    async def close(self) -> None:
        """Let go of its connections."""
        await self._store.close()

    async def _lane(self, commands: Sequence[Command]) -> None:
        for command in commands:
            match command:
                case CreateOrder():
                    self._in_memory[command.customer_id].active()
                    order = self._orders.create_new(uuid5(NAMESPACE_URL, f"order-{command.order_id}"))
                    order.create(command)
                    await self._orders.save(order)
                case CreateCustomer():
                    customer = self._customers.create_new(uuid5(NAMESPACE_URL, f"customer-{command.customer_id}"))
                    customer.create(command)
                    self._in_memory[command.customer_id] = customer
                    await self._customers.save(customer)
                case ChangeEmail():
                    customer = self._in_memory[command.customer_id]
                    customer.change_email(command)
                    await self._customers.save(customer)
                case PromoteToVip():
                    customer = self._in_memory[command.customer_id]
                    customer.promote(command)
                    await self._customers.save(customer)
                case _:
                    raise TypeError(f"no such command here: {command!r}")
