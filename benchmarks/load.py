"""Mixed commands, and submitting them: a bounded number in flight, or so many in a second.

Not here: what is made of the figures.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Protocol

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder, PromoteToVip
from actors.wire import Receipt
from benchmarks.latencies import Latencies
from store.errors import EventrayError

GC_THRESHOLDS = (20_000, 20, 20)
TICK_S = 0.002
"""How often it is seen which commands are due."""


class Submits(Protocol):
    """Whatever takes commands; a `Runtime` does."""

    async def submit(self, command: Command, /) -> Receipt:
        """Return the receipt once it is stored. Raises EventrayError where it is not accepted."""
        ...


@dataclass(slots=True)
class Load:
    """What submitting saw."""

    latencies: Latencies = field(default_factory=Latencies)
    """Of the commands that were accepted."""
    failures: Counter[str] = field(default_factory=Counter)
    """Commands that were not, by the name of the error."""
    last_receipts: dict[int, Receipt] = field(default_factory=dict)
    """By shard."""
    seconds: float = 0.0

    @property
    def accepted(self) -> int:
        """How many commands were accepted."""
        return self.latencies.counts.total()

    async def submit(self, runtime: Submits, command: Command, since_s: float) -> None:
        """Submit a command and see what becomes of it, how long after `since_s` on the clock of `perf_counter`."""
        try:
            receipt = await runtime.submit(command)
        except EventrayError as error:
            self.failures[type(error).__name__] += 1
            return
        self.latencies.add(time.perf_counter() - since_s)
        self.note(receipt)

    def note(self, receipt: Receipt) -> None:
        """Keep a receipt if it is the last one of its shard."""
        last = self.last_receipts.get(receipt.shard)
        if last is None or last.position < receipt.position:
            self.last_receipts[receipt.shard] = receipt


def workload(customers: int, commands_per_customer: float, prefix: str = "", seed: int = 1) -> Iterator[Command]:
    """Yield mixed commands without end, none of which will be refused; always the same for a seed.

    One in `commands_per_customer` is a creation, until there are so many customers. Their ids begin with `prefix`.
    """
    chance = random.Random(seed)
    created: list[str] = []
    vips: set[str] = set()
    for number in itertools.count():
        if len(created) * commands_per_customer <= number and len(created) < customers:
            customer_id = f"{prefix}c-{len(created)}"
            created.append(customer_id)
            yield CreateCustomer(customer_id=customer_id, name=f"Customer {number}", email=f"{customer_id}@example.com")
            continue
        customer_id, kind = chance.choice(created), chance.random()
        if kind < 0.1 and customer_id not in vips:
            vips.add(customer_id)
            yield PromoteToVip(customer_id=customer_id, reason="benchmark")
        elif kind < 0.25:
            yield ChangeEmail(customer_id=customer_id, email=f"{customer_id}-{number}@example.com")
        else:
            amount = Decimal(chance.randrange(10_000)) / 100
            yield CreateOrder(order_id=f"{prefix}o-{number}", customer_id=customer_id, total_amount=amount)


def spare_collector() -> None:
    """Let Python's collector pass by what is there by now, all that Ray and its imports have made, and look rarely.

    Going through all of it takes a driver 80 ms and more, every few seconds under load; looking at each 700 new
    objects, as it does by default, takes 3 percent of its time. A driver that counts milliseconds does this once its
    runtime is open (docs/performance.md).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def submit_all(runtime: Submits, commands: Iterator[Command], in_flight: int) -> Load:
    """Submit commands to their end, `in_flight` at a time."""
    load = Load()

    async def submit_some() -> None:
        for command in commands:
            await load.submit(runtime, command, time.perf_counter())

    started = time.perf_counter()
    await asyncio.gather(*(submit_some() for _ in range(in_flight)))
    load.seconds = time.perf_counter() - started
    return load


async def submit_paced(runtime: Submits, commands: Iterator[Command], rate: float, seconds: float) -> Load:
    """Submit commands at a rate for a while, whatever becomes of the earlier ones; return once all are answered.

    A command's latency counts from when it was due, so that nothing is left out where this program comes late with it.
    """
    load, tasks = Load(), set[asyncio.Task[None]]()

    started_s, sent = time.perf_counter(), 0
    while (now_s := time.perf_counter() - started_s) < seconds:
        for _ in range(int(now_s * rate) - sent):
            task = asyncio.create_task(load.submit(runtime, next(commands), started_s + (sent + 1) / rate))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(TICK_S)
    await asyncio.gather(*tasks)
    load.seconds = time.perf_counter() - started_s
    return load
