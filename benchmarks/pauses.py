"""How long a shard can't be served: `python -m benchmarks.pauses [--store postgres] [--json]`.

On every shard commands follow one another, each sent as soon as the last one is answered; the longest time between two
answers is the shard's pause. Hosts are killed, stopped (SIGSTOP), and their number is changed, so that shards move.
Printed are the pauses of the shards concerned, and of the others. Also: whether any command failed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Iterable
from contextlib import redirect_stdout, suppress
from typing import Any

import ray
from ray._private.state import actors

from actors.customers import ChangeEmail, CreateCustomer
from benchmarks.places import place
from cluster import Runtime
from cluster.ray_edge import namespace_of
from store.errors import EventrayError
from store.identity import shard_of
from store.opening import open_store
from store.ports import EventStore

BEAT_S = 0.01
"""Between an answer and the next command of a shard."""
CALM_S = 1.0
"""How long all shards must have been served without a pause before something is done to them."""
CALM_WITHIN_S = 90.0


class Pulse:
    """Commands without end on every shard, and when each was answered."""

    def __init__(self, runtime: Runtime, shards: int) -> None:
        self.answered_s: list[list[float]] = [[] for _ in range(shards)]
        """By shard, on the clock of `time.perf_counter`."""
        self.failures: Counter[str] = Counter()
        self._runtime = runtime
        self._beating: list[asyncio.Task[None]] = []

    async def begin(self) -> None:
        """Create a customer on each shard, and begin."""
        shards = len(self.answered_s)
        keys: dict[int, str] = {}
        for number in itertools.count():
            keys.setdefault(shard_of(f"pulse-{number}", shards), f"pulse-{number}")
            if len(keys) == shards:
                break
        for key in keys.values():
            await self._runtime.submit(CreateCustomer(customer_id=key, name="Pulse", email="a@example.com"))
        self._beating = [asyncio.create_task(self._beat(shard, key)) for shard, key in keys.items()]

    async def end(self) -> None:
        """Take no further command; those under way are waited for."""
        for beating in self._beating:
            beating.cancel()
        await asyncio.gather(*self._beating, return_exceptions=True)

    def pause_s(self, shard: int, since_s: float) -> float:
        """Return the longest time between two answers of a shard, the later of them after `since_s`."""
        answered = self.answered_s[shard]
        first = next((i for i, at_s in enumerate(answered) if at_s > since_s), len(answered))
        times = [*answered[max(0, first - 1) :], time.perf_counter()]
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    async def calm(self) -> None:
        """Wait until every shard is answered regularly; end the program where the machine is too busy for that."""
        begun_s = time.perf_counter()
        while True:
            await asyncio.sleep(0.1)
            if time.perf_counter() - begun_s > CALM_WITHIN_S:
                raise SystemExit(f"no second without a pause in {CALM_WITHIN_S:g} s: something else uses this machine")
            since_s = time.perf_counter() - CALM_S
            if since_s > begun_s and all(self.pause_s(shard, since_s) < 0.3 for shard in range(len(self.answered_s))):
                return

    async def answered_since(self, since_s: float, shards: Collection[int]) -> None:
        """Wait until each of these shards has had an answer after that time."""
        for shard in shards:
            while not self.answered_s[shard] or self.answered_s[shard][-1] < since_s:  # noqa: ASYNC110 - a measurement
                await asyncio.sleep(0.02)

    async def _beat(self, shard: int, key: str) -> None:
        for number in itertools.count():
            try:
                await self._runtime.submit(ChangeEmail(customer_id=key, email=f"{number}@example.com"))
            except EventrayError as error:
                self.failures[type(error).__name__] += 1
            self.answered_s[shard].append(time.perf_counter())
            await asyncio.sleep(BEAT_S)


class Pauses:
    """What was seen, by what was done."""

    def __init__(self) -> None:
        self.concerned_s: dict[str, list[float]] = {}
        self.others_s: dict[str, list[float]] = {}

    def note(self, what: str, pulse: Pulse, since_s: float, concerned: Collection[int]) -> None:
        """Take in the pauses since then, apart for the shards concerned."""
        for shard in range(len(pulse.answered_s)):
            kept = self.concerned_s if shard in concerned else self.others_s
            kept.setdefault(what, []).append(pulse.pause_s(shard, since_s))

    def figures(self) -> dict[str, Any]:
        """Return quantiles in ms."""
        return {
            what: {"shards": _quantiles_ms(concerned_s), "other_shards": _quantiles_ms(self.others_s.get(what, []))}
            for what, concerned_s in self.concerned_s.items()
        }


def _quantiles_ms(pauses_s: Iterable[float]) -> dict[str, float]:
    ordered = sorted(pauses_s)
    if not ordered:
        return {}
    return {
        "count": len(ordered),
        "p50": round(ordered[len(ordered) // 2] * 1000),
        "p95": round(ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))] * 1000),
        "max": round(ordered[-1] * 1000),
    }


async def measure(url: str, hosts: int, shards: int, rounds: int) -> dict[str, Any]:
    """Kill, stop and scale, some rounds of each; return the pauses and what failed."""
    store = await open_store(url, shards)
    pauses = Pauses()
    async with Runtime.open(url, hosts=hosts, shards=shards) as runtime:
        pulse = Pulse(runtime, shards)
        await pulse.begin()
        for _ in range(rounds):
            for what, number in (("killed", signal.SIGKILL), ("stopped", signal.SIGSTOP)):
                await pulse.calm()
                await _end_one(store, runtime, pulse, pauses, what, number)
            for what, count in (("moved to a new host", hosts + 1), ("moved off a host that leaves", hosts)):
                await pulse.calm()
                await noted(store, pulse, pauses, what, lambda count=count: runtime.scale(count))  # type: ignore[misc]
        await pulse.calm()
        await pulse.end()
    await store.close()
    return {"store": url.partition(":")[0], "hosts": hosts, "shards": shards, "rounds": rounds} | {
        "pauses_ms": pauses.figures(),
        "failures": dict(pulse.failures),
        "commands": sum(map(len, pulse.answered_s)),
    }


async def _end_one(
    store: EventStore, runtime: Runtime, pulse: Pulse, pauses: Pauses, what: str, number: signal.Signals
) -> None:
    """Kill or stop one host, and wait until all is as it was."""
    victim = (await runtime.status()).hosts[0]
    pid, concerned = await pid_of(store, str(victim.name)), set(victim.shards)
    since_s = time.perf_counter()
    os.kill(pid, number)
    await pulse.answered_since(since_s + 0.05, concerned)
    pauses.note(what, pulse, since_s, concerned)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)
    await runtime.rebalance()


async def pid_of(store: EventStore, host: str) -> int:
    """The OS process of a host."""
    handle: Any = ray.get_actor(host, namespace=namespace_of(store.store_id))
    return int(actors(actor_id=handle._actor_id.hex())["Pid"])


async def noted(store: EventStore, pulse: Pulse, pauses: Pauses, what: str, work: Callable[[], Awaitable[Any]]) -> None:
    """Do something that moves shards, and note their pauses: those whose epochs have risen have moved."""
    before = await store.routes()
    since_s = time.perf_counter()
    await work()
    await asyncio.sleep(0.2)
    moved = {now.shard for now, then in zip(await store.routes(), before, strict=True) if now.epoch > then.epoch}
    pauses.note(what, pulse, since_s, moved)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pauses", description=__doc__)
    parser.add_argument("--store", default="sqlite", help="sqlite (default), postgres or a PostgreSQL URL")
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()

    async def whole() -> dict[str, Any]:
        with place(arguments.store, None) as found:
            figures = await measure(await found.new_url("pauses"), arguments.hosts, arguments.shards, arguments.rounds)
            return figures | {"measured_on": await found.describe()}

    with redirect_stdout(sys.stderr):  # Ray tells of each process that is killed
        figures = asyncio.run(whole())
    if arguments.json:
        print(json.dumps(figures))
        return 0
    print(f"{figures['commands']:,} commands on {figures['shards']} shards, failures: {figures['failures'] or 'none'}")
    for what, seen in figures["pauses_ms"].items():
        print(f"{what:>30}: {seen['shards']} ms; other shards: {seen['other_shards']} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main())
