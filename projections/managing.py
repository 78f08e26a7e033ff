"""A process manager at work: it follows some shards as a projection does, and sends what it has issued.

Not here: following (`subscriber.py`), the outbox (`outbox.py`), how commands reach their hosts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from actors.registry import AggregateRegistry
from projections.errors import ConsistencyTimeout
from projections.issuing import Issuing
from projections.outbox import Outbox
from projections.process_manager import ProcessManager
from projections.progress import SubscriberLimits
from projections.projection_sink import ProjectionSubscriber
from projections.read_models import ReadModels
from projections.relay import Commands, Relay, RelayLimits
from store.ports import EventStore


class Managing(NamedTuple):
    """The process managers of an application, and what they need beside what projections need."""

    process_managers: tuple[type[ProcessManager], ...]
    registry: AggregateRegistry
    commands: Commands
    limits: RelayLimits
    """Of what each of them sends."""


class ProcessManagerSubscriber(ProjectionSubscriber):
    """Follows some shards for a process manager, and sends the commands that follow from their events.

    Who waits for an event waits until its commands are acknowledged too.
    """

    def __init__(
        self,
        store: EventStore,
        read_models: ReadModels,
        process_manager: type[ProcessManager],
        registry: AggregateRegistry,
        commands: Commands,
        shards: Iterable[int] = (),
        *,
        limits: SubscriberLimits | None = None,
        relay_limits: RelayLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        issuing = Issuing(process_manager, registry, store)
        outbox = Outbox(read_models, process_manager)
        self.relay = Relay(outbox, commands, lambda: self.shards, relay_limits, clock)
        super().__init__(
            store,
            read_models,
            process_manager,
            registry.events,
            shards,
            start=process_manager.start,
            limits=limits,
            clock=clock,
            issuing=issuing,
            on_issued=self.relay.wake,
        )

    async def wait_for(self, shard: int, position: int, timeout_s: float) -> None:
        began = time.monotonic()
        await super().wait_for(shard, position, timeout_s)
        try:
            async with asyncio.timeout(timeout_s - (time.monotonic() - began)):
                await self.relay.until_sent(shard, position)
        except TimeoutError as error:
            reason = " It has taken the event, but a command that it has issued is not acknowledged yet."
            raise ConsistencyTimeout(self.sink.name, shard, position, timeout_s, position, reason) from error

    async def run(self) -> None:
        """See `Subscriber.run`; the relay goes on as long."""
        relaying = asyncio.create_task(self.relay.run(), name=f"the relay of {self.sink.name}")
        relaying.add_done_callback(lambda _: self.stop())
        try:
            await super().run()
            self.relay.stop()
            await relaying
        except Exception as error:
            self._ended = f"It has ended: {error!r}"
            raise
        finally:
            relaying.cancel()
            await asyncio.gather(relaying, return_exceptions=True)
