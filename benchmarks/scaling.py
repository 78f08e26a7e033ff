"""What a command costs as hosts and nodes are added: one runtime on local nodes, scaled up, measured at each size.

Loads and rests take turns. What a load costs, less what the same processes take at rest in as much time, is its
commands' cost; what they take at rest is their standing cost. Not here: the arguments and the nodes' beginning and end
(`scale.py`), the arithmetic for larger clusters (`ceilings.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import asyncpg
import ray

from benchmarks.accounting import Census, by_role, take_census
from benchmarks.counting import RayCall, Transactions, calls_between, ray_calls, transactions_of
from benchmarks.load import Load, submit_all, workload
from benchmarks.processes import cpu_s_between, cpu_s_of
from benchmarks.reporting import spread
from cluster import Runtime
from cluster.lag import catch_up
from cluster.starting import until_all_serve
from projections.customers import CustomerProjection
from store.urls import parsed_url

COMMANDS_PER_CUSTOMER = 6
WARM_UP_SHARE = 0.2
TOLD_AFTER_S = 1.5
"""After so long Ray's control store has heard of all calls."""


class Plan(NamedTuple):
    """What is measured at each size."""

    commands: int
    in_flight_per_host: int
    repeats: int
    rest_s: float


class Size(NamedTuple):
    """How large the runtime is."""

    hosts: int
    nodes: int


class Window(NamedTuple):
    """A span of time, and what was done in it."""

    began_s: float
    """Since 1970."""
    ended_s: float
    cpu_s: dict[str, float]
    """By label."""
    transactions: Transactions
    wal_bytes: int
    """Of PostgreSQL's log; 0 on SQLite."""

    @property
    def seconds(self) -> float:
        return self.ended_s - self.began_s


class Watch:
    """Watches all processes of a runtime while something is done."""

    def __init__(self, runtime: Runtime, url: str, census: Census) -> None:
        self._runtime, self._url, self._census = runtime, url, census

    async def during(self, work: Callable[[], Awaitable[Any]]) -> Window:
        """Return what was done meanwhile. What watching itself takes is not in it."""
        transactions_before, wal_before = await self._transactions(), await self._wal_position()
        began_s, cpu_before = time.time(), self._census.cpu_s()
        await work()
        cpu_after, ended_s = self._census.cpu_s(own_first=True), time.time()
        done = (await self._transactions()).since(transactions_before)
        cpu_s = self._census.by_label(cpu_s_between(cpu_before, cpu_after))
        return Window(began_s, ended_s, cpu_s, done, await self._wal_position() - wal_before)

    async def _transactions(self) -> Transactions:
        return await transactions_of(await self._runtime.status())

    async def _wal_position(self) -> int:
        if parsed_url(self._url).scheme == "sqlite":
            return 0
        session = await asyncpg.connect(self._url)
        try:
            return int(await session.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn"))
        finally:
            await session.close()


async def measure_size(runtime: Runtime, url: str, size: Size, plan: Plan) -> dict[str, Any]:
    """Measure one size of a runtime that has it; return the point."""
    in_flight = plan.in_flight_per_host * size.hosts
    names = (f"{size.hosts}-{in_flight}-{number}-" for number in itertools.count())
    await until_all_serve(runtime.status)
    await _load(runtime, url, next(names), int(plan.commands * WARM_UP_SHARE), in_flight)
    census = await take_census((await runtime.status()).store_id, url)
    watch = Watch(runtime, url, census)
    rests, loads, rates, fixed_work_us = [], [], [], []

    async def rest() -> None:
        await asyncio.sleep(plan.rest_s)

    async def load() -> None:
        done = await _load(runtime, url, next(names), plan.commands, in_flight)
        rates.append(done.accepted / done.seconds)

    rests.append(await watch.during(rest))
    for _ in range(plan.repeats):
        loads.append(await watch.during(load))
        fixed_work_us.append(measure_fixed_work_us())
        rests.append(await watch.during(rest))
    await asyncio.sleep(TOLD_AFTER_S)
    point = {**size._asdict(), "in_flight": in_flight, "commands_per_s": spread(rates)}
    point["fixed_work_us"] = median(fixed_work_us)
    point |= figures_of(loads, rests, await ray_calls(), plan.commands)
    point["processes"] = dict(sorted(census.processes().items()))
    if census.server is not None:
        point["sessions"] = census.server.sessions
    return point


def measure_fixed_work_us() -> float:
    """Return the CPU time of what is always the same work: it tells how fast the machine was just then."""
    began_s = time.thread_time()
    for number in range(2_000):
        json.loads(json.dumps({"customer_id": f"c-{number}", "amounts": [number, number + 1]}))
    return (time.thread_time() - began_s) * 1e6 / 2_000


class Empty:
    """An actor that does nothing: what a Ray call costs by itself."""

    async def nothing(self, payload: bytes) -> bytes:
        """Return the payload."""
        return payload

    async def pid(self) -> int:
        """Return its process."""
        return os.getpid()


async def measure_call(calls: int = 600, under_way: int = 2) -> dict[str, float]:
    """Return the CPU time of an empty Ray call, in microseconds, of who calls and of who is called."""
    actor: Any = ray.remote(Empty).options(num_cpus=0).remote()
    pids = {"caller_us": os.getpid(), "callee_us": await actor.pid.remote()}

    async def call_on(times: int) -> None:
        for _ in range(times):
            await actor.nothing.remote(b"x" * 300)

    await call_on(calls // 10)
    before = {name: sum(cpu_s_of(pid).values()) for name, pid in pids.items()}
    await asyncio.gather(*(call_on(calls // under_way) for _ in range(under_way)))
    after = {name: sum(cpu_s_of(pid).values()) for name, pid in pids.items()}
    ray.kill(actor)
    return {name: (after[name] - before[name]) / calls * 1e6 for name in pids}


async def _load(runtime: Runtime, url: str, name: str, commands: int, in_flight: int) -> Load:
    """Submit commands, and wait for the read model. Raises SystemExit where one fails."""
    customers = max(1, commands // COMMANDS_PER_CUSTOMER)
    work = itertools.islice(workload(customers, COMMANDS_PER_CUSTOMER, name), commands)
    done = await submit_all(runtime, work, in_flight)
    if done.failures:
        sys.exit(f"commands failed: {dict(done.failures)}")
    await catch_up(runtime, url, CustomerProjection, f"{name}c-0", done.last_receipts)
    return done


def figures_of(
    loads: Sequence[Window], rests: Sequence[Window], calls: Sequence[RayCall], commands: int
) -> dict[str, Any]:
    """Return what windows of `commands` commands each, and those at rest beside them, come to."""
    standing = {label: median(rest.cpu_s.get(label, 0.0) / rest.seconds for rest in rests) for label in _labels(rests)}
    costs = [_cost_us(load, standing, commands) for load in loads]
    per_role = [by_role(cost) for cost in costs]
    per_1000 = 1000 / commands
    made = [calls_between(calls, load.began_s, load.ended_s) for load in loads]
    executed = [sum(n for method, n in each.items() if method.endswith(".execute")) for each in made]
    at_rest = sum((calls_between(calls, rest.began_s, rest.ended_s) for rest in rests), start=type(made[0])())
    rested_s = sum(rest.seconds for rest in rests)
    return {
        "commands": commands,
        "cpu_us_per_command": {
            **{role: spread([cost[role] for cost in per_role]) for role in per_role[0]},
            "all": spread([sum(cost.values()) for cost in per_role]),
        },
        "cpu_us_per_command_by_thread": {
            label: median(cost.get(label, 0.0) for cost in costs) for label in _labels(loads)
        },
        "ray_calls_per_1000": {m: median(each[m] * per_1000 for each in made) for m in sorted(set().union(*made))},
        "transactions_per_1000": {
            operation: median(load.transactions.counts[operation] * per_1000 for load in loads)
            for operation in sorted(set().union(*(load.transactions.counts for load in loads)))
        },
        "commands_per_call": median(commands / max(1, each) for each in executed),
        "commands_per_append": median(commands / max(1, load.transactions.counts["append"]) for load in loads),
        "append_us_per_command": median(load.transactions.append_s / commands * 1e6 for load in loads),
        "wal_bytes_per_command": median(load.wal_bytes / commands for load in loads),
        "standing_cpu_ms_per_s": {role: 1000 * value for role, value in by_role(standing).items()},
        "standing_cpu_ms_per_s_by_thread": {label: 1000 * value for label, value in standing.items()},
        "standing_ray_calls_per_s": {method: n / rested_s for method, n in sorted(at_rest.items())},
    }


def _cost_us(load: Window, standing: Mapping[str, float], commands: int) -> dict[str, float]:
    """Return the CPU time of a command by label, in microseconds, beyond what the same processes take at rest."""
    return {
        label: max(0.0, seconds - standing.get(label, 0.0) * load.seconds) / commands * 1e6
        for label, seconds in load.cpu_s.items()
    }


def _labels(windows: Sequence[Window]) -> list[str]:
    return sorted(set().union(*(window.cpu_s for window in windows)))
