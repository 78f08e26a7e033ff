"""The rows that the store's benchmarks write: customers whose e-mail addresses change, as the runtime stores them.

Any part of the log can be made without the part before it, so that a long run may be taken up again.
"""

from __future__ import annotations

import math
import time
from array import array

from store.identity import shard_of, uuid7
from store.ports import EventStore
from store.records import EventRecord
from store.writing import OfflineWriter

STEP = 7_368_787
"""A prime: streams get their next event in an order that looks like chance, as commands come."""


class Content:
    """A log over some streams: all get their first event, then all their second, in one order."""

    def __init__(self, streams: int, shards: int) -> None:
        if math.gcd(STEP, streams) != 1:
            raise SystemExit(f"--streams {streams}: give a number that {STEP} does not divide")
        self.streams = streams
        self._shards = array("i", bytes(4 * streams))
        self._ranks = array("i", bytes(4 * streams))
        """Place of each turn among those of its shard in one round."""
        self._per_round = [0] * shards
        for turn in range(streams):
            shard = shard_of(f"c-{turn * STEP % streams}", shards)
            self._shards[turn], self._ranks[turn] = shard, self._per_round[shard]
            self._per_round[shard] += 1

    def rows(self, after: int, count: int) -> list[EventRecord]:
        """Return so many events of the log, behind the first `after`, with new ids, in the order of writing."""
        return [self._row(*divmod(number, self.streams)) for number in range(after, after + count)]

    def _row(self, round_: int, turn: int) -> EventRecord:
        shard, customer, version = self._shards[turn], f"c-{turn * STEP % self.streams}", round_ + 1
        position = round_ * self._per_round[shard] + self._ranks[turn] + 1
        event_id, command_id = uuid7().bytes, str(uuid7())
        email = f"{customer}.{version}@example.com"
        if version == 1:
            kind = ("CustomerCreated", 2)
            data = f'{{"customer_id":"{customer}","name":"Customer {turn}","email":"{email}","type":"Regular"}}'
        else:
            kind = ("CustomerEmailChanged", 1)
            old = f"{customer}.{round_}@example.com"
            data = f'{{"customer_id":"{customer}","old_email":"{old}","new_email":"{email}"}}'
        metadata = f'{{"command_id":"{command_id}","digest":"{event_id.hex()}"}}'
        place = (shard, position, f"customer-{customer}", version, customer)
        return EventRecord(*place, event_id, *kind, data, metadata, command_id, None, time.time_ns() // 1_000)


def by_shard(rows: list[EventRecord]) -> dict[int, list[EventRecord]]:
    """Return rows by shard, as an append takes them."""
    found: dict[int, list[EventRecord]] = {}
    for row in rows:
        found.setdefault(row.shard, []).append(row)
    return found


async def fill(store: EventStore, events: int, streams: int) -> None:
    """Write a whole log into an empty store."""
    content = Content(streams, store.shards)
    async with OfflineWriter(store, "a benchmark") as writer:
        await writer.heads(range(store.shards))
        for begin in range(0, events, 5_000):
            await writer.append(by_shard(content.rows(begin, min(5_000, events - begin))))
