"""The log as a history: what each stream was at each position, whose events those are, and what was known when.

Computed from evidence alone, by the tests' own shop rules. Not here: what is wrong with it (`checks.py`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Mapping
from decimal import Decimal
from itertools import accumulate
from typing import Any
from uuid import UUID

from tests.contract.shop_rules import NOTHING, StreamState, Wish, folded
from tests.torture.evidence import Evidence, Row, Sending

VIP_SPENT_MIN = Decimal(500)
PROMOTED_FOR = "ordered for 500 dollars or more"
Caused = tuple[str, str]
"""What a command may do once: its id, and the stream."""


class History:
    """One run's log. Positions are those of the shard that a stream is in."""

    def __init__(self, evidence: Evidence) -> None:
        self.rows_of: dict[Caused, list[Row]] = defaultdict(list)
        """By command, in the order of the log."""
        self.sendings_of: dict[Caused, list[Sending]] = defaultdict(list)
        self.heads: dict[int, int] = defaultdict(int)
        """The last position that is there, by shard."""
        self.issued: list[tuple[Row, Sending]] = []
        """What the process manager had to send, and the order that it follows from."""
        self._states: dict[str, tuple[list[int], list[StreamState]]] = {}
        self._customers: dict[str, tuple[list[int], list[dict[str, Any]]]] = {}
        for sending in evidence.sendings:
            self.sendings_of[sending.command_id, sending.wish.stream].append(sending)
        for row in evidence.rows:
            self.rows_of[row.command_id, row.stream].append(row)
            self.heads[row.shard] = max(self.heads[row.shard], row.position)
            self._add_state(row)
            self._add_customer(row)
        if evidence.mails is not None:
            for _, sending in self.issued:
                self.sendings_of[sending.command_id, sending.wish.stream].append(sending)
        self._known = _known(evidence)
        self._later = self._first_sendings(evidence)

    # --- what was ---

    def state(self, stream: str, position: int) -> StreamState:
        """The stream as it was when the shard's log went up to that position."""
        positions, states = self._states.get(stream, ([], []))
        after = bisect_right(positions, position)
        return states[after - 1] if after else NOTHING

    def states(self, wish: Wish, position: int) -> Mapping[str, StreamState]:
        """All that a command is decided on, as it was."""
        return {stream: self.state(stream, position) for stream in _streams(wish)}

    def customer(self, customer_id: str, position: int) -> dict[str, Any] | None:
        """The read model's row, folded up to that position."""
        positions, rows = self._customers.get(customer_id, ([], []))
        after = bisect_right(positions, position)
        return rows[after - 1] if after else None

    def customers(self) -> dict[str, dict[str, Any]]:
        """The read model, folded to the end."""
        return {customer_id: rows[-1] for customer_id, (_, rows) in self._customers.items()}

    def changes(self, wish: Wish, first: int, last: int) -> Iterator[int]:
        """`first`, and each later position up to `last` at which something changed that the command is decided on."""
        yield first
        for stream in _streams(wish):
            positions, _ = self._states.get(stream, ([], []))
            yield from positions[bisect_right(positions, first) : bisect_right(positions, last)]

    def customer_changes(self, customer_id: str, first: int, last: int) -> Iterator[int]:
        """`first`, and each later position up to `last` at which the read model's row changes."""
        positions, _ = self._customers.get(customer_id, ([], []))
        yield first
        yield from positions[bisect_right(positions, first) : bisect_right(positions, last)]

    # --- what was known when ---

    def known_at(self, shard: int, moment_s: float) -> int:
        """The highest position of the shard that anybody had a receipt for before that moment; 0 without any."""
        moments, positions = self._known.get(shard, ([], []))
        before = bisect_left(moments, moment_s)
        return positions[before - 1] if before else 0

    def reached_at(self, shard: int, moment_s: float) -> int:
        """The highest position that the shard can have had at that moment: behind it are commands sent later."""
        moments, positions = self._later.get(shard, ([], []))
        after = bisect_right(moments, moment_s)
        return positions[after] - 1 if after < len(positions) else self.heads.get(shard, 0)

    # --- making it ---

    def _add_state(self, row: Row) -> None:
        positions, states = self._states.setdefault(row.stream, ([], []))
        positions.append(row.position)
        states.append(folded(states[-1] if states else NOTHING, row.type, row.key, row.fields))

    def _add_customer(self, row: Row) -> None:
        positions, rows = self._customers.setdefault(row.key, ([], []))
        before = rows[-1] if rows else {}
        occurred_us = row.metadata.get("occurred_at", row.recorded_us)
        match row.type:
            case "CustomerCreated":
                after = {
                    "id": row.key,
                    "name": row.fields["name"],
                    "email": row.fields["email"],
                    "type": row.fields["type"],
                    "status": "Active",
                    "created_at": occurred_us,
                    "last_promoted_at": None,
                    "total_orders": 0,
                    "total_spent": Decimal(0),
                }
            case "CustomerEmailChanged":
                after = {**before, "email": row.fields["new_email"]}
            case "CustomerPromoted":
                after = {**before, "type": row.fields["to_type"], "last_promoted_at": occurred_us}
            case "CustomerDeactivated":
                after = {**before, "status": "Deactivated"}
            case _:
                orders = before.get("total_orders", 0) + 1
                spent_before = before.get("total_spent", Decimal(0))
                spent = spent_before + Decimal(row.fields["total_amount"])
                after = {**before, "total_orders": orders, "total_spent": spent}
                if spent_before < VIP_SPENT_MIN <= spent:
                    self.issued.append((row, _issued(row)))
        positions.append(row.position)
        rows.append(after)

    def _first_sendings(self, evidence: Evidence) -> dict[int, tuple[list[float], list[int]]]:
        """By shard: when each event's command was first sent, rising, and the lowest position from there on."""
        sent: dict[int, list[tuple[float, int]]] = defaultdict(list)
        for row in evidence.rows:
            if sendings := self.sendings_of.get((row.command_id, row.stream)):
                sent[row.shard].append((min(sending.sent_s for sending in sendings), row.position))
        found = {}
        for shard, pairs in sent.items():
            pairs.sort()
            lowest = list(accumulate((position for _, position in reversed(pairs)), min))[::-1]
            found[shard] = ([moment_s for moment_s, _ in pairs], lowest)
        return found


def _issued(row: Row) -> Sending:
    """The promotion that follows from an order; nobody knows when it was sent first."""
    command_id = f"{UUID(bytes=row.event_id)}:LoyaltyProgramme:0"
    wish = Wish("PromoteToVip", (("customer_id", row.key), ("reason", PROMOTED_FOR)))
    return Sending("LoyaltyProgramme", 0, command_id, wish, None, float("-inf"))


def _known(evidence: Evidence) -> dict[int, tuple[list[float], list[int]]]:
    """By shard: when receipts came, rising, and the highest position that was known by then."""
    receipts: dict[int, list[tuple[float, int]]] = defaultdict(list)
    for sending in evidence.sendings:
        if sending.receipt is not None and sending.answered_s is not None:
            receipts[sending.receipt.shard].append((sending.answered_s, sending.receipt.position))
    found = {}
    for shard, pairs in receipts.items():
        pairs.sort()
        found[shard] = ([at_s for at_s, _ in pairs], list(accumulate((position for _, position in pairs), max)))
    return found


def _streams(wish: Wish) -> set[str]:
    return {wish.stream, f"customer-{wish.key}"}
