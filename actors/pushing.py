"""Committed events to the projection hosts that follow their shards: for latency only, the store is the truth.

None of the pushes is waited for. A bounded number is under way to each projection host; what is over the bound is
dropped, so that one that is slow holds up neither the host nor the others. Ray-free. Not here: how a push is carried
(`host.py`), and what is done about those that are lost (`projections/subscriber.py`).
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgpack

from store.records import EventRecord

PUSH_PAUSE_S = 0.002
"""How long committed events wait for others to be pushed with: a push at once would hold up the answers (measured)."""
PUSH_INTERVAL_S = 0.008
"""At least between two pushes: each takes from a small machine what the next lone command waits for (measured)."""

Send = Callable[[str, bytes], Awaitable[bool]]
"""Carries a msgpack list of records to a projection host; says whether that one may be pushed to again."""


class Pusher:
    """The pushes of one host to projection hosts, by their names. Belongs to one event loop."""

    def __init__(self, send: Send, in_flight_max: int) -> None:
        self._send = send
        self._in_flight_max = in_flight_max
        self._targets: Mapping[int, str] = {}
        self._unpushed: list[EventRecord] = []
        self._pushed_s = -math.inf
        """When the last push was made, on the event loop's clock."""
        self._in_flight: Counter[str] = Counter()
        self._pushes: set[asyncio.Task[None]] = set()

    def push_to(self, targets: Mapping[int, str]) -> None:
        """From now on push the events of these shards there, those of others nowhere."""
        self._targets = targets

    def publish(self, records: Sequence[EventRecord]) -> None:
        """Push committed records, soon; never waits."""
        if not self._targets:
            return
        if not self._unpushed:
            loop = asyncio.get_running_loop()
            loop.call_at(max(loop.time() + PUSH_PAUSE_S, self._pushed_s + PUSH_INTERVAL_S), self._push)
        self._unpushed += records

    def _push(self) -> None:
        records, self._unpushed = self._unpushed, []
        self._pushed_s = asyncio.get_running_loop().time()
        shares: dict[str, list[EventRecord]] = {}
        for record in records:
            if (target := self._targets.get(record.shard)) is not None:
                shares.setdefault(target, []).append(record)
        for target, share in shares.items():
            if self._in_flight[target] < self._in_flight_max:
                self._in_flight[target] += 1
                push = asyncio.ensure_future(self._carry(target, msgpack.packb(share)))
                self._pushes.add(push)
                push.add_done_callback(self._pushes.discard)

    async def _carry(self, target: str, blob: bytes) -> None:
        try:
            if not await self._send(target, blob):
                self._targets = {shard: each for shard, each in self._targets.items() if each != target}
        finally:
            self._in_flight[target] -= 1
            if not self._in_flight[target]:
                del self._in_flight[target]
