"""Replay and audit of a whole store: its shards in parallel, as Ray tasks, and what they found put together.

Not here: what is done with one shard (`actors/replay.py`, `store/audit.py`,
`actors/snapshot_audit.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

import ray
import structlog
from ray.exceptions import RayError

from actors.replay import Failure, ShardReplay, replay_shard
from actors.snapshot_audit import SnapshotAuditor
from cluster import ray_session
from cluster.application import Application
from cluster.ray_edge import own_error, reason_of
from cluster.settings import read_settings
from store.audit import Finding, ShardAudit, audit_shard
from store.errors import EventrayError, StoreUnavailable
from store.logs import configure_logs
from store.opening import open_store
from store.records import AuditResult, micros
from store.urls import shared_url

log = structlog.get_logger(__name__)

TASK_CPUS = 0.9
"""What a task claims of Ray: a core, but for what hosts on the same machine claim."""
SHOWN_MAX = 1_000
"""Findings and failures kept in all."""


class ShardLost(EventrayError):
    """The work on shard {0} was lost: {1}"""

    def __init__(self, shard: int, reason: str) -> None:
        super().__init__(shard, reason)


class Watcher(Protocol):
    """Shows how far long work is."""

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a phase; the returned function hears how many more are done."""
        ...


@dataclass
class StoreReplay:
    """What the replay of a store came to."""

    shards: int = 0
    events: int = 0
    aggregates: int = 0
    types: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    """From the beginning of the shard that ended first to the end of the last: the start of Ray is not counted."""
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def events_per_s(self) -> float:
        """Events folded in a second, by all tasks together."""
        return self.events / self.seconds if self.seconds else 0.0

    def add(self, shard: ShardReplay) -> None:
        """Add what one shard came to."""
        self.shards += 1
        self.events += shard.events
        self.aggregates += shard.aggregates
        self.types.update(shard.types)
        self.failed += shard.failed
        self.failures += shard.failures[: SHOWN_MAX - len(self.failures)]


@dataclass
class StoreAudit:
    """What the audit of a store came to."""

    shards: int = 0
    events: int = 0
    seconds: float = 0.0
    found: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, shard: ShardAudit) -> None:
        """Add what one shard came to."""
        self.shards += 1
        self.events += shard.events
        self.found += shard.found
        self.findings += shard.findings[: SHOWN_MAX - len(self.findings)]


async def replay_store(url: str, application: Application, watcher: Watcher) -> StoreReplay:
    """Fold every aggregate of a store with the application's code. Changes nothing; nobody need hold the store.

    Connects to Ray, or starts it. Raises NotAStore, StoreUnavailable, RayUnavailable, ShardLost; what can't be folded
    is in the result.
    """
    total = StoreReplay()
    async for result in over_shards(_replay, url, application, watcher, "Replaying"):
        total.add(result.shard)
        total.seconds = result.seconds
    return total


async def audit_store(url: str, application: Application, watcher: Watcher) -> StoreAudit:
    """Audit every shard of a store; nobody need hold the store. Raises what `replay_store` does.

    Changes nothing but what the store says of its last audit, which the exporter shows.
    """
    total = StoreAudit()
    async for result in over_shards(_audit, url, application, watcher, "Auditing"):
        total.add(result.shard)
        total.seconds = result.seconds
    total.findings.sort(key=lambda finding: (finding.shard, finding.position or 0))
    await keep_result(url, "store", total.events, total.found)
    return total


async def keep_result(url: str, audit: str, events: int, found: int) -> None:
    """Let a store know what an audit came to; where it can't be written, that is only logged."""
    try:
        store = await open_store(shared_url(url), create=False)
        try:
            await store.keep_audit(AuditResult(audit, micros(datetime.now(UTC)), events, found))
        finally:
            await store.close()
    except StoreUnavailable as error:
        log.warning("the result of an audit was not kept in the store", audit=audit, reason=str(error))


@dataclass(frozen=True)
class Done:
    """One shard's task has ended."""

    shard: Any
    """What the task returned."""
    seconds: float
    """Since the first shard was begun."""


async def over_shards(
    task: Any, url: str, application: Application, watcher: Watcher, name: str, *arguments: Any, events_min: int = 0
) -> AsyncIterator[Done]:
    """Run a task for each shard, of URL, application, shard and the arguments; yield what they return, as they end.

    That has a `shard` and the `seconds` that it took. With `events_min` a task gets a list of shards that have as many
    events together, and returns a list. Raises ShardLost, RayUnavailable, and what the tasks raise.
    """
    url = shared_url(url)
    store = await open_store(url, create=False)
    try:
        found = await store.heads()
    finally:
        await store.close()
    heads = {shard: found.get(shard, 0) for shard in range(store.shards)}
    due = await asyncio.to_thread(ray_session.connect, None, read_settings())
    try:
        done = watcher.phase(name, sum(heads.values()))
        began_s: float | None = None
        # The long ones first, so that none is left over at the end.
        order = sorted(heads, key=lambda shard: (-heads[shard], shard))
        bundles = [[shard] for shard in order] if not events_min else _bundles(order, heads, events_min)
        shared = ray.put(application)
        references = [
            task.remote(url, shared, bundle if events_min else bundle[0], *arguments) for bundle in bundles
        ]  # fmt: skip
        waiting = [
            asyncio.ensure_future(_result(bundle[0], reference))
            for bundle, reference in zip(bundles, references, strict=True)
        ]
        try:
            for each in asyncio.as_completed(waiting):
                answer = await each
                results = answer if events_min else [answer]
                now_s = time.perf_counter()
                began_s = began_s or now_s - sum(result.seconds for result in results)
                for result in results:
                    done(heads[result.shard])
                    yield Done(result, now_s - began_s)
        finally:
            for each_waiting, reference in zip(waiting, references, strict=True):
                if not each_waiting.done():
                    each_waiting.cancel()
                    ray.cancel(reference, force=True)
            await asyncio.gather(*waiting, return_exceptions=True)
    finally:
        if due:
            await asyncio.to_thread(ray_session.disconnect)


def _bundles(order: Sequence[int], heads: Mapping[int, int], events_min: int) -> list[list[int]]:
    """Put shards together until they have so many events."""
    bundles: list[list[int]] = [[]]
    for shard in order:
        if sum(heads[each] for each in bundles[-1]) >= events_min:
            bundles.append([])
        bundles[-1].append(shard)
    return bundles


async def _result(shard: int, reference: Any) -> Any:
    try:
        return await reference
    except RayError as error:
        if (own := own_error(error)) is not None:
            raise own from error
        raise ShardLost(shard, reason_of(error)) from error


@ray.remote(num_cpus=TASK_CPUS)
def _replay(url: str, application: Application, shard: int) -> ShardReplay:
    configure_logs(in_worker=True)

    async def work() -> ShardReplay:
        store = await open_store(url, create=False)
        try:
            return await replay_shard(store, application.registry, shard, _nobody_watches)
        finally:
            await store.close()

    return asyncio.run(work())


@ray.remote(num_cpus=TASK_CPUS)
def _audit(url: str, application: Application, shard: int) -> ShardAudit:
    configure_logs(in_worker=True)

    async def work() -> ShardAudit:
        store = await open_store(url, create=False)
        try:
            registry = application.registry
            snapshots = SnapshotAuditor(store, registry)
            return await audit_shard(store, registry.events, shard, _nobody_watches, snapshots.findings)
        finally:
            await store.close()

    return asyncio.run(work())


def _nobody_watches(more: int) -> None:
    """Progress is told shard by shard: a call for each page would cost more than the page."""
