"""What a host counts: its store's operations, and its calls, each batch at once; and what it says of itself anyhow.

Not here: the store's part (`store.py`).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection

from actors.errors import CommandTimeout, DecideFailed, NotOwner, Overloaded
from actors.health import HostHealth
from actors.mail import Answer, OpenCall
from actors.wire import Call, Receipt
from cluster.metrics.counting import Counts, Samples
from cluster.metrics.definitions import (
    CALL_COMMANDS,
    COMMAND_ERRORS,
    COMMAND_SECONDS,
    COMMANDS,
    LIVE_AGGREGATES,
    LOOP_AGE_SECONDS,
    OLDEST_PENDING_SECONDS,
    PART_SECONDS,
    PENDING_COMMANDS,
    SERVED_SHARDS,
    SNAPSHOTS,
    UNKNOWN_OUTCOMES,
)
from cluster.metrics.store import MeteredStore
from store.errors import StoreUnavailable
from store.ports import EventStore

UNKNOWN_TYPE = "(unknown)"
"""For commands of a type that the application has not: any text may come from a client."""
NO_OUTCOME = (CommandTimeout, DecideFailed, Overloaded, StoreUnavailable)


class HostCounts:
    """See `HostMeter`."""

    def __init__(self, command_types: Collection[str]) -> None:
        self.counts = Counts()
        self._types = frozenset(command_types)

    def around(self, store: EventStore) -> EventStore:
        return MeteredStore(store, self.counts)

    def answered(self, request: Call, call: OpenCall) -> None:
        size = len(request.commands)
        if not size:
            return
        counts, now_s, turn = self.counts, time.monotonic(), call.turn
        counts.observe(CALL_COMMANDS, size)
        counts.observe(COMMAND_SECONDS, now_s - call.arrived_s, size)
        if turn is not None:
            counts.observe(PART_SECONDS, max(0.0, turn.began_s - call.arrived_s), size, "queue")
            counts.observe(PART_SECONDS, turn.ended_s - turn.began_s, size, "decide")
            counts.observe(PART_SECONDS, max(0.0, call.answered_s - turn.ended_s), size, "append")
            counts.observe(PART_SECONDS, now_s - call.answered_s, size, "reply")
        types = Counter([message.command_type for message in request.commands])
        if not types.keys() <= self._types:
            types = Counter([self._known(message.command_type) for message in request.commands])
        for place, answer in enumerate(call.answers):
            if type(answer) is not Receipt or answer.duplicate:
                types[self._told(request.commands[place].command_type, answer)] -= 1
        for command_type, number in types.items():
            if number:
                counts.add(COMMANDS, number, command_type, "accepted")

    def _told(self, command_type: str, answer: Answer | None) -> str:
        """Count an answer that is no acceptance; return the command's type."""
        command_type = self._known(command_type)
        if isinstance(answer, Receipt):
            outcome = "duplicate"
        else:
            if isinstance(answer, NotOwner):
                outcome = "moved"
            elif isinstance(answer, NO_OUTCOME):
                outcome = "failed"
            else:
                outcome = "rejected"
            self.counts.add(COMMAND_ERRORS, 1, type(answer).__name__)
        self.counts.add(COMMANDS, 1, command_type, outcome)
        return command_type

    def _known(self, command_type: str) -> str:
        return command_type if command_type in self._types else UNKNOWN_TYPE


def host_samples(health: HostHealth) -> Samples:
    """Return what a host says of itself, as samples."""
    snapshots = health.snapshots
    return {
        PENDING_COMMANDS: {(): health.pending_commands},
        OLDEST_PENDING_SECONDS: {(): health.oldest_pending_s},
        LOOP_AGE_SECONDS: {(): health.loop_age_s},
        LIVE_AGGREGATES: {(): health.live_aggregates},
        SERVED_SHARDS: {(): len(health.shards)},
        UNKNOWN_OUTCOMES: {(): health.unknown_outcomes},
        SNAPSHOTS: {
            ("taken",): snapshots.taken,
            ("written",): snapshots.written,
            ("lost",): snapshots.unwritten,
            ("used",): snapshots.used,
            ("ignored_fingerprint",): snapshots.ignored_fingerprint,
            ("ignored_damaged",): snapshots.ignored_damaged,
        },
    }
