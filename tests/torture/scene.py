"""A run that never was: a store's file, its read models and drivers' journals, made up event by event for tests.

Its clock is a counter: each step is a second. Not here: what is planted into it (`test_checker.py`).
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from tests.contract.shop_rules import NOTHING, StreamState, Wish, decided, folded

STORE = "store-1"
SHARDS = 4
TABLES = """
CREATE TABLE runtime (store_id TEXT);
CREATE TABLE shards (shard INTEGER PRIMARY KEY, head INTEGER);
CREATE TABLE events (
    shard INTEGER, position INTEGER, stream TEXT, version INTEGER, partition_key TEXT, event_id BLOB, type TEXT,
    data TEXT, metadata TEXT, command_key TEXT, recorded_at INTEGER
);
"""
READ_TABLES = """
CREATE TABLE customers (
    id TEXT, name TEXT, email TEXT, type TEXT, status TEXT, created_at TEXT, last_promoted_at TEXT,
    total_orders INTEGER, total_spent INTEGER
);
CREATE TABLE checkpoints (subscriber TEXT, shard INTEGER, position INTEGER);
"""


def shard_of(key: str) -> int:
    return zlib.crc32(key.encode()) % SHARDS


class Scene:
    """What has happened so far."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.journals: dict[str, list[dict[str, Any]]] = {}
        self.events: list[list[Any]] = []
        self.heads = dict.fromkeys(range(SHARDS), 0)
        self._states: dict[str, StreamState] = {}
        self._sent: dict[tuple[str, int], tuple[str, Wish]] = {}
        self._places: dict[str, tuple[str, int, int, int]] = {}

    # --- what drivers do ---

    def send(self, driver: str, command_id: str, kind: str, **fields: Any) -> int:
        """Journal a sending; return its number. The field `expecting` is the expected version."""
        expecting = fields.pop("expecting", None)
        number: int = sum(line["do"] == "send" for line in self.journals.get(driver, ()))
        self._sent[driver, number] = (command_id, Wish(kind, tuple(sorted(fields.items()))))
        line = {"n": number, "id": command_id, "kind": kind, "fields": fields, "expected_version": expecting}
        self.line(driver, "send", **line)
        return number

    def receive(self, driver: str, number: int, duplicate: bool = False, **changes: Any) -> dict[str, Any]:
        """Journal the true receipt of a command that was decided, with changes; return it."""
        stream, version, shard, position = self._places[self._sent[driver, number][0]]
        receipt = {"stream": stream, "version": version, "shard": shard, "position": position}
        receipt |= {"store": STORE, "duplicate": duplicate, **changes}
        self.line(driver, "receipt", n=number, **receipt)
        return receipt

    def fail(self, driver: str, number: int, error: str, message: str = "", *args: object) -> None:
        """Journal an answer that is no receipt."""
        self.line(driver, "failed", n=number, error=error, message=message, args=args)

    def line(self, driver: str, do: str, **fields: Any) -> None:
        self.now_s += 1
        self.journals.setdefault(driver, []).append({"at": self.now_s, "do": do, **fields})

    # --- what the runtime does ---

    def decide(self, driver: str, number: int) -> str | None:
        """Append what the command causes by the rules; return the words with which it is refused."""
        command_id, wish = self._sent[driver, number]
        outcome = decided(self._states, wish)
        if isinstance(outcome, str):
            return outcome
        shard = shard_of(wish.key)
        for kind, fields in outcome:
            self.append(shard, wish.stream, wish.key, kind, fields, command_id)
        version = self._states[wish.stream].version
        self._places[command_id] = (wish.stream, version, shard, self.heads[shard])
        return None

    def append(self, shard: int, stream: str, key: str, kind: str, fields: dict[str, str], command_id: str) -> None:
        self.now_s += 1
        state = folded(self._states.get(stream, NOTHING), kind, key, fields)
        self._states[stream] = state
        self.heads[shard] += 1
        event_id = len(self.events).to_bytes(16, "big")
        place = [shard, self.heads[shard], stream, state.version, key, event_id, kind, json.dumps(fields)]
        self.events.append([*place, json.dumps({"command_id": command_id}), command_id, int(self.now_s * 1_000_000)])

    # --- all at once ---

    def done(self, driver: str, command_id: str, kind: str, **fields: str) -> int:
        """Send a command, have it decided, and journal its receipt; return its number."""
        number = self.send(driver, command_id, kind, **fields)
        assert self.decide(driver, number) is None
        self.receive(driver, number)
        return number

    def refused(self, driver: str, command_id: str, kind: str, **fields: str) -> int:
        """Send a command that is refused, and journal that; return its number."""
        number = self.send(driver, command_id, kind, **fields)
        message = self.decide(driver, number)
        assert message
        self.fail(driver, number, "DomainError", message, message)
        return number

    # --- files ---

    def write(self, directory: Path) -> None:
        """Leave it all behind as a run does."""
        (directory / "run.json").write_text(json.dumps({"store": "torture.db"}))
        for driver, lines in self.journals.items():
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (directory / f"driver-{driver}.jsonl").write_text(text)
        with closing(sqlite3.connect(directory / "torture.db")) as store, store:
            store.executescript(TABLES)
            store.execute("INSERT INTO runtime VALUES (?)", (STORE,))
            store.executemany("INSERT INTO shards VALUES (?, ?)", self.heads.items())
            store.executemany("INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", self.events)
        with closing(sqlite3.connect(directory / "torture.read.db")) as read_models, read_models:
            read_models.executescript(READ_TABLES)
            read_models.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", self._customers())
            checkpoints = [("CustomerProjection@1", *place) for place in self.heads.items()]
            read_models.executemany("INSERT INTO checkpoints VALUES (?, ?, ?)", checkpoints)
        write_mails(directory, self.mails())

    def mails(self) -> list[dict[str, str]]:
        """What the handler does: a mail of each event that has one, in the order of the log."""
        mailed = [event for event in self.events if event[6] in ("CustomerCreated", "CustomerPromoted")]
        return [{"event": str(UUID(bytes=event[5])), "key": f"{event[5].hex()} Mail"} for event in mailed]

    def _customers(self) -> Sequence[Sequence[Any]]:
        rows: dict[str, list[Any]] = {}
        changes: dict[str, Callable[[list[Any], dict[str, str], str], None]] = {
            "CustomerEmailChanged": lambda row, fields, _at: row.__setitem__(2, fields["new_email"]),
            "CustomerPromoted": lambda row, _fields, at: row.__setitem__(slice(3, 7), ["Vip", row[4], row[5], at]),
            "CustomerDeactivated": lambda row, _fields, _at: row.__setitem__(4, "Deactivated"),
        }
        for _shard, _position, _stream, _version, key, _id, kind, data, _metadata, _command, recorded_us in self.events:
            fields = json.loads(data)
            at = str(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=recorded_us))[:19] + ".000000"
            if kind == "CustomerCreated":
                rows[key] = [key, fields["name"], fields["email"], fields["type"], "Active", at, None, 0, 0]
            elif kind == "OrderCreated":
                rows[key][7] += 1
                rows[key][8] += int(Decimal(fields["total_amount"]) * 10_000)
            else:
                changes[kind](rows[key], fields, at)
        return list(rows.values())


def write_mails(directory: Path, mails: Sequence[dict[str, str]]) -> None:
    """Leave behind what the handler has done."""
    lines = (json.dumps({"at": 0, "do": "mail", **mail}) + "\n" for mail in mails)
    (directory / "mails.jsonl").write_text("".join(lines))
