"""Group commit: everything that the host's shards have decided goes to the store in one transaction at a time.

One pass (`step`) takes what is there, appends it, and tells each shard what became of it. What queues up during a pass
is the next pass: no timer. Not here: deciding (`shard.py`), SQL (`store/`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

import structlog
from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from actors.new_streams import NewStreams
from actors.shard import TOGETHER, Shard
from store import EventRecord, OutcomeUnknown, StoreRejected, StoreUnavailable
from store.ports import EventAppender
from store.records import ShardAppend

RETRY_WAIT_MAX_S = 1.0

log = structlog.get_logger(__name__)

Publish = Callable[[list[EventRecord]], None]


class Writer:
    """The one writer of a host."""

    def __init__(
        self,
        store: EventAppender,
        shards: dict[int, Shard],
        publish: Publish,
        advance: Callable[[Iterable[Shard]], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        new_streams: NewStreams,
    ) -> None:
        """`advance` lets shards decide on; `spawn` runs a coroutine to its end beside the writer."""
        self._store = store
        self._shards = shards
        self._publish = publish
        self._advance = advance
        self._spawn = spawn
        self._new_streams = new_streams
        self._wake = asyncio.Event()
        self._offered: dict[Shard, None] = {}
        """Shards that may have decided something, in the order in which they said so."""
        self._failures = 0
        self.commits = 0
        """Transactions that were committed."""
        self.events = 0
        """Events in them."""
        self.fenced = 0
        """Shards that were lost to a higher epoch."""
        self.unknown_outcomes = 0
        """Appends whose reply was lost."""

    def offer(self, shard: Shard) -> None:
        """Say that a shard has decided something, which goes to the store once the writer is woken."""
        self._offered[shard] = None

    def wake(self) -> None:
        """Say that what was offered may go to the store."""
        self._wake.set()

    async def run(self) -> None:
        """Pass after pass, until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self.step()

    async def step(self) -> None:
        """One pass: append what every shard has decided, in one transaction, or alone where a shard asks for care."""
        offered, self._offered = self._offered, {}
        ready = [shard for shard in offered if shard.has_decided]
        together = [shard for shard in ready if shard.care == TOGETHER]
        for group in ([together] if together else []) + [[shard] for shard in ready if shard.care != TOGETHER]:
            await self._append(group)
        if self._offered:
            self._wake.set()

    async def _append(self, group: list[Shard]) -> None:
        appends = sorted((shard.append_of(shard.take()) for shard in group), key=lambda append: append.shard)
        try:
            fenced = await self._store.append(appends)
        except OutcomeUnknown as error:
            self.unknown_outcomes += 1
            log.warning("an append's outcome is unknown", shards=[shard.number for shard in group], reason=str(error))
            for shard in group:
                shard.settling = True
            self._spawn(self._settle(group))
            return
        except StoreRejected as error:
            self._learn(group)
            for shard in group:
                shard.rejected(error)
        except StoreUnavailable as error:
            await self._unavailable(group, error)
        else:
            self._failures = 0
            self._committed(group, appends, fenced)
        self._advance(group)

    def _committed(self, group: list[Shard], appends: list[ShardAppend], fenced: set[int]) -> None:
        for shard in group:
            if shard.number in fenced:
                self._lose(shard)
            else:
                shard.committed()
        stored = [record for append in appends if append.shard not in fenced for record in append.records]
        if stored:
            self.commits += 1
            self.events += len(stored)
            self._publish(stored)

    def _learn(self, group: list[Shard]) -> None:
        """Count the refusal of an append against the types of commands whose streams were presumed to be new in it."""
        presumed = set[str]().union(*(shard.presumed_types() for shard in group))
        if presumed:
            log.info(
                "an append was refused in which streams were presumed to be new",
                shards=[shard.number for shard in group],
                command_types=sorted(presumed),
            )
            self._new_streams.refused(presumed)

    async def _unavailable(self, group: list[Shard], error: StoreUnavailable) -> None:
        if error.passing:
            for shard in group:
                shard.rewind()
            self._failures += 1
            await asyncio.sleep(min(RETRY_WAIT_MAX_S, 0.01 * 2**self._failures))
        else:
            log.error("the store can't be written", reason=str(error))
            for shard in group:
                shard.refuse_taken(error)

    async def _settle(self, group: list[Shard]) -> None:
        """Find out what became of the lost append, for as long as it takes; then the shards decide on."""
        epochs = {shard.number: shard.epoch for shard in group}
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable), wait=wait_random_exponential(0.05, RETRY_WAIT_MAX_S)
        ):
            with attempt:
                heads = await self._store.settle(epochs)
        for shard in group:
            shard.settling = False
            if shard.number in heads:
                shard.rewind(heads[shard.number])
            else:
                self._lose(shard)
        self._advance(group)

    def _lose(self, shard: Shard) -> None:
        self.fenced += 1
        log.warning("fenced: another host owns the shard", shard=shard.number, epoch=shard.epoch)
        if self._shards.get(shard.number) is shard:
            del self._shards[shard.number]
        shard.drop()
