"""Damage planted in an SQLite store, each kind by itself: exactly it is found."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from store import EventStore, audit, open_store, paging
from store.audit import Finding, ShardAudit, audit_shard
from store.errors import UndecodableEvent
from store.identity import shard_of
from store.streams import StreamChecker
from tests.logs import EVENTS, Log, created, ordered

SHARDS = 4
KEY = "c-1"
SHARD = shard_of(KEY, SHARDS)
SAME_SHARD = next(f"x-{n}" for n in range(100) if shard_of(f"x-{n}", SHARDS) == SHARD)
OTHER_SHARD = (SHARD + 1) % SHARDS
KEY_THERE = next(f"y-{n}" for n in range(100) if shard_of(f"y-{n}", SHARDS) == OTHER_SHARD)
STREAM = f"customer-{KEY}"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audited.db"


@pytest.fixture
async def store(path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventStore]:
    """A sound store: positions 1 to 4 of SHARD are customer c-1, its first orders, and another event of c-1."""
    monkeypatch.setattr(paging, "FIRST_PAGE_RECORDS", 2)
    monkeypatch.setattr(paging, "PAGE_RECORDS_MAX", 2)
    opened = await open_store(f"sqlite:///{path}", shards=SHARDS)
    log = await Log.on(opened)
    await log.write(created(KEY), ordered(KEY, "1"), ordered(KEY, "2"), created(KEY))
    await log.write(created(KEY), created(KEY_THERE))
    await opened.release(1)
    yield opened
    await opened.close()


def plant(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount > 0, statement
        connection.commit()


async def findings(store: EventStore) -> list[Finding]:
    seen: list[int] = []
    audits = [await audit_shard(store, EVENTS, shard, seen.append) for shard in range(SHARDS)]
    assert sum(seen) == sum(each.events for each in audits)
    return [finding for each in audits for finding in each.findings]


def at(position: int) -> str:
    return f"WHERE shard = {SHARD} AND position = {position}"


async def test_a_sound_store_has_no_findings(store: EventStore) -> None:
    assert await findings(store) == []


DAMAGE = {
    "a position left out": (
        [
            f"UPDATE events SET position = 7 {at(5)}",
            f"UPDATE shards SET head = 7 WHERE shard = {SHARD}",
        ],
        [Finding("position", "positions 5 to 6 are missing", SHARD, 5)],
    ),
    "the last event lost": (
        [f"DELETE FROM events {at(5)}"],
        [Finding("head", "the head is 5, and the last event at 4", SHARD, 4)],
    ),
    "a head that stands back": (
        [f"UPDATE shards SET head = 4 WHERE shard = {SHARD}"],
        [Finding("head", "an event above the head, which is 4", SHARD, 5, STREAM, 3)],
    ),
    "a shard's row lost": (
        [f"DELETE FROM shards WHERE shard = {SHARD}"],
        [
            Finding("head", "the store has no row for this shard", SHARD),
            Finding("head", "an event above the head, which is 0", SHARD, 1, STREAM, 1),
        ],
    ),
    "a version left out": (
        [f"UPDATE events SET version = 4 {at(5)}"],
        [Finding("version", "version 3 is missing behind version 2", SHARD, 5, STREAM, 4)],
    ),
    "a stream that begins late": (
        [f"UPDATE events SET version = 2 {at(2)}"],
        [Finding("version", "version 1 is missing", SHARD, 2, f"order-{KEY}-1", 2)],
    ),
    "a version below 1": (
        [f"UPDATE events SET version = 0 {at(2)}"],
        [Finding("version", "version 0: they begin at 1", SHARD, 2, f"order-{KEY}-1", 0)],
    ),
    "versions out of order": (
        [
            f"UPDATE events SET version = 9 {at(4)}",
            f"UPDATE events SET version = 2 {at(5)}",
            f"UPDATE events SET version = 3 {at(4)}",
        ],
        [Finding("version", "version 2 stands behind version 3", SHARD, 5, STREAM, 2)],
    ),
    "a stream with two partition keys": (
        [f"UPDATE events SET partition_key = '{SAME_SHARD}' {at(5)}"],
        [
            Finding(
                "partition_key",
                f"partition key '{SAME_SHARD}', and '{KEY}' at the version before",
                SHARD,
                5,
                STREAM,
                3,
            )
        ],
    ),
    "a stream in two shards": (
        [
            f"UPDATE events SET shard = {OTHER_SHARD}, position = 2 {at(5)}",
            f"UPDATE shards SET head = 4 WHERE shard = {SHARD}",
            f"UPDATE shards SET head = 2 WHERE shard = {OTHER_SHARD}",
        ],
        [
            Finding("shard", f"version 2 of the stream is in shard {SHARD}", OTHER_SHARD, 2, STREAM, 3),
            Finding("shard", f"partition key '{KEY}' belongs to shard {SHARD}", OTHER_SHARD, 2, STREAM, 3),
        ],
    ),
    "an event in another shard than its key's": (
        [f"UPDATE events SET partition_key = '{KEY_THERE}' {at(2)}"],
        [
            Finding(
                "shard", f"partition key '{KEY_THERE}' belongs to shard {OTHER_SHARD}", SHARD, 2, f"order-{KEY}-1", 1
            )
        ],
    ),
    "an event type that the code doesn't know": (
        [f"UPDATE events SET type = 'Forgotten' {at(3)}"],
        [
            Finding(
                "decoding",
                "No event class is registered for the stored type Forgotten (schema version 1): "
                "add it to the application.",
                SHARD,
                3,
                f"order-{KEY}-2",
                1,
            )
        ],
    ),
    "a command's row without its digest": (
        [f"""UPDATE events SET command_key = 'cart', metadata = '{{"command_id":"cart"}}' {at(3)}"""],
        [Finding("metadata", "the digest of its command is missing", SHARD, 3, f"order-{KEY}-2", 1)],
    ),
    "a command's row with another's metadata": (
        [f"""UPDATE events SET command_key = 'cart', metadata = '{{"command_id":"bag","digest":"1"}}' {at(3)}"""],
        [Finding("metadata", "its command is 'cart', and 'bag' in the metadata", SHARD, 3, f"order-{KEY}-2", 1)],
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
async def test_each_kind_of_damage_is_found_and_nothing_else(store: EventStore, path: Path, kind: str) -> None:
    statements, expected = DAMAGE[kind]
    plant(path, *statements)
    assert sorted(await findings(store), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("data", """'{"more":1}'""", "decoding"),
        ("data", "'{'", "decoding"),
        ("data", "X'7B7D'", "decoding"),
        ("data", "CAST(X'227BFF' AS TEXT)", "decoding"),
        ("metadata", "'{'", "metadata"),
        ("metadata", "'[]'", "metadata"),
        ("metadata", "X'7B7D'", "metadata"),
        ("type", "X'00'", "decoding"),
    ],
)
async def test_rows_that_hold_no_text_no_json_or_other_fields_are_found(
    store: EventStore, path: Path, column: str, value: str, check: str
) -> None:
    plant(path, f"UPDATE events SET {column} = {value} {at(3)}")
    (finding,) = await findings(store)
    assert (finding.check, finding.shard, finding.position) == (check, SHARD, 3)
    assert (finding.stream, finding.version) == (f"order-{KEY}-2", 1)
    assert str(finding).startswith(f"shard {SHARD}, position 3, order-{KEY}-2 version 1: {check}: ")


async def test_a_row_that_holds_no_text_leaves_other_streams_readable(store: EventStore, path: Path) -> None:
    plant(path, f"UPDATE events SET data = X'00' {at(3)}")
    damaged, sound = f"order-{KEY}-2", f"order-{KEY}-1"
    histories = await store.read_histories({damaged: None, sound: None})
    rows = {record.stream: record for record in histories.records}
    assert EVENTS.decode(rows[sound])
    with pytest.raises(UndecodableEvent):
        EVENTS.decode(rows[damaged])


async def test_what_is_appended_meanwhile_is_no_finding(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = await store.heads()
    answers = [{**heads, SHARD: 4}, heads]

    async def rising() -> dict[int, int]:
        return answers.pop(0)

    monkeypatch.setattr(store, "heads", rising)
    done = await audit_shard(store, EVENTS, SHARD, lambda more: None)
    assert (done.events, done.findings) == (4, [])


async def test_streams_that_were_forgotten_are_asked_for(
    store: EventStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "StreamChecker", lambda reader: StreamChecker(reader, streams_max=1))
    assert await findings(store) == []
    plant(path, *DAMAGE["a version left out"][0])
    (finding,) = await findings(store)
    assert (finding.check, finding.position, finding.version) == ("version", 5, 4)
    assert finding.problem.startswith("version 3 is missing")


async def test_only_the_first_findings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FINDINGS_MAX", 2)
    done = ShardAudit(0)
    for position in range(5):
        done.add(Finding("position", "x", 0, position))
    assert (done.found, [finding.position for finding in done.findings]) == (5, [0, 1])
