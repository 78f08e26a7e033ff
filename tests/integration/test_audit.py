"""Damage planted in a store, each kind by itself, on each database: exactly it is found."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from actors.customers import Customer
from actors.repository import load_aggregate
from actors.snapshot_audit import SnapshotAuditor
from actors.snapshots import Snapshots
from cluster.application import default_application
from store import EventStore, audit, open_store, paging
from store.audit import Finding, ShardAudit, audit_shard, unsupported_snapshots
from store.errors import StoreDamaged, UndecodableEvent
from store.identity import shard_of
from store.records import EventRecord, Snapshot
from store.streams import StreamChecker
from tests.logs import EVENTS, Log, created, ordered
from tests.postgres import Sql

SHARDS = 4
KEY = "c-1"
SHARD = shard_of(KEY, SHARDS)
SAME_SHARD = next(f"x-{n}" for n in range(100) if shard_of(f"x-{n}", SHARDS) == SHARD)
OTHER_SHARD = (SHARD + 1) % SHARDS
KEY_THERE = next(f"y-{n}" for n in range(100) if shard_of(f"y-{n}", SHARDS) == OTHER_SHARD)
STREAM = f"customer-{KEY}"
STREAM_THERE = f"customer-{KEY_THERE}"

PAGE_BYTES = 4096
"""SQLite's."""

Plant = Callable[..., None]
on_sqlite = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""Damage that PostgreSQL has no form for: its columns hold what their types say."""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return str(request.getfixturevalue("postgres_url"))
    return f"sqlite:///{tmp_path}/audited.db"


@pytest.fixture
def plant(request: pytest.FixtureRequest, url: str, tmp_path: Path) -> Plant:
    """Run statements past the store, each of which must hit a row."""

    def on_file(*statements: str) -> None:
        with closing(sqlite3.connect(tmp_path / "audited.db")) as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount > 0, statement
            connection.commit()

    def on_server(*statements: str) -> None:
        for statement in statements:
            assert Sql(request.getfixturevalue("postgres_server"), url)(f"{statement} RETURNING 1"), statement

    return on_server if url.startswith("postgresql") else on_file


@pytest.fixture
async def store(url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[EventStore]:
    """A sound store: positions 1 to 5 of SHARD are customer c-1, its orders, and c-1 again; OTHER_SHARD has one event.

    Of the customer there it holds a snapshot.
    """
    monkeypatch.setattr(paging, "FIRST_PAGE_RECORDS", 2)
    monkeypatch.setattr(paging, "PAGE_RECORDS_MAX", 2)
    opened = await open_store(url, shards=SHARDS)
    log = await Log.on(opened)
    await log.write(created(KEY), ordered(KEY, "1"), ordered(KEY, "2"), created(KEY))
    await log.write(created(KEY), created(KEY_THERE))
    await opened.release(1)
    snapshot = Snapshots().take(await load_aggregate(opened, EVENTS, Customer, KEY_THERE), 0)
    assert snapshot is not None
    await opened.write_snapshots([snapshot])
    yield opened
    await opened.close()


async def findings(store: EventStore) -> list[Finding]:
    seen: list[int] = []
    beside = SnapshotAuditor(store, default_application().registry).findings
    audits = [await audit_shard(store, EVENTS, shard, seen.append, beside) for shard in range(SHARDS)]
    assert sum(seen) == sum(each.events for each in audits)
    seen.clear()
    unsupported = [finding async for finding in unsupported_snapshots(store, seen.append)]
    assert sum(seen) == 1
    return [finding for each in audits for finding in each.findings] + unsupported


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
    "a snapshot of another state": (
        [f"UPDATE snapshots SET data = replace(data, 'Name of {KEY_THERE}', 'Eve')"],
        [Finding("snapshot", "name is not what the events fold to", OTHER_SHARD, None, STREAM_THERE, 1)],
    ),
    "a snapshot with a partition key of another shard": (
        [f"""UPDATE snapshots SET data = replace(data, '"partition_key":"{KEY_THERE}"', '"partition_key":"{KEY}"')"""],
        [Finding("snapshot", "partition_key is not what the events fold to", OTHER_SHARD, None, STREAM_THERE, 1)],
    ),
    "a snapshot whose data are of another version": (
        ["""UPDATE snapshots SET data = replace(data, '"version":1', '"version":2')"""],
        [Finding("snapshot", "it can't be decoded: its data are of version 2", OTHER_SHARD, None, STREAM_THERE, 1)],
    ),
    "a snapshot above its stream's end": (
        ["UPDATE snapshots SET version = 2"],
        [Finding("snapshot", "its stream ends at version 1", OTHER_SHARD, None, STREAM_THERE, 2)],
    ),
    "a snapshot of other code above its stream's end": (
        ["UPDATE snapshots SET version = 2, fingerprint = 'other code'"],
        [Finding("snapshot", "its stream ends at version 1", OTHER_SHARD, None, STREAM_THERE, 2)],
    ),
    "a snapshot of no version": (
        ["UPDATE snapshots SET version = 0"],
        [Finding("snapshot", "versions begin at 1", OTHER_SHARD, None, STREAM_THERE, 0)],
    ),
    "a snapshot of a stream that never was": (
        ["UPDATE snapshots SET stream = 'customer-gone'"],
        [Finding("snapshot", "its stream has no events", None, None, "customer-gone", 1)],
    ),
    "a snapshot of nobody's stream": (
        ["UPDATE snapshots SET stream = 'nobody'"],
        [Finding("snapshot", "its stream has no events", None, None, "nobody", 1)],
    ),
    "a snapshot whose stream was lost": (
        [
            f"DELETE FROM events WHERE shard = {OTHER_SHARD}",
            f"UPDATE shards SET head = 0 WHERE shard = {OTHER_SHARD}",
        ],
        [Finding("snapshot", "its stream has no events", None, None, STREAM_THERE, 1)],
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
async def test_each_kind_of_damage_is_found_and_nothing_else(store: EventStore, plant: Plant, kind: str) -> None:
    statements, expected = DAMAGE[kind]
    plant(*statements)
    assert sorted(await findings(store), key=str) == sorted(expected, key=str)


@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("data", """'{"more":1}'""", "decoding"),
        ("data", "'{'", "decoding"),
        ("metadata", "'{'", "metadata"),
        ("metadata", "'[]'", "metadata"),
    ],
)
async def test_rows_that_hold_no_json_or_other_fields_are_found(
    store: EventStore, plant: Plant, column: str, value: str, check: str
) -> None:
    await check_one_row(store, plant, column, value, check)


@on_sqlite
@pytest.mark.parametrize(
    ("column", "value", "check"),
    [
        ("data", "X'7B7D'", "decoding"),
        ("data", "CAST(X'227BFF' AS TEXT)", "decoding"),
        ("metadata", "X'7B7D'", "metadata"),
        ("type", "X'00'", "decoding"),
    ],
)
async def test_rows_that_hold_no_text_are_found(
    store: EventStore, plant: Plant, column: str, value: str, check: str
) -> None:
    await check_one_row(store, plant, column, value, check)


async def check_one_row(store: EventStore, plant: Plant, column: str, value: str, check: str) -> None:
    plant(f"UPDATE events SET {column} = {value} {at(3)}")
    (finding,) = await findings(store)
    assert (finding.check, finding.shard, finding.position) == (check, SHARD, 3)
    assert (finding.stream, finding.version) == (f"order-{KEY}-2", 1)
    assert str(finding).startswith(f"shard {SHARD}, position 3, order-{KEY}-2 version 1: {check}: ")


@pytest.mark.parametrize("data", ["{", "", "[]", '{"version":1}'])
async def test_a_snapshot_that_can_not_be_decoded_is_found_unless_other_code_has_made_it(
    store: EventStore, plant: Plant, data: str
) -> None:
    plant(f"UPDATE snapshots SET data = '{data}'")
    (finding,) = await findings(store)
    assert str(finding).startswith(f"shard {OTHER_SHARD}, {STREAM_THERE} version 1: snapshot: it can't be decoded: ")
    plant("UPDATE snapshots SET fingerprint = 'other code'")
    assert await findings(store) == []


@on_sqlite
@pytest.mark.parametrize(
    ("damage", "place"),
    [
        ("stream = X'7B7D'", "{} version 1"),
        ("stream = CAST(X'6E6F7465FF' AS TEXT)", r"note\\xff version 1"),
        ("version = 'one'", f"shard {OTHER_SHARD}, {STREAM_THERE} version 0"),
        ("data = X'7B7D'", f"shard {OTHER_SHARD}, {STREAM_THERE} version 1"),
    ],
)
async def test_a_snapshot_that_holds_no_text_or_number_is_found(
    store: EventStore, plant: Plant, damage: str, place: str
) -> None:
    plant(f"UPDATE snapshots SET {damage}")
    (finding,) = await findings(store)
    assert str(finding).startswith(f"{place}: snapshot: ")


@on_sqlite
async def test_what_the_database_can_not_read_is_found_and_all_else_is_audited(url: str, tmp_path: Path) -> None:
    keys = [f"c-{number}" for number in range(400)]
    kept = await open_store(url, shards=SHARDS)
    log = await Log.on(kept)
    await log.write(*map(created, keys))
    await kept.write_snapshots([Snapshot(f"customer-{key}", 1, "f", f"Snapshot of {key}.", 0) for key in keys])
    heads = await kept.heads()
    await kept.close()
    content = bytearray((tmp_path / "audited.db").read_bytes())
    for text in (b"Name of c-200", b"Snapshot of c-200."):
        page = content.index(text) // PAGE_BYTES * PAGE_BYTES
        content[page : page + PAGE_BYTES] = b"\xff" * PAGE_BYTES
    (tmp_path / "audited.db").write_bytes(content)
    store = await open_store(url)
    audits = [await audit_shard(store, EVENTS, shard, lambda more: None) for shard in range(SHARDS)]
    damaged = shard_of("c-200", SHARDS)
    assert [(found.check, found.shard) for each in audits for found in each.findings] == [("reading", damaged)]
    assert audits[damaged].events < heads[damaged]
    assert all(each.events == heads[each.shard] for each in audits if each.shard != damaged)
    sound = next(shard for shard in range(SHARDS) if shard != damaged)
    beside = await audit_shard(store, EVENTS, sound, lambda more: None, _unreadable)
    assert (beside.events, [found.check for found in beside.findings]) == (heads[sound], ["reading"])
    (finding,) = [finding async for finding in unsupported_snapshots(store, lambda more: None)]
    assert str(finding).startswith("the store: reading: not all snapshots can be looked at: ")
    with pytest.raises(StoreDamaged, match="audit store"):
        await store.read_snapshots([f"customer-{key}" for key in keys])
    await store.close()


async def _unreadable(page: Sequence[EventRecord]) -> list[Finding]:
    raise StoreDamaged("a page is not what it should be", False)


@on_sqlite
async def test_a_row_that_holds_no_text_leaves_other_streams_readable(store: EventStore, plant: Plant) -> None:
    plant(f"UPDATE events SET data = X'00' {at(3)}")
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
    store: EventStore, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "StreamChecker", lambda reader: StreamChecker(reader, streams_max=1))
    assert await findings(store) == []
    plant(*DAMAGE["a version left out"][0])
    (finding,) = await findings(store)
    assert (finding.check, finding.position, finding.version) == ("version", 5, 4)
    assert finding.problem.startswith("version 3 is missing")


async def test_only_the_first_findings_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FINDINGS_MAX", 2)
    done = ShardAudit(0)
    for position in range(5):
        done.add(Finding("position", "x", 0, position))
    assert (done.found, [finding.position for finding in done.findings]) == (5, [0, 1])
