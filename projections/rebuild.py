"""Filling a build of a read model from the log, as fast as it goes, and letting it take over.

What was filled stays filled, whatever ends the process: a rebuild goes on at its checkpoints. Not here: spreading it
over processes (`cluster/rebuilding.py`), builds in SQL (`builds.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from projections.errors import ReadModelMissing, ReadModelUnavailable, RebuildStopped
from projections.issuing import Issuing
from projections.progress import Progress, SubscriberLimits
from projections.projection import Projection
from projections.projection_sink import RebuildSink
from projections.read_models import ReadModels
from projections.subscriber import Subscriber
from projections.tables import Build
from store.codec import EventRegistry
from store.ports import EventReader

LIMITS = SubscriberLimits(batch_size_max=20_000)
ATTEMPTS_MAX = 10
"""How often a step is tried, and how often a build tries to come as far as the live one, which is held meanwhile."""

GIVEN_UP = "another version is filled instead, by a rebuild or a runtime that has it"


async def fill(
    store: EventReader,
    read_models: ReadModels,
    projection: type[Projection],
    events: EventRegistry,
    build: Build,
    shards: Iterable[int],
    progress: Callable[[int], None],
    issuing: Issuing | None = None,
) -> None:
    """Fill a build with all that the log of these shards holds; `progress` hears how many more events are done.

    `issuing`: of a process manager. What the live build has acted on is not acted on again.

    Raises RebuildStopped at an event that can't be applied and where the build was given up meanwhile, and what the
    store and the read models raise.
    """
    sink = RebuildSink(read_models, projection, events, build, issuing)
    subscriber = Subscriber(store, sink, shards, start=issuing.start if issuing else "beginning", limits=LIMITS)
    # On SQLite all that fill it take turns to write, and one that has waited long enough is told that it is in use.
    tries = AsyncRetrying(
        retry=retry_if_exception_type(ReadModelUnavailable),
        wait=wait_random_exponential(0.05, max=2),
        stop=stop_after_attempt(ATTEMPTS_MAX),
        reraise=True,
    )
    try:
        await subscriber.start()
        more = True
        while more:
            done: Progress = await tries(subscriber.step)
            more = done.more
            progress(done.applied)
            if blocked := subscriber.lag().blocked:
                raise RebuildStopped(projection.name, next(iter(blocked.values())))
    except ReadModelMissing as error:
        raise RebuildStopped(projection.name, GIVEN_UP) from error


async def finish(
    store: EventReader,
    read_models: ReadModels,
    projection: type[Projection],
    events: EventRegistry,
    build: Build,
    issuing: Issuing | None = None,
) -> None:
    """Fill a build with what has come since, and let it take over. Raises what `fill` does."""
    shards = range(store.shards)
    for attempt in range(ATTEMPTS_MAX):
        await fill(store, read_models, projection, events, build, shards, _nobody_watches, issuing)
        try:
            if not await read_models.take_over(projection, build):
                return
        except ReadModelMissing as error:
            raise RebuildStopped(projection.name, GIVEN_UP) from error
        await asyncio.sleep(0.1 * attempt)
        await read_models.hold(projection)
    raise RebuildStopped(projection.name, "the live one is always further: try again when there is less to write")


def _nobody_watches(more: int) -> None:
    """The last few events are not worth a bar."""
