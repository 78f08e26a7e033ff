"""The peer `eventsourcing` deciding the commands that we decide: customers and orders, each change an event.

As its own documentation and speed runs use it: an `Application`, a repository, `save`. With its cache of aggregates it
neither looks for newer events nor copies what it hands out (both are there for other writers and for careless
commands, and there are none). On PostgreSQL many threads may save; on SQLite they only take turns. Not here: folding,
and the settings of its databases (`peer.py`).
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip

CACHE = {"AGGREGATE_CACHE_MAXSIZE": "0", "AGGREGATE_CACHE_FASTFORWARD": "n", "DEEPCOPY_FROM_AGGREGATE_CACHE": "n"}
"""0: without bound."""


class Customer(Aggregate):
    """A customer."""

    @event("CustomerCreated")
    def __init__(self, customer_id: str, name: str, email: str, type: str) -> None:  # noqa: A002
        self.customer_id, self.name, self.email, self.type, self.status = customer_id, name, email, type, "Active"

    @staticmethod
    def create_id(customer_id: str) -> UUID:
        """The id that follows from the customer's."""
        return uuid5(NAMESPACE_URL, f"customer-{customer_id}")

    def require_active(self) -> None:
        """Raise ValueError for one that is not."""
        if self.status != "Active":
            raise ValueError(f"Customer {self.customer_id} is deactivated.")

    def change_email(self, email: str) -> None:
        """Refused unless active."""
        self.require_active()
        if email != self.email:
            self._email_changed(self.customer_id, self.email, email)

    def promote(self, reason: str) -> None:
        """Refused unless active and not a VIP yet."""
        self.require_active()
        if self.type == "Vip":
            raise ValueError(f"Customer {self.customer_id} is a VIP already.")
        self._promoted(self.customer_id, self.type, "Vip", reason)

    @event("CustomerEmailChanged")
    def _email_changed(self, customer_id: str, old_email: str, new_email: str) -> None:
        self.email = new_email

    @event("CustomerPromoted")
    def _promoted(self, customer_id: str, from_type: str, to_type: str, reason: str) -> None:
        self.type = to_type


class Order(Aggregate):
    """An order."""

    @event("OrderCreated")
    def __init__(self, order_id: str, customer_id: str, total_amount: Decimal) -> None:
        self.order_id, self.customer_id, self.total_amount = order_id, customer_id, total_amount

    @staticmethod
    def create_id(order_id: str) -> UUID:
        """The id that follows from the order's."""
        return uuid5(NAMESPACE_URL, f"order-{order_id}")


class EventsourcingShop:
    """Decides and saves."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._application: Any = Application(env=settings)

    def saved_each(self, commands: Sequence[Command], threads: int = 1) -> float:
        """Get what each command is for, decide, save; return the seconds. Each thread has customers of its own."""
        lanes: list[list[Any]] = [[] for _ in range(threads)]
        for command in commands:
            customer_id: str = command.customer_id  # type: ignore[attr-defined]
            lanes[zlib.crc32(customer_id.encode()) % threads].append(command)
        with ThreadPoolExecutor(threads) as pool:
            began_s = time.perf_counter()
            list(pool.map(self._save_each, lanes))
            return time.perf_counter() - began_s

    def _save_each(self, commands: Sequence[Command]) -> None:
        for command in commands:
            self._application.save(self._decided(command, {}))

    def saved_in_batches(self, commands: Sequence[Command], size: int) -> float:
        """Decide so many commands, save what they changed in one transaction, and so on; return the seconds."""
        began_s = time.perf_counter()
        for start in range(0, len(commands), size):
            at_hand: dict[str, Customer] = {}
            decided = [self._decided(command, at_hand) for command in commands[start : start + size]]
            self._application.save(*{aggregate.id: aggregate for aggregate in decided}.values())
        return time.perf_counter() - began_s

    def events(self) -> int:
        """Return how many events it has stored."""
        return int(self._application.recorder.max_notification_id() or 0)

    def close(self) -> None:
        """Let go of its connections."""
        self._application.close()

    def _decided(self, command: Command, at_hand: dict[str, Customer]) -> Aggregate:
        """Return what a command has changed. `at_hand` are the customers of this batch; those it needs are added."""
        match command:
            case CreateCustomer():
                customer = Customer(command.customer_id, command.name, command.email, "Regular")
                at_hand[command.customer_id] = customer
                return customer
            case CreateOrder():
                self._customer(command.customer_id, at_hand).require_active()
                return Order(command.order_id, command.customer_id, command.total_amount)
            case ChangeEmail():
                customer = self._customer(command.customer_id, at_hand)
                customer.change_email(command.email)
                return customer
            case PromoteToVip():
                customer = self._customer(command.customer_id, at_hand)
                customer.promote(command.reason)
                return customer
            case _:
                raise TypeError(f"no such command here: {command!r}")

    def _customer(self, customer_id: str, at_hand: dict[str, Customer]) -> Customer:
        found = at_hand.get(customer_id)
        if found is None:
            found = self._application.repository.get(Customer.create_id(customer_id))
            at_hand[customer_id] = found
        return found
