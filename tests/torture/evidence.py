"""What is known after a run: what the drivers' journals tell, and what SQL holds. Plain values, read by plain means.

Nothing of the runtime is imported here or in any module that judges; a test sees to that. Not here: the judging.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

from tests.contract.shop_rules import Wish, plain
from tests.torture.journal import read_journal

MAILED = ("CustomerCreated", "CustomerPromoted")
"""The events that the handler takes."""

REFUSALS = ("DomainError", "ConcurrencyError", "CommandIdReused")
"""Answers of an aggregate, or of the log: nothing was stored."""
UNSENT = ("Overloaded",)
UNKNOWN = ("CommandTimeout", "StoreUnavailable")
"""Answers that leave open whether anything was, or will be, stored."""

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EVENT_COLUMNS = (
    "shard, position, stream, version, partition_key, event_id, type, data, metadata, command_key, recorded_at"
)
ROW_COLUMNS = "id, name, email, type, status, created_at, last_promoted_at, total_orders, total_spent"


class Receipt(NamedTuple):
    """An answer that says: stored, there."""

    stream: str
    version: int
    shard: int
    position: int
    store: str
    duplicate: bool


class Failure(NamedTuple):
    """Any other answer."""

    error: str
    """The name of its class."""
    message: str
    args: tuple[Any, ...]


@dataclass(slots=True)
class Sending:
    """One call of `submit`, and what came of it."""

    driver: str
    """One process, which no other shares."""
    number: int
    """Its place among the driver's sendings, in the order in which they were submitted."""
    command_id: str
    wish: Wish
    expected_version: int | None
    sent_s: float
    answered_s: float | None = None
    """None: never answered."""
    answer: Receipt | Failure | None = None

    @property
    def receipt(self) -> Receipt | None:
        return self.answer if isinstance(self.answer, Receipt) else None

    @property
    def failure(self) -> str:
        """The name of the error that it was answered with; empty without one."""
        return self.answer.error if isinstance(self.answer, Failure) else ""

    @property
    def may_have_acted(self) -> bool:
        """Whether the command's events may come from this sending."""
        return self.receipt is not None or not self.failure or self.failure in UNKNOWN

    def __str__(self) -> str:
        return f"{self.wish.kind} {self.command_id!r} (sending {self.number} of {self.driver})"


class Reading(NamedTuple):
    """One `query(..., after=receipt)`."""

    driver: str
    customer_id: str
    after: Receipt
    read_s: float
    answered_s: float
    row: Mapping[str, Any] | None


class Row(NamedTuple):
    """One stored event."""

    shard: int
    position: int
    stream: str
    version: int
    key: str
    event_id: bytes
    type: str
    fields: dict[str, str]
    """Amounts in one form, whatever their zeros."""
    metadata: dict[str, Any]
    command_key: str | None
    recorded_us: int

    @property
    def command_id(self) -> str:
        return str(self.metadata.get("command_id", ""))


class Mail(NamedTuple):
    """One call of the handler."""

    event_id: bytes
    key: str
    """By which whoever gets it knows a repetition."""


class Struck(NamedTuple):
    """One fault that was carried out."""

    kind: str
    shards: frozenset[int]
    """Those that were served by whom it struck."""
    from_s: float
    to_s: float


@dataclass
class Evidence:
    """All that is judged."""

    store_id: str
    heads: dict[int, int]
    """What the store says of each shard."""
    rows: list[Row]
    """The log, by shard and position."""
    customers: dict[str, dict[str, Any]]
    """The read model; moments in microseconds since 1970, amounts as Decimals."""
    checkpoints: dict[int, int]
    sendings: list[Sending] = field(default_factory=list)
    """By driver, in the order of submission."""
    readings: list[Reading] = field(default_factory=list)
    losses: dict[str, list[float]] = field(default_factory=dict)
    """When each driver noticed that a call of its was lost."""
    faults: list[Struck] = field(default_factory=list)
    mails: list[Mail] | None = None
    """In the order in which they were sent; None: there was no handler."""


def read_drivers(evidence: Evidence, journals: Iterable[Path]) -> None:
    """Add what the drivers' journals tell. Raises ValueError for a journal that can't be one."""
    for path in sorted(journals):
        driver, sendings, readings = path.stem, {}, {}
        losses = evidence.losses.setdefault(driver, [])
        for line in read_journal(path):
            match line["do"]:
                case "send":
                    sendings[line["n"]] = _sending(driver, line)
                case "receipt":
                    sendings[line["n"]].answered_s, sendings[line["n"]].answer = line["at"], _receipt(line)
                case "failed":
                    sendings[line["n"]].answered_s = line["at"]
                    sendings[line["n"]].answer = Failure(line["error"], line["message"], tuple(line["args"]))
                case "lost":
                    losses.append(line["at"])
                case "query":
                    readings[line["q"]] = line
                case "row":
                    asked = readings[line["q"]]
                    evidence.readings.append(
                        Reading(driver, asked["key"], _receipt(asked), asked["at"], line["at"], _exact(line["row"]))
                    )
        evidence.sendings += sendings.values()


def read_faults(evidence: Evidence, journal: Path) -> None:
    """Add what the nemesis did."""
    for line in read_journal(journal):
        if line["do"] == "fault":
            shards = frozenset(line.get("shards", ()))
            evidence.faults.append(Struck(line["kind"], shards, line["from_s"], line["to_s"]))


def read_mails(evidence: Evidence, journal: Path) -> None:
    """Add what the handler did."""
    evidence.mails = [Mail(UUID(line["event"]).bytes, line["key"]) for line in read_journal(journal)]


def read_sqlite(path: Path) -> Evidence:
    """Read a store's file, and the read models beside it."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as store:
        evidence = _evidence(lambda query: store.execute(query).fetchall())
    with closing(sqlite3.connect(f"file:{path.with_suffix('.read.db')}?mode=ro", uri=True)) as read_models:
        _add_read_model(evidence, lambda query: read_models.execute(query).fetchall())
    return evidence


def read_postgres(url: str) -> Evidence:
    """Read a store's database, in which the read models are too."""
    import asyncpg

    async def fetch(query: str) -> list[Sequence[Any]]:
        connection = await asyncpg.connect(url)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()

    evidence = _evidence(lambda query: asyncio.run(fetch(query)))
    _add_read_model(evidence, lambda query: asyncio.run(fetch(query)))
    return evidence


Ask = Callable[[str], Sequence[Sequence[Any]]]


def _evidence(ask: Ask) -> Evidence:
    ((store_id,),) = ask("SELECT store_id FROM runtime")
    heads = {int(shard): int(head) for shard, head in ask("SELECT shard, head FROM shards")}
    rows = [
        Row._make((*first, plain(data), json.loads(metadata), command_key, recorded_us))
        for *first, data, metadata, command_key, recorded_us in ask(
            f"SELECT {EVENT_COLUMNS} FROM events ORDER BY shard, position"
        )
    ]
    return Evidence(store_id, heads, rows, {}, {})


def _add_read_model(evidence: Evidence, ask: Ask) -> None:
    for values in ask(f"SELECT {ROW_COLUMNS} FROM customers"):
        row = dict(zip(ROW_COLUMNS.split(", "), values, strict=True))
        row["created_at"], row["last_promoted_at"] = _micros(row["created_at"]), _micros(row["last_promoted_at"])
        spent = row["total_spent"]
        row["total_spent"] = spent if isinstance(spent, Decimal) else Decimal(spent).scaleb(-4)
        evidence.customers[str(row["id"])] = row
    query = "SELECT shard, position FROM checkpoints WHERE subscriber LIKE 'CustomerProjection@%'"
    evidence.checkpoints.update({int(shard): int(position) for shard, position in ask(query)})


def _micros(moment: datetime | str | None) -> int | None:
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    return None if moment is None else (moment - EPOCH) // timedelta(microseconds=1)


def _sending(driver: str, line: Mapping[str, Any]) -> Sending:
    wish = Wish(line["kind"], tuple(sorted(line["fields"].items())))
    return Sending(driver, line["n"], line["id"], wish, line["expected_version"], line["at"])


def _exact(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if row is None else {**row, "total_spent": Decimal(row["total_spent"])}


def _receipt(line: Mapping[str, Any]) -> Receipt:
    return Receipt(*(line[name] for name in Receipt._fields))
