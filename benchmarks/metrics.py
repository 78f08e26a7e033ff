"""What counting costs a host: the CPU time of metric calls beside that of the commands that they count.

A host without Ray takes packed calls on a SQLite store; what it asks of the store and each answered call are kept. Then
the same is given to the meters alone, on a store that answers from memory, and once more without meters: the
difference is the meters' time. Not here: throughput (`commands.py`).
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from actors.customers import Customer, Order
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.mail import OpenCall
from actors.registry import AggregateRegistry
from actors.wire import Call, CommandMessage, pack_call
from benchmarks.load import workload
from cluster.metrics.host import HostCounts
from store import EventStore, open_store
from store.forwarding import Forwarding
from store.identity import shard_of
from store.records import Histories, ShardAppend

REGISTRY = AggregateRegistry([Customer, Order])
CUSTOMERS_SHARE = 10
RUNS, REPEATS = 2, 5
"""Of the host and of the replay; the least CPU time counts."""


class Recorded(NamedTuple):
    """What one host did."""

    cpu_s: float
    """Of the whole process meanwhile, its store's threads included."""
    calls: list[tuple[Call, OpenCall]]
    appends: list[tuple[Sequence[ShardAppend], set[int]]]
    reads: list[tuple[Mapping[str, str | None], Histories]]


class RecordingStore(Forwarding):
    """Keeps what the busiest operations got and gave."""

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.appends: list[tuple[Sequence[ShardAppend], set[int]]] = []
        self.reads: list[tuple[Mapping[str, str | None], Histories]] = []

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        fenced = await self.inner.append(appends)
        self.appends.append((appends, fenced))
        return fenced

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        found = await self.inner.read_histories(fingerprints, limit)
        self.reads.append((fingerprints, found))
        return found


class AnsweringStore(Forwarding):
    """Gives again what another store gave."""

    def __init__(self, recorded: Recorded) -> None:
        self._appends = iter([fenced for _, fenced in recorded.appends])
        self._reads = iter([found for _, found in recorded.reads])

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        return next(self._appends)

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        return next(self._reads)


async def record(commands: int, batch_size: int, under_way: int, directory: Path) -> Recorded:
    """Let a host decide so many commands, `batch_size` in a call and `under_way` calls at a time."""
    directory.mkdir()  # noqa: ASYNC240 - nothing else goes on
    store = RecordingStore(await open_store(f"sqlite:///{directory}/host.db"))
    generation = await store.take("a benchmark")
    await store.assign(generation, dict.fromkeys(range(store.shards), "host-1"))
    calls: list[tuple[Call, OpenCall]] = []
    core = HostCore("host-1", store, REGISTRY, HostLimits(), lambda _: None, lambda *call: calls.append(call))
    core.start()
    packed = list(_packed(commands, batch_size, store.shards, await core.claim(range(store.shards))))
    waiting, began_s = iter(packed), time.process_time()

    async def submit_some() -> None:
        for call in waiting:
            await core.execute(call)

    await asyncio.gather(*(submit_some() for _ in range(under_way)))
    cpu_s = time.process_time() - began_s
    await core.stop()
    await store.release(generation)
    await store.close()
    return Recorded(cpu_s, calls, store.appends, store.reads)


def _packed(commands: int, batch_size: int, shards: int, epochs: dict[int, int]) -> Iterator[bytes]:
    work = itertools.islice(workload(max(1, commands // CUSTOMERS_SHARE), CUSTOMERS_SHARE), commands)
    messages = []
    for number, command in enumerate(work):
        name = type(command).__name__
        shard = shard_of(REGISTRY.bindings[name].partition_key(command), shards)
        data = command.model_dump_json()
        messages.append(CommandMessage(shard, name, f"k-{number}", True, data, None, None, 30_000, ""))
    for number, start in enumerate(range(0, len(messages), batch_size)):
        yield pack_call(Call(f"session-{number}", 1, epochs, messages[start : start + batch_size]))


async def replayed_s(recorded: Recorded, metered: bool) -> float:
    """Return the CPU time of giving all that to the meters, or of the same without them."""
    counts = HostCounts(REGISTRY.bindings)
    answering = AnsweringStore(recorded)
    store = counts.around(answering) if metered else answering
    began_s = time.thread_time()
    for appends, _ in recorded.appends:
        await store.append(appends)
    for fingerprints, _ in recorded.reads:
        await store.read_histories(fingerprints)
    if metered:
        for call in recorded.calls:
            counts.answered(*call)
    return time.thread_time() - began_s


async def measure(commands: int, batch_size: int, under_way: int, directory: Path) -> dict[str, float]:
    """Return the CPU time of a host and of its meters, in ms for 1,000 commands."""
    runs = [await record(commands, batch_size, under_way, Path(directory, str(run))) for run in range(RUNS)]
    recorded = min(runs, key=lambda run: run.cpu_s)
    with_meters = min([await replayed_s(recorded, True) for _ in range(REPEATS)])
    without = min([await replayed_s(recorded, False) for _ in range(REPEATS)])
    meters_s = with_meters - without
    return {
        "commands": commands,
        "commands_per_call": batch_size,
        "commands_per_append": commands / len(recorded.appends),
        "host_cpu_ms_per_1000": recorded.cpu_s / commands * 1e6,
        "meters_cpu_ms_per_1000": meters_s / commands * 1e6,
        "meters_share_percent": 100 * meters_s / recorded.cpu_s,
    }


def main() -> None:
    """Measure big calls, small ones and single commands; print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--commands", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.commands < 1_000:
        parser.error(f"--commands {arguments.commands}: give 1000 or more")
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="eventray-bench-") as directory:
        for batch_size, under_way, share in ((500, 2, 1), (20, 2, 1), (1, 1, 10)):
            place = Path(directory, str(batch_size))
            place.mkdir()
            work = measure(arguments.commands // share, batch_size, under_way, place)
            results.append(asyncio.run(work))
    if arguments.json:
        print(json.dumps(results))
        return
    for result in results:
        print("  ".join(f"{name} {value:,.2f}" for name, value in result.items()))


if __name__ == "__main__":
    main()
