"""A lone command's latency beside what it can't do without, in turns: one empty Ray actor call, one durable commit.

Not here: latency under load (`latency.py`).
"""

from __future__ import annotations

import statistics
import time
from decimal import Decimal
from typing import Any

import ray

from actors import Command
from actors.customers import ChangeEmail, CreateCustomer, CreateOrder
from benchmarks.one_row import one_row_commit_p50_ms
from benchmarks.places import Place
from benchmarks.reporting import percentile
from cluster import Runtime

LONE_COMMANDS = 200
"""Of each kind."""
ROUNDS = 10
"""The lone commands and what they are held against take turns, so that a noisy moment hits all of them."""
CALL_BYTES = 300


class Empty:
    """An actor that does nothing: what a Ray call costs by itself."""

    async def nothing(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload


async def measure_lone(runtime: Runtime, place: Place, name: str) -> dict[str, float]:
    """Return latencies in ms of a lone command, an empty Ray actor call and a durable one-row commit.

    The lone command goes to a customer in memory; a lone order has a new stream, for which the log is asked first. It
    adds `LONE_COMMANDS` of each kind to the log, and one customer.
    """
    actor: Any = ray.remote(Empty).options(num_cpus=0).remote()
    await actor.nothing.remote(b"")
    command_ms, order_ms, call_ms, commit_ms = [], [], [], []
    await runtime.submit(CreateCustomer(customer_id="lone", name="Lone", email="lone@example.com"))
    per_round = LONE_COMMANDS // ROUNDS
    for this_round in range(ROUNDS):
        for number in range(per_round):
            change = ChangeEmail(customer_id="lone", email=f"lone-{this_round}-{number}@example.com")
            command_ms.append(await _ms(runtime, change))
        for number in range(per_round):
            order = CreateOrder(order_id=f"lone-{this_round}-{number}", customer_id="lone", total_amount=Decimal(1))
            order_ms.append(await _ms(runtime, order))
        for _ in range(per_round):
            started = time.perf_counter()
            await actor.nothing.remote(b"x" * CALL_BYTES)
            call_ms.append((time.perf_counter() - started) * 1000)
        commit_ms.append(await one_row_commit_p50_ms(place, f"{name}_lone_{this_round}", per_round))
    ray.kill(actor)
    command, call, commit = map(statistics.median, (command_ms, call_ms, commit_ms))
    return {
        "lone_command_p50_ms": command,
        "lone_command_p99_ms": percentile(command_ms, 0.99),
        "lone_order_p50_ms": statistics.median(order_ms),
        "lone_order_p99_ms": percentile(order_ms, 0.99),
        "empty_ray_call_p50_ms": call,
        "one_row_commit_p50_ms": commit,
        "lone_command_over_call_plus_commit": command / (call + commit),
    }


async def _ms(runtime: Runtime, command: Command) -> float:
    started = time.perf_counter()
    await runtime.submit(command)
    return (time.perf_counter() - started) * 1000
