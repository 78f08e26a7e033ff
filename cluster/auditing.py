"""The audit of read models over all cores: the log is folded shard by shard, as Ray tasks, and compared here.

Not here: what is folded and compared (`projections/auditing.py`).
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ray

from cluster.application import Application
from cluster.replaying import TASK_CPUS, Watcher, keep_result, over_shards
from projections.auditing import Comparison, LiveRows, RowFinding, ShardFold, fold_shard
from projections.read_models import ReadModels
from store.logs import configure_logs
from store.opening import open_store
from store.paging import collecting_rarely
from store.records import Checkpoint
from store.urls import shared_url


@dataclass
class ReadModelAudit:
    """What the audit of one read model came to."""

    projection: str
    rows: int
    """Those that were there."""
    found: int


@dataclass
class ProjectionsAudit:
    """What the audit of read models came to."""

    shards: int = 0
    events: int = 0
    seconds: float = 0.0
    """From the beginning of the shard that ended first to the end of the last comparison."""
    projections: list[ReadModelAudit] = field(default_factory=list)
    findings: list[RowFinding] = field(default_factory=list)
    """The first 1,000."""

    @property
    def found(self) -> int:
        """Findings in all."""
        return sum(each.found for each in self.projections)


async def audit_projections(
    url: str, application: Application, names: Iterable[str], watcher: Watcher
) -> ProjectionsAudit:
    """Fold the log anew and compare it row by row with what is read of projections (none named: all,
    process managers too).

    Changes nothing but what the store says of the last audit of each; a runtime may go on writing: each read model is
    read in one snapshot, and the log is folded as far as the checkpoints in it. What was read is kept in a file beside
    other temporary ones meanwhile. Connects to Ray, or starts it. Raises InvalidValue for an unknown projection,
    ReadModelMissing, ReadModelVersion, NotThisVersion, ReadModelUnavailable, NotAStore, StoreUnavailable,
    RayUnavailable, ShardsLost; what differs is in the result.
    """
    url = shared_url(url)
    projections = [application.projection(name) for name in names] or list(application.read_models)
    total = ProjectionsAudit()
    with tempfile.TemporaryDirectory(prefix="eventray-audit-") as directory:
        live = LiveRows(Path(directory) / "live.db")
        try:
            store = await open_store(url, create=False)
            read_models = ReadModels(url)
            try:
                done = watcher.phase("Reading the read models", len(projections))
                for projection in projections:
                    await live.read(read_models, projection, range(store.shards))
                    done(1)
            finally:
                await read_models.close()
                await store.close()
            comparison = Comparison(live, projections)
            chosen = [projection.name for projection in projections]
            async for each in over_shards(_fold, url, application, watcher, "Folding", chosen, live.checkpoints):
                comparison.add(each.shard)
                total.shards += 1
                total.events += each.shard.events
                total.seconds = each.seconds
            comparison.finish()
        finally:
            live.close()
    total.projections = [ReadModelAudit(name, live.rows[name], comparison.found[name]) for name in chosen]
    total.findings = comparison.findings
    for audit in total.projections:
        await keep_result(url, audit.projection, total.events, audit.found)
    return total


@ray.remote(num_cpus=TASK_CPUS)
def _fold(
    url: str,
    application: Application,
    shards: list[int],
    names: list[str],
    checkpoints: Mapping[str, Mapping[int, Checkpoint]],
) -> list[ShardFold]:
    configure_logs(in_worker=True)
    projections = [application.projection(name) for name in names]

    async def work() -> list[ShardFold]:
        store = await open_store(url, create=False)
        try:
            folding, known = (store, projections, application.registry.events), (checkpoints, _nobody_watches)
            return [await fold_shard(*folding, shard, *known) for shard in shards]
        finally:
            await store.close()

    with collecting_rarely():
        return asyncio.run(work())


def _nobody_watches(more: int) -> None:
    """Progress is told shard by shard: a call for each page would cost more than the page."""
