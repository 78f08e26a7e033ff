"""What a coordinator does: it holds the store, beats, and keeps the runtime as it is wanted.

Ray-free: processes are made and asked through ports. The truth is in SQL; this only decides, so a coordinator that
comes back begins with the store, and goes on with the processes that are there. Not here: Ray (`coordinator.py`), what
is done to keep the runtime so (`stewarding.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from cluster.exporting import ExporterPlace, Exporters
from cluster.followed import ProjectionProcesses
from cluster.ownership import Answer, HostProcesses, while_it_may_pass
from cluster.placement import check_hosts
from cluster.places import cancelled
from cluster.settings import Settings
from cluster.status import Moving, ProcessStatus, RuntimeStatus
from cluster.stewarding import Nodes, Steward
from cluster.supervision import ProcessLost, Supervisor
from store.errors import EventrayError, StoreUnavailable, Superseded
from store.ports import EventStore

log = structlog.get_logger(__name__)

POLLS_A_LOOK_FOR_STRAYS = 5


class NotSettled(EventrayError):
    """The runtime is not as it is wanted yet, after {0} s: {1}. It goes on trying."""

    def __init__(self, waited_s: float, reason: str) -> None:
        super().__init__(waited_s, reason)


class Coordination:
    """One coordinator's work, from taking the store to giving it back."""

    def __init__(
        self,
        store: EventStore,
        hosts: HostProcesses,
        projections: ProjectionProcesses,
        nodes: Nodes,
        settings: Settings,
        detached: bool = False,
        exporters: Exporters | None = None,
    ) -> None:
        """`detached` is only told. `exporters` None: metrics are not served."""
        self._store = store
        self._ports = (hosts, projections, nodes)
        self._settings = settings
        self._detached = detached
        self._exporters = exporters
        self._exporter: ExporterPlace | None = None
        self._generation = 0
        self._steward: Steward | None = None
        self._running: list[asyncio.Task[None]] = []
        self._beat_task: asyncio.Task[None] | None = None
        self._beat_ending = asyncio.Event()
        self._over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def projection_hosts(self) -> dict[str, list[int]]:
        """The processes that follow the log for projections and handlers, and the shards of each."""
        return self._steward.followed.by_host() if self._steward else {}

    async def start(self, holder: str, hosts: int | None = None) -> None:
        """Take the store and bring up all processes; returns once they serve.

        `hosts` is how many are wanted; None: as many as the store says, or one. Where `holder` has the store already,
        it is a coordinator that came back: then the store's number counts, the processes that are there stay at work,
        and it returns before others are made. Raises StoreHeld, Superseded, and whatever keeps the first processes
        from serving; then `abandon` is due.
        """
        before, kept = await self._store.holding(), await self._store.hosts_wanted()
        self._generation = await self._patiently(lambda: self._store.take(holder))
        self._beat_task = self._spawn(self._beat())
        self._steward = steward = Steward(
            self._store, *self._ports, self._settings, self._generation, self._spawn
        )  # fmt: skip
        if before.holder == holder and not before.released and kept is not None:
            await steward.resume(kept, await self._store.routes())
        else:
            wanted = hosts or min(kept or 1, self._store.shards)
            await self._patiently(lambda: self._store.want_hosts(self._generation, wanted))
            await self._end_former()
            await self._or_over(steward.begin(wanted))
        self._running = [self._spawn(steward.run()), self._spawn(self._end_strays())]
        if self._exporters is not None:
            self._exporter = ExporterPlace(self._exporters, self._settings, self._generation, self._spawn)
            await self._exporter.begin()

    async def run(self) -> None:
        """Keep it so until `stop`. Raises what ended it otherwise; Superseded: another coordinator goes on."""
        await asyncio.shield(self._over)

    async def stop(self) -> None:
        """End all processes, each after what it has in hand, and give the store back. Calling it twice is safe."""
        await cancelled(self._running)
        if self._exporter is not None:
            await self._exporter.stop()
        if self._steward is not None:
            await self._steward.stop()
        await self._end_beat()
        await self._give_back()
        if not self._over.done():
            self._over.set_result(None)

    async def abandon(self) -> None:
        """End all processes at once. What they were doing is decided by the store alone."""
        await cancelled(self._running)
        await self._end_beat()
        if self._exporter is not None:
            await self._exporter.abandon()
        if self._steward is not None:
            await self._steward.abandon()
        await self._give_back()

    async def leave(self) -> None:
        """End this coordinator's own work, and leave all processes at theirs, for the next coordinator."""
        await cancelled(self._running)
        await self._end_beat()
        if self._exporter is not None:
            await self._exporter.leave()
        if self._steward is not None:
            await self._steward.leave()

    # --- operations ---

    async def scale(self, hosts: int) -> RuntimeStatus:
        """Keep so many hosts from now on; return once they serve, each its share of the shards.

        Raises InvalidValue, and NotSettled where it takes too long; then the coordinator goes on with it.
        """
        check_hosts(hosts, self._store.shards)
        await self._begun().want(hosts)
        return await self.settled()

    async def settled(self) -> RuntimeStatus:
        """Return once the runtime is as it is wanted: every host serves, and every shard is where it belongs.

        Raises NotSettled after the time that settings give a host to open, counted from the last shard that moved.
        """
        steward, patience_s = self._begun(), self._settings.open_timeout_s
        steward.look()
        while True:
            moved = steward.ownership.moved
            try:
                async with asyncio.timeout(patience_s):
                    await steward.settled.wait()
            except TimeoutError as error:
                if steward.ownership.moved == moved:
                    raise NotSettled(patience_s, self._unsettled()) from error
            else:
                return self.status()

    def status(self) -> RuntimeStatus:
        """Say how the runtime is, as far as is known here now."""
        steward = self._begun()
        ownership = steward.ownership
        exporter = self._exporter.supervisor if self._exporter else None
        return RuntimeStatus(
            store_id=self._store.store_id,
            generation=self._generation,
            detached=self._detached,
            hosts_wanted=steward.wanted,
            nodes=list(steward.nodes),
            hosts=[_shown(each, ownership.served_by(each.name or "")) for each in steward.hosts.all],
            projection_hosts=[_shown(each, _followed(steward, each)) for each in steward.followers.all],
            moving=[Moving(shard, *transit) for shard, transit in sorted(ownership.transits.items())],
            free=ownership.free(),
            moved=ownership.moved,
            settled=steward.settled.is_set(),
            metrics=self._exporter.url if self._exporter else "",
            exporter=_shown(exporter, {}) if exporter else None,
        )

    def _unsettled(self) -> str:
        status = self.status()
        serving = sum(each.state == "serving" for each in status.hosts)
        failures = "".join(f"; {each.title}: {each.failure}" for each in status.hosts if each.failure)
        return f"{status.hosts_wanted} hosts are wanted and {serving} serve{failures}"

    # --- parts ---

    def _begun(self) -> Steward:
        assert self._steward is not None, "it has not been started"
        return self._steward

    async def _end_former(self) -> None:
        """See to it that no process of an earlier runtime writes any more."""
        for former in {route.host for route in await self._store.routes() if route.host is not None}:
            await self._store.end_writer(former)
        hosts, projections, _ = self._ports
        exporters = [self._exporters] if self._exporters else []
        for processes in (hosts, projections, *exporters):
            for name in await processes.adopt():
                await processes.kill(name)

    async def _end_strays(self) -> None:
        while True:
            await asyncio.sleep(self._settings.poll_interval_s * POLLS_A_LOOK_FOR_STRAYS)
            try:
                await self._begun().end_strays()
                if self._exporter is not None:
                    await self._exporter.end_strays()
            except ProcessLost as error:
                log.info("it can't be told whether processes are left over", reason=error.reason)

    async def _or_over(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it; raises what ends the coordinator meanwhile."""
        doing = asyncio.ensure_future(work)
        try:
            await asyncio.wait({doing, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if self._over.done():
                self._over.result()
            doing.result()
        finally:
            await cancelled([doing])

    async def _give_back(self) -> None:
        generation, self._generation = self._generation, 0
        if not generation:
            return
        try:
            await self._patiently(lambda: self._store.assign(generation, dict.fromkeys(range(self._store.shards))))
            await self._patiently(lambda: self._store.release(generation))
        except (Superseded, StoreUnavailable) as error:
            log.warning("the store was not given back", reason=str(error))

    async def _patiently(self, work: Callable[[], Awaitable[Answer]]) -> Answer:
        """Do what may be done again where a reply was lost; for as long as whoever begins or ends a runtime waits."""
        return await while_it_may_pass(work, self._settings.close_timeout_s)

    async def _beat(self) -> None:
        while not await self._ending_within(self._settings.beat_interval_s):
            try:
                await self._store.beat(self._generation)
            except StoreUnavailable as error:
                log.warning("no beat: the store can't be written", reason=str(error))

    async def _ending_within(self, seconds: float) -> bool:
        """Wait that long, or until the beat is to end; tell whether it is."""
        try:
            async with asyncio.timeout(seconds):
                return await self._beat_ending.wait()
        except TimeoutError:
            return False

    async def _end_beat(self) -> None:
        """Let the beat end after the one under way: a transaction is not cancelled."""
        self._beat_ending.set()
        if self._beat_task is not None:
            await asyncio.wait({self._beat_task})

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None and not self._over.done():
            self._over.set_exception(error)


def _shown(each: Supervisor, shards: dict[int, int]) -> ProcessStatus:
    state = "leaving" if each.leaving else "starting" if each.name is None else "serving"
    return ProcessStatus(each.title, each.process, each.node, state, shards, each.health, each.failure)


def _followed(steward: Steward, each: Supervisor) -> dict[int, int]:
    return dict.fromkeys(sorted(steward.followed.of(each.name or "")), 0)
