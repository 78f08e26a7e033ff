"""How often things happen in a runtime: Ray calls, as Ray itself records them, and transactions, as metrics do.

Not here: CPU time (`accounting.py`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from ray._private.state import state
from ray.core.generated.common_pb2 import ACTOR_TASK  # type: ignore[attr-defined]

from cluster.metrics.counting import Samples, unpack_samples
from cluster.metrics.definitions import APPENDED_EVENTS, APPLY_SECONDS, STORE_SECONDS, Metric
from cluster.ray_edge import COORDINATOR, RayTransport, namespace_of
from cluster.status import RuntimeStatus


class RayCall(NamedTuple):
    """One call of an actor's method."""

    method: str
    """`HostProcess.execute`."""
    began_s: float
    """When it was made, in seconds since 1970."""


class Transactions(NamedTuple):
    """What the processes of a runtime have done in SQL since they began, each operation a transaction."""

    counts: Counter[str]
    """By the store's operation, and `apply` for those on read models."""
    append_s: float
    """How long hosts have waited for appends."""
    events: int
    """That were appended."""

    def since(self, before: Transactions) -> Transactions:
        """Return what came after an earlier look."""
        return Transactions(
            self.counts - before.counts, self.append_s - before.append_s, self.events - before.events
        )  # fmt: skip


async def transactions_of(status: RuntimeStatus) -> Transactions:
    """Ask all processes of a runtime for their counts."""
    transport = RayTransport(namespace_of(status.store_id))
    places = [each.name for each in (*status.hosts, *status.projection_hosts) if each.name is not None]
    packed = await asyncio.gather(*(transport.ask(name, "metrics") for name in (COORDINATOR, *places)))
    return transactions_in([unpack_samples(each) for each in packed])


def transactions_in(processes: Iterable[Samples]) -> Transactions:
    """Add up what processes have counted."""
    counts: Counter[str] = Counter()
    append_s, events = 0.0, 0
    for samples in processes:
        for (operation,), times, seconds in _histogram(samples, STORE_SECONDS):
            counts[operation] += times
            append_s += seconds if operation == "append" else 0.0
        counts["apply"] += sum(times for _, times, _ in _histogram(samples, APPLY_SECONDS))
        events += sum(
            int(value) for value in samples.get(APPENDED_EVENTS, {}).values() if isinstance(value, int | float)
        )
    return Transactions(counts, append_s, events)


async def ray_calls() -> list[RayCall]:
    """Return the calls of actors' methods that Ray remembers: some 100,000, each a second after it was made."""
    return calls_in(await asyncio.to_thread(state._get_all_task_events))


def calls_in(task_events: Iterable[Any]) -> list[RayCall]:
    """Return the calls among what Ray has recorded of tasks, whatever name a call was given for the dashboard."""
    found = []
    for task in task_events:
        times_ns = task.state_updates.state_ts_ns.values()
        if task.task_info.type == ACTOR_TASK and times_ns:
            found.append(RayCall(task.task_info.func_or_class_name, min(times_ns) / 1e9))
    return found


def calls_between(calls: Sequence[RayCall], began_s: float, ended_s: float) -> Counter[str]:
    """Count the calls of a span of time by their method."""
    return Counter(call.method for call in calls if began_s <= call.began_s < ended_s)


def _histogram(samples: Samples, metric: Metric) -> list[tuple[tuple[str, ...], int, float]]:
    """Return labels, number of observations, and their sum."""
    rows = samples.get(metric, {})
    return [
        (labels, int(sum(value[1:])), value[0]) for labels, value in rows.items() if isinstance(value, list)
    ]  # fmt: skip
