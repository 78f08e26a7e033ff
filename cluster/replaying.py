"""Replay and audit of a whole store: its shards in parallel, as Ray tasks, and what they found put together.

The one pass of an audit over all snapshots is made here, after the shards: they are far fewer than events, and to look
at one takes far less than to fold it.

Not here: what is done with one shard (`actors/replay.py`, `store/audit.py`,
`actors/snapshot_audit.py`).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import heappop, heappush
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
from store.audit import Finding, ShardAudit, audit_shard, unsupported_snapshots
from store.errors import EventrayError, StoreUnavailable
from store.logs import configure_logs
from store.opening import open_store
from store.records import AuditResult, micros
from store.urls import shared_url

log = structlog.get_logger(__name__)

TASK_CPUS = 0.9
"""What a task claims of Ray: a core, but for what hosts on the same machine claim."""
TASKS_A_CPU = 4
"""So that none waits long for the last ones at the end."""
TASK_EVENTS = 50_000
"""Beside which opening a store, about 15 ms, is nothing, and of which progress is told often enough."""
SHOWN_MAX = 1_000
"""Findings and failures kept in all."""


class ShardsLost(EventrayError):
    """The work on shards {0} was lost: {1}"""

    def __init__(self, shards: str, reason: str) -> None:
        super().__init__(shards, reason)


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

    def add_finding(self, finding: Finding) -> None:
        """Add one that no shard's log shows."""
        self.found += 1
        if len(self.findings) < SHOWN_MAX:
            self.findings.append(finding)


async def replay_store(url: str, application: Application, watcher: Watcher) -> StoreReplay:
    """Fold every aggregate of a store with the application's code. Changes nothing; nobody need hold the store.

    Connects to Ray, or starts it. Raises NotAStore, StoreUnavailable, RayUnavailable, ShardsLost; what can't be folded
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
    total.seconds += await _add_unsupported(url, total, watcher.phase("Looking at the snapshots", None))
    total.findings.sort(key=_place)
    await keep_result(url, "store", total.events, total.found)
    return total


async def _add_unsupported(url: str, total: StoreAudit, done: Callable[[int], None]) -> float:
    """Add the findings of the pass over the snapshots; return how many seconds it took."""
    began_s = time.perf_counter()
    try:
        store = await open_store(shared_url(url), create=False)
        try:
            async for finding in unsupported_snapshots(store, done):
                total.add_finding(finding)
        finally:
            await store.close()
    except StoreUnavailable as error:  # what was found in the log is told in any case
        total.add_finding(Finding("reading", f"the snapshots were not looked at to their end: {error}", None))
    return time.perf_counter() - began_s


def _place(finding: Finding) -> tuple[int, int, str]:
    """Return where a finding comes in a list; those of no shard come first."""
    return (-1 if finding.shard is None else finding.shard, finding.position or 0, finding.stream or "")


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
    """The work on one shard has ended."""

    shard: Any
    """What the task returned."""
    seconds: float
    """Since the first shards were begun."""


async def over_shards(
    task: Any, url: str, application: Application, watcher: Watcher, name: str, *arguments: Any
) -> AsyncIterator[Done]:
    """Run a task for some shards at a time, of URL, application, shards and the arguments; yield what it returns.

    That is a list with one result a shard, which has a `shard` and the `seconds` that it took; whoever ends first comes
    first. Raises ShardsLost, RayUnavailable, and what the tasks raise.
    """
    url = shared_url(url)
    store = await open_store(url, create=False)
    try:
        found = await store.heads()
    finally:
        await store.close()
    heads = {shard: found.get(shard, 0) for shard in range(store.shards)}
    async with AsyncExitStack() as ending:
        await ray_session.connected(None, read_settings(), ending)
        done = watcher.phase(name, sum(heads.values()))
        began_s: float | None = None
        shared = ray.put(application)
        portions = portions_of(heads, await asyncio.to_thread(_cpus))
        references = [task.remote(url, shared, portion, *arguments) for portion in portions]
        waiting = [
            asyncio.ensure_future(_results(portion, reference))
            for portion, reference in zip(portions, references, strict=True)
        ]
        try:
            for each in asyncio.as_completed(waiting):
                results = await each
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


def portions_of(heads: Mapping[int, int], cpus: float) -> list[list[int]]:
    """Share shards out among tasks, each of which opens a store: some for each CPU, of about as many events each.

    More where they would take too long. The long ones come first, so that none is left over at the end.
    """
    count = max(int(TASKS_A_CPU * cpus), sum(heads.values()) // TASK_EVENTS, 1)
    portions = [(0, place, list[int]()) for place in range(min(count, len(heads)))]
    for shard in sorted(heads, key=lambda shard: (-heads[shard], shard)):
        size, place, portion = heappop(portions)
        heappush(portions, (size + heads[shard] + 1, place, [*portion, shard]))
    return [portion for _, _, portion in sorted(portions, reverse=True)]


def _cpus() -> float:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources.get("CPU", 1.0)


async def _results(shards: list[int], reference: Any) -> list[Any]:
    try:
        results: list[Any] = await reference
    except RayError as error:
        if (own := own_error(error)) is not None:
            raise own from error
        raise ShardsLost(", ".join(map(str, sorted(shards))), reason_of(error)) from error
    return results


@ray.remote(num_cpus=TASK_CPUS)
def _replay(url: str, application: Application, shards: list[int]) -> list[ShardReplay]:
    configure_logs(in_worker=True)

    async def work() -> list[ShardReplay]:
        store = await open_store(url, create=False)
        try:
            return [await replay_shard(store, application.registry, shard, _nobody_watches) for shard in shards]
        finally:
            await store.close()

    return asyncio.run(work())


@ray.remote(num_cpus=TASK_CPUS)
def _audit(url: str, application: Application, shards: list[int]) -> list[ShardAudit]:
    configure_logs(in_worker=True)

    async def work() -> list[ShardAudit]:
        store = await open_store(url, create=False)
        try:
            events, beside = application.registry.events, SnapshotAuditor(store, application.registry).findings
            return [await audit_shard(store, events, shard, _nobody_watches, beside) for shard in shards]
        finally:
            await store.close()

    return asyncio.run(work())


def _nobody_watches(more: int) -> None:
    """Progress is told shard by shard: a call for each page would cost more than the page."""
