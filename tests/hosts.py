"""Test tools: a host on a store that can be made to fail, and a client's side of its calls. Not a test itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from actors.commands import Command
from actors.customers import Customer, Order
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.mail import OpenCall
from actors.registry import AggregateRegistry
from actors.wire import Call, CommandMessage, Receipt, pack_call, unpack_answers
from store import EventrayError, EventRecord, EventStore, OutcomeUnknown
from store.forwarding import Forwarding, Keys
from store.identity import shard_of
from store.records import Histories, ShardAppend, Snapshot, versions_restored

REGISTRY = AggregateRegistry([Customer, Order])

Fault = Callable[[Sequence[ShardAppend]], Exception | None]


class FaultyStore(Forwarding):
    """A store whose appends can be held, refused before they begin, or robbed of their reply after they committed."""

    def __init__(self, inner: EventStore) -> None:
        self.inner = inner
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.waiting = asyncio.Event()
        """Set while an append waits at the closed gate."""
        self.before: Fault = lambda _appends: None
        self.after: Fault = lambda _appends: None
        self.appends: list[Sequence[ShardAppend]] = []
        self.errors: list[EventrayError] = []
        """What the store itself refused; a host whose memory is right, and that presumes nothing, causes none."""
        self.lookups: list[Keys] = []
        self.stream_reads: list[set[str]] = []
        self.streams_in_order: list[str] = []
        """Those of `stream_reads`, as they were asked for."""
        self.reads: list[dict[str, int]] = []
        """Versions after which streams were read."""
        self.snapshot_gate = asyncio.Event()
        self.snapshot_gate.set()
        self.before_snapshots: Callable[[], Exception | None] = lambda: None
        self.snapshots: list[Snapshot] = []
        """Those that were written."""

    async def append(self, appends: Sequence[ShardAppend]) -> set[int]:
        self.appends.append(appends)
        if not self.open_gate.is_set():
            self.waiting.set()
            await self.open_gate.wait()
            self.waiting.clear()
        if (error := self.before(appends)) is not None:
            raise error
        try:
            fenced = await self.inner.append(appends)
        except EventrayError as refused:
            self.errors.append(refused)
            raise
        if (error := self.after(appends)) is not None:
            raise error
        return fenced

    async def find_commands(self, keys: Keys) -> dict[tuple[int, str, str], EventRecord]:
        self.lookups.append(keys)
        return await self.inner.find_commands(keys)

    async def read_histories(self, fingerprints: Mapping[str, str | None], limit: int | None = None) -> Histories:
        self.stream_reads.append(set(fingerprints))
        self.streams_in_order += fingerprints
        histories = await self.inner.read_histories(fingerprints, limit)
        self.reads.append(versions_restored(fingerprints, histories.snapshots))
        return histories

    async def write_snapshots(self, snapshots: Collection[Snapshot]) -> None:
        await self.snapshot_gate.wait()
        if (error := self.before_snapshots()) is not None:
            raise error
        self.snapshots += snapshots
        await self.inner.write_snapshots(snapshots)


def once(error: Exception) -> Fault:
    """A fault that strikes the first append and none after it."""
    errors = [error]
    return lambda _appends: errors.pop() if errors else None


def lost_reply() -> OutcomeUnknown:
    return OutcomeUnknown("the connection broke")


class HostUnderTest:
    """A host with all shards of its store, and one client session that talks to it."""

    def __init__(self, core: HostCore, store: FaultyStore, epochs: dict[int, int], registry: AggregateRegistry) -> None:
        self.core, self.store, self.epochs, self.registry = core, store, epochs, registry
        self.published: list[EventRecord] = []
        self.answered: list[tuple[Call, OpenCall]] = []
        self.numbers = 0

    def message(self, command: Command, command_id: str, **fields: Any) -> CommandMessage:
        key = self.registry.bindings[type(command).__name__].partition_key(command)
        defaults: dict[str, Any] = {
            "shard": shard_of(key, self.store.shards),
            "command_type": type(command).__name__,
            "command_id": command_id,
            "first_send": False,
            "data": command.model_dump_json(),
            "expected_version": None,
            "occurred_at": None,
            "patience_ms": 30_000,
            "metadata": "",
        }
        return CommandMessage(**(defaults | fields))

    async def execute(self, *messages: CommandMessage, number: int | None = None) -> list[Receipt | EventrayError]:
        self.numbers += 1
        call = Call("session", self.numbers if number is None else number, self.epochs, list(messages))
        return unpack_answers(await self.core.execute(pack_call(call)))

    async def submit(self, command: Command, command_id: str, **fields: Any) -> Receipt | EventrayError:
        (answer,) = await self.execute(self.message(command, command_id, **fields))
        return answer

    async def log(self) -> list[EventRecord]:
        """Every event of the store, by shard and position."""
        return [r for shard in range(self.store.shards) for r in await self.store.inner.read_shard(shard, 0, 10_000)]


def held(host: HostUnderTest) -> None:
    """Hold the host's next append at the gate."""
    host.store.open_gate.clear()


async def until_held(host: HostUnderTest) -> None:
    """Wait until an append stands at the closed gate."""
    async with asyncio.timeout(5):
        await host.store.waiting.wait()


@asynccontextmanager
async def host_on(
    inner: EventStore, name: str = "host-1", limits: HostLimits | None = None, registry: AggregateRegistry = REGISTRY
) -> AsyncIterator[HostUnderTest]:
    """Take the store, assign all its shards to one host and claim them; yields the HostUnderTest."""
    store = FaultyStore(inner)
    generation = await inner.take(f"test of {name}")
    everything = dict.fromkeys(range(inner.shards), name)
    await inner.assign(generation, everything)
    records: list[EventRecord] = []
    calls: list[tuple[Call, OpenCall]] = []
    core = HostCore(name, store, registry, limits or HostLimits(), records.extend, lambda *call: calls.append(call))
    core.start()
    host = HostUnderTest(core, store, await core.claim(everything), registry)
    host.published, host.answered = records, calls
    try:
        yield host
    finally:
        store.open_gate.set()
        store.before = store.after = lambda _appends: None
        async with asyncio.timeout(10):
            await core.stop()
        await inner.release(generation)
