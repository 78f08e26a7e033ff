"""All that is to be known of a store and the runtime on it: from SQL, and from the coordinator if there is one.

Starts nothing, and holds nothing. Not here: how it is shown (`cli/status.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

import ray

from cluster.application import Application
from cluster.metrics.follower import projection_of
from cluster.ray_edge import COORDINATOR, NoCoordinator, RayTransport, ask, namespace_of
from cluster.status import RuntimeStatus
from projections.errors import ReadModelMissing, ReadModelUnavailable
from projections.host import ProjectionHealth
from projections.outbox import Outbox
from projections.outbox_sql import NOTHING_SENT, OutboxState
from projections.process_manager import ProcessManager
from projections.progress import Lag
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.sampling import AuditState
from store.errors import InvalidValue
from store.identity import shard_of
from store.opening import open_store
from store.ports import EventStore
from store.taking import Holding
from store.urls import shown_url

ANSWER_WITHIN_S = 5.0


class ShardStatus(NamedTuple):
    """One shard, as the store has it."""

    shard: int
    host: str | None
    """Who is to serve it; None: nobody."""
    epoch: int
    head: int
    """Position of its last event; 0: none."""


class SubscriberStatus(NamedTuple):
    """One projection's progress."""

    name: str
    behind: int
    """Events of the log that it has not taken yet."""
    shards_behind: int
    begun: bool
    """Whether it has ever run on this store."""
    followed: bool
    """Whether a process of the runtime says that it follows it; False also where no runtime could be asked."""
    trouble: str
    """What keeps it from taking events, in a shard or at all, as the runtime's processes tell it."""


class HandlerStatus(NamedTuple):
    """One handler: its progress by the store, and how it is by the runtime."""

    name: str
    behind: int
    """Events of the log that it has not taken yet; 0 where it has never begun."""
    begun: bool
    """Whether it has ever run on this store."""
    parked: int
    """Partition keys that are parked."""
    off: str | None
    """Why it does nothing in the runtime; empty: it is on. None: no process that follows the log could be asked."""
    failure: str
    """Why it takes nothing at all, or nothing of shards that were given to it; empty: no process says so."""
    standing: dict[int, str]
    """Shards that stand still, and what each waits for."""
    handled: int = 0
    """Events that it took since the runtime's processes began; this and what follows is 0 without a runtime."""
    failed: int = 0
    """Attempts that failed."""
    skipped: int = 0
    """Events that were left out after their last attempt."""
    stuck: int = 0
    """Calls that were given up and have not returned."""


class ProcessManagerStatus(NamedTuple):
    """One process manager's progress, and what became of its commands."""

    progress: SubscriberStatus
    outbox: OutboxState


class StreamPlace(NamedTuple):
    """Where one aggregate lives."""

    stream: str
    partition_key: str
    shard: int
    epoch: int
    host: str | None
    node: str | None
    """The address of the host's node, where a coordinator tells it."""


class Overview(NamedTuple):
    """What `eventray status` tells."""

    store: str
    """Its URL, without a password."""
    store_id: str
    holding: Holding
    runtime: RuntimeStatus | None
    """None: none can be asked; `unreached` says why."""
    unreached: str
    shards: list[ShardStatus]
    subscribers: list[SubscriberStatus]
    handlers: list[HandlerStatus]
    audits: list[AuditState]
    """What the standing audit of read models has come to, in each process of the runtime that follows the log."""
    process_managers: list[ProcessManagerStatus]
    place: StreamPlace | None
    """Of the stream that was asked for."""


class OverviewReader:
    """Reads overviews of one store, again and again."""

    def __init__(self, url: str, application: Application, store: EventStore, stream: str | None) -> None:
        self._url = url
        self._application = application
        self._store = store
        self._stream = stream
        self._read_models = ReadModels(url)

    @classmethod
    async def open(
        cls, url: str, application: Application, stream: str | None, ending: AsyncExitStack
    ) -> OverviewReader:
        """Open the store; it is closed by `ending`. Raises NotAStore and the like, and InvalidValue for the stream."""
        if stream is not None:
            application.registry.aggregate_of(stream)
        store = await open_store(url, create=False)
        ending.push_async_callback(store.close)
        reader = cls(url, application, store, stream)
        ending.push_async_callback(reader._read_models.close)
        return reader

    async def read(self, on_ray: bool) -> Overview:
        """Return how all is now. `on_ray`: this process is connected to the Ray where the runtime may be."""
        runtime, unreached = await self._ask_runtime() if on_ray else (None, "no Ray is to be joined")
        heads = await self._store.heads()
        shards = [ShardStatus(*route, heads[route.shard]) for route in await self._store.routes()]
        healths = await self._healths(runtime) if runtime else []
        lags = [lag for health in healths for lag in health.lags]
        subscribers = [await self._progress(projection, heads, lags) for projection in self._application.projections]
        handlers = await self._handlers(heads, healths)
        place = None if self._stream is None else await self._place(self._stream, shards, runtime)
        return Overview(
            store=shown_url(self._url),
            store_id=self._store.store_id,
            holding=await self._store.holding(),
            runtime=runtime,
            unreached=unreached,
            shards=shards,
            subscribers=subscribers,
            handlers=handlers,
            audits=[audit for health in healths for audit in health.audits],
            process_managers=[await self._managed(each, heads, healths) for each in self._application.process_managers],
            place=place,
        )

    async def _ask_runtime(self) -> tuple[RuntimeStatus | None, str]:
        namespace = namespace_of(self._store.store_id)
        try:
            coordinator: Any = await asyncio.to_thread(ray.get_actor, COORDINATOR, namespace=namespace)
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await ask(coordinator, ANSWER_WITHIN_S, "status"), ""
        except ValueError:
            return None, "no runtime on this store is at this Ray"
        except (TimeoutError, NoCoordinator) as error:
            return None, str(error) or f"its coordinator does not answer within {ANSWER_WITHIN_S:g} s"

    async def _healths(self, runtime: RuntimeStatus) -> list[ProjectionHealth]:
        """Ask those that follow the log how they are; who doesn't answer is left out."""
        transport = RayTransport(namespace_of(self._store.store_id))
        names = [each.name for each in runtime.projection_hosts if each.name is not None]
        asked = [asyncio.wait_for(transport.ask(name, "health"), ANSWER_WITHIN_S) for name in names]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        return [answer for answer in answers if isinstance(answer, ProjectionHealth)]

    async def _handlers(self, heads: dict[int, int], healths: list[ProjectionHealth]) -> list[HandlerStatus]:
        """One handler may run in several processes, each for some shards."""
        parked = await self._store.parked_counts()
        found = []
        for name in [handler.name for handler in self._application.handlers]:
            positions = {shard: place.position for shard, place in (await self._store.checkpoints(name)).items()}
            behind = sum(heads[shard] - position for shard, position in positions.items())
            states = [state for health in healths for state in health.handlers if state.handler == name]
            lags = [lag for health in healths for lag in health.lags if lag.subscriber == name]
            standing = {shard: reason for lag in lags for shard, reason in lag.blocked.items()}
            off = max((state.off for state in states), default=None)
            failure = next((lag.failure for lag in lags if lag.failure), "")
            keys = parked[name].keys if name in parked else 0
            told = HandlerStatus(name, behind, bool(positions), keys, off, failure, standing)
            counts = {
                count: sum(getattr(state, count) for state in states)
                for count in ("handled", "failed", "skipped", "stuck")
            }
            found.append(told._replace(**counts))
        return found

    async def _progress(
        self, projection: type[Projection], heads: dict[int, int], lags: Sequence[Lag]
    ) -> SubscriberStatus:
        try:
            positions = await self._read_models.positions(projection)
        except (ReadModelMissing, ReadModelUnavailable):
            positions = {}
        behind = [head - positions.get(shard, 0) for shard, head in heads.items()]
        own = [lag for lag in lags if projection_of(lag.subscriber) == projection.name]
        troubles = [trouble for lag in own for trouble in (lag.failure, *lag.blocked.values()) if trouble]
        return SubscriberStatus(
            projection.name,
            sum(behind),
            sum(count > 0 for count in behind),
            bool(positions),
            followed=bool(own),
            trouble=next(iter(troubles), ""),
        )

    async def _managed(
        self, manager: type[ProcessManager], heads: dict[int, int], healths: Sequence[ProjectionHealth]
    ) -> ProcessManagerStatus:
        progress = await self._progress(manager, heads, [lag for health in healths for lag in health.lags])
        relays = [
            each for health in healths for each in health.process_managers if each.process_manager == manager.name
        ]
        unsent = next((f"it sends no command: {each.failure}" for each in relays if each.failure), "")
        progress = progress._replace(trouble=progress.trouble or unsent)
        try:
            return ProcessManagerStatus(progress, await Outbox(self._read_models, manager).state())
        except (ReadModelMissing, ReadModelUnavailable):
            return ProcessManagerStatus(progress, NOTHING_SENT)

    async def _place(self, stream: str, shards: list[ShardStatus], runtime: RuntimeStatus | None) -> StreamPlace:
        """Say where a stream is. Its first event knows its partition key; without one, its id may be the key."""
        events = await self._store.read_stream(stream, 0, 1)
        aggregate_class = self._application.registry.aggregate_of(stream)
        if events:
            key = events[0].partition_key
        elif aggregate_class.partition_key_field == aggregate_class.id_field:
            key = stream.partition("-")[2]
        else:
            field = aggregate_class.partition_key_field
            raise InvalidValue(
                "stream", stream, f"it has no events, so its {field}, which says where it is, is not known"
            )
        shard = shards[shard_of(key, len(shards))]
        hosts = {each.name: each.node for each in runtime.hosts} if runtime else {}
        nodes = {node.node_id: node.address for node in runtime.nodes} if runtime else {}
        return StreamPlace(stream, key, shard.shard, shard.epoch, shard.host, nodes.get(hosts.get(shard.host) or ""))
