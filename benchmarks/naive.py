"""One Ray actor for each customer, beside many in one host: `python -m benchmarks.naive [--customers 50] [--json]`.

The naive form has the same aggregates decide the same commands, and stores the same rows in the same tables of an
SQLite store, each command in a transaction of its own that is synced to the disk. It has nothing else to do: no
projection, no fencing, no look-up of ids, no metrics, no failover. Commands a second, memory and start-up are measured
of both, first ours, then the naive one, each alone. Linux only. Not here: how much 100,000 customers in a host take
(`memory.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import logging
import os
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, redirect_stdout
from pathlib import Path
from typing import Any

import ray

from actors import Aggregate, Command
from actors.customers import Customer, Order
from actors.registry import AggregateRegistry
from actors.wire import Receipt
from benchmarks.accounting import take_census
from benchmarks.load import Load, Submits, submit_all, workload
from benchmarks.machine import describe
from benchmarks.processes import available_mb, check_linux, memory_mb_of
from benchmarks.reporting import spread
from cluster import Runtime
from cluster.ray_session import search_path_for_workers
from cluster.starting import until_all_serve
from store.identity import shard_of, uuid7
from store.opening import open_store
from store.records import EventRecord
from store.sqlite_file import SqliteFile
from store.urls import parsed_url

ACTOR_MB = 120
"""What there must be room for, for each actor."""
CUSTOMERS_MAX = 200
BUSY_TIMEOUT_S = 60
"""How long an actor waits for the others to let go of the file: longer than the store's, so that none fails."""
ADVANCE = "UPDATE shards SET head = head + ? WHERE shard = ? RETURNING head - ?"
INSERT = f"INSERT INTO events VALUES ({', '.join('?' * len(EventRecord._fields))})"


class CustomerActor:
    """One customer with its orders: its state, and a connection of its own to the store."""

    def __init__(self, url: str, shards: int) -> None:
        self._registry = AggregateRegistry([Customer, Order])
        self._shards = shards
        self._connection = SqliteFile(url, Path(parsed_url(url).path)).connect()
        self._connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_S * 1000}")
        self._live: dict[str, Aggregate] = {}

    def pid(self) -> int:
        """Return its process."""
        return os.getpid()

    def submit(self, command: Command, command_id: str) -> Receipt:
        """Decide a command; return once its events are on the disk."""
        binding = self._registry.check_command(command)
        key = binding.partition_key(command)
        aggregate = self._of(binding.aggregate_class, binding.aggregate_id(command))
        binding.decide(aggregate, command, [self._of(read, key) for read in binding.reads])
        events, shard = aggregate.uncommitted_events, shard_of(key, self._shards)
        metadata, now = f'{{"command_id":"{command_id}"}}', time.time_ns() // 1000
        self._connection.execute("BEGIN IMMEDIATE")
        ((head,),) = self._connection.execute(ADVANCE, (len(events), shard, len(events))).fetchall()
        for number, event in enumerate(events, 1):
            place = (shard, head + number, aggregate.stream, event.version, key, uuid7().bytes)
            content = (event.event_type, event.schema_version, self._registry.events.encode(event), metadata)
            self._connection.execute(INSERT, (*place, *content, command_id if number == 1 else None, None, now))
        self._connection.execute("COMMIT")
        aggregate.mark_committed()
        self._live[aggregate.stream] = aggregate
        return Receipt(command_id, aggregate.stream, aggregate.version, shard, head + len(events), "", False)

    def _of(self, aggregate_class: type[Aggregate], aggregate_id: str) -> Aggregate:
        return self._live.get(f"{aggregate_class.category}-{aggregate_id}") or aggregate_class(aggregate_id)


class NaiveRuntime:
    """As many actors as customers."""

    def __init__(self, url: str, shards: int, customers: Sequence[str]) -> None:
        actor_class: Any = ray.remote(num_cpus=0)(CustomerActor)
        self._actors = {each: actor_class.remote(url, shards) for each in customers}

    async def pids(self) -> list[int]:
        """Return all processes, once all have begun."""
        return list(await asyncio.gather(*(actor.pid.remote() for actor in self._actors.values())))

    async def submit(self, command: Command) -> Receipt:
        """Have a command decided by its customer's actor."""
        actor = self._actors[getattr(command, "customer_id")]  # noqa: B009 - each of the workload's has it
        receipt: Receipt = await actor.submit.remote(command, str(uuid7()))
        return receipt

    def close(self) -> None:
        """End all actors."""
        for actor in self._actors.values():
            ray.kill(actor)


async def measure_naive(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure the naive form on a new store."""
    store = await open_store(url)
    shards = store.shards
    await store.close()
    began_s = time.perf_counter()
    runtime = NaiveRuntime(url, shards, [f"c-{number}" for number in range(arguments.customers)])
    try:
        pids = await runtime.pids()
        start_s = time.perf_counter() - began_s
        loads = await _loads(runtime, arguments)
        return _figures(start_s, loads, pids) | {"events": _check(url, loads)}
    finally:
        runtime.close()


async def measure_ours(url: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a runtime of one host on a new store; its projection and metrics are on."""
    began_s = time.perf_counter()
    async with Runtime.open(url) as runtime:
        await until_all_serve(runtime.status)
        start_s = time.perf_counter() - began_s
        loads = await _loads(runtime, arguments)
        census = await take_census((await runtime.status()).store_id, url)
        figures = _figures(start_s, loads, census.actors())
    return figures | {"events": _check(url, loads)}


async def _loads(runtime: Submits, arguments: argparse.Namespace) -> list[Load]:
    """Create all customers, then submit for some seconds, some times. Raises SystemExit where a command fails."""
    commands = workload(arguments.customers, 1, seed=2)
    first = await submit_all(runtime, itertools.islice(commands, arguments.customers), arguments.in_flight)
    loads = [first]  # all customers are created first
    while len(loads) <= arguments.repeats:
        loads.append(await submit_all(runtime, _for_a_while(commands, arguments.seconds), arguments.in_flight))
    if failures := sum((load.failures for load in loads), start=type(first.failures)()):
        sys.exit(f"commands failed: {dict(failures)}")
    return loads


def _for_a_while(commands: Iterator[Command], seconds: float) -> Iterator[Command]:
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield next(commands)


def _figures(start_s: float, loads: Sequence[Load], pids: Sequence[int]) -> dict[str, Any]:
    memory = [memory_mb_of(pid) for pid in pids]
    return {
        "start_s": start_s,
        "processes": len(pids),
        "pss_mb": sum(each["pss"] for each in memory),
        "rss_mb": sum(each["rss"] for each in memory),
        "commands_per_s": spread([load.accepted / load.seconds for load in loads[1:]]),
        "latency_p50_ms": spread([load.latencies.quantile_s(0.5) * 1000 for load in loads[1:]]),
        "latency_p99_ms": spread([load.latencies.quantile_s(0.99) * 1000 for load in loads[1:]]),
    }


def _check(url: str, loads: Sequence[Load]) -> int:
    """Return how many events the log has. Raises SystemExit unless it is one for each accepted command."""
    with closing(sqlite3.connect(parsed_url(url).path)) as log:
        (events,) = log.execute("SELECT count(*) FROM events").fetchone()
    accepted = sum(load.accepted for load in loads)
    if events != accepted:
        sys.exit(f"the log has {events} events, and {accepted} commands were accepted")
    return int(events)


async def measure(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure both, on the Ray that this process is connected to; return the figures of each, and the ratios."""
    ours = await measure_ours(f"sqlite:///{(directory / 'ours.db').absolute()}", arguments)
    naive = await measure_naive(f"sqlite:///{(directory / 'naive.db').absolute()}", arguments)
    rates = ours["commands_per_s"]["median"], naive["commands_per_s"]["median"]
    return {
        "customers": arguments.customers,
        "in_flight": arguments.in_flight,
        "seconds": arguments.seconds,
        "ours": ours,
        "naive": naive,
        "ours_over_naive": {
            "commands_per_s": rates[0] / rates[1],
            "pss": ours["pss_mb"] / naive["pss_mb"],
            "start": ours["start_s"] / naive["start_s"],
        },
    }


def read_arguments() -> argparse.Namespace:
    """Parse the arguments, checked: also that there is room for so many processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.naive", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--customers", type=int, default=50, help=f"at most {CUSTOMERS_MAX}: each is a process")
    parser.add_argument("--in-flight", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if not 1 <= arguments.customers <= CUSTOMERS_MAX:
        parser.error(f"--customers {arguments.customers}: give 1 to {CUSTOMERS_MAX}, since each is a process")
    if arguments.in_flight < 1 or arguments.seconds <= 0 or arguments.repeats < 1:
        parser.error("--in-flight, --seconds, --repeats: give more than 0")
    if available_mb() < (needed := arguments.customers * ACTOR_MB):
        parser.error(f"--customers {arguments.customers}: {needed} MB of free memory are needed; give fewer")
    return arguments


def run(arguments: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Measure on a Ray begun for this."""
    with search_path_for_workers():
        ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        return asyncio.run(measure(arguments, directory))
    finally:
        ray.shutdown()


def main() -> None:
    """Parse the arguments, measure, print."""
    check_linux()
    arguments = read_arguments()
    with tempfile.TemporaryDirectory(prefix="eventray-bench-") as directory:
        with redirect_stdout(sys.stderr):  # Ray warns of so many actors
            figures = run(arguments, Path(directory))
        measured_on = describe(Path(directory))
    if arguments.json:
        print(json.dumps(figures | {"measured_on": measured_on}))
        return
    for form in ("ours", "naive"):
        print(f"{form}:")
        for name, value in figures[form].items():
            number = value["median"] if isinstance(value, dict) else value
            print(f"  {name:20} {number:,.1f}")
    print(", ".join(f"{name}: {value:,.2f} times" for name, value in figures["ours_over_naive"].items()))


if __name__ == "__main__":
    main()
