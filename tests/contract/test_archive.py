"""Exporting a store and importing it into another, on every backend."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.customers import CustomerCreated
from projections.handler import Handler
from projections.handler_sink import HandlerSink
from store import (
    EventRecord,
    EventRegistry,
    EventStore,
    InvalidValue,
    StoreHeld,
    archive,
    exporting,
    importing,
    open_store,
    paging,
)
from store.errors import BrokenArchive, DamagedLog, OtherContent, UnfinishedImport
from store.exporting import export_log
from store.identity import shard_of
from store.importing import check_imported, import_log
from store.records import Checkpoint
from store.writing import OfflineWriter
from tests.contract.rows import SHARDS, row

OTHER_SHARDS = 5


class Stopped(Exception):
    """An interruption, where a kill would be."""


def quiet(done: int, total: int) -> None:
    assert 0 < done <= total


def rows_of(stream_count: int, versions: int) -> list[EventRecord]:
    """Records of many streams, two a partition key, in turns."""
    heads = dict.fromkeys(range(SHARDS), 0)
    records = []
    for version in range(1, versions + 1):
        for number in range(stream_count):
            key = f"k-{number // 2}"
            shard = shard_of(key, SHARDS)
            heads[shard] += 1
            record = row(shard, heads[shard], f"note-{number}", version, f"{number}/{version}" if version % 2 else None)
            records.append(record._replace(partition_key=key))
    return records


async def fill(store: EventStore, records: Sequence[EventRecord]) -> None:
    by_shard: dict[int, list[EventRecord]] = {}
    for record in records:
        by_shard.setdefault(record.shard, []).append(record)
    async with OfflineWriter(store, "a test") as writer:
        await writer.append(by_shard)


async def log_of(store: EventStore) -> list[EventRecord]:
    return [record for shard in range(store.shards) for record in await store.read_shard(shard, 0, 100_000)]


@pytest.fixture
async def filled(store: EventStore) -> EventStore:
    await fill(store, rows_of(30, 4))
    return store


@pytest.fixture
async def target(new_url: Callable[[], str]) -> AsyncIterator[EventStore]:
    """An empty store of the same backend, with another number of shards."""
    opened = await open_store(new_url(), shards=OTHER_SHARDS)
    yield opened
    await opened.close()


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paging, "PAGE_RECORDS_MAX", 7)
    monkeypatch.setattr(paging, "FIRST_PAGE_RECORDS", 7)
    monkeypatch.setattr(importing, "COMMIT_RECORDS_MAX", 7)
    monkeypatch.setattr(archive, "BLOCK_BYTES", 64)


def by_key(records: Sequence[EventRecord]) -> dict[str, list[EventRecord]]:
    """What must survive: everything but shard and position, in each key's order."""
    found: dict[str, list[EventRecord]] = {}
    for record in records:
        found.setdefault(record.partition_key, []).append(record._replace(shard=0, position=0))
    return found


async def test_an_archive_brings_everything_to_another_number_of_shards(
    filled: EventStore, target: EventStore, tmp_path: Path, small_pages: None
) -> None:
    exported: list[tuple[int, int]] = []
    imported: list[tuple[int, int]] = []
    assert await export_log(filled, tmp_path / "log.jsonl", lambda *numbers: exported.append(numbers)) == 120
    assert await import_log(tmp_path / "log.jsonl", target, lambda *numbers: imported.append(numbers)) == 120
    for told in (exported, imported):
        assert told == sorted(set(told))
        assert (len(told) > 10, told[-1]) == (True, (120, 120))
    before, after = await log_of(filled), await log_of(target)
    assert by_key(after) == by_key(before)
    assert all(record.shard == shard_of(record.partition_key, OTHER_SHARDS) for record in after)
    heads = await target.heads()
    for shard in range(OTHER_SHARDS):
        positions = [record.position for record in after if record.shard == shard]
        assert positions == list(range(1, heads[shard] + 1))
    assert target.store_id != filled.store_id


async def test_no_handler_begins_before_what_was_imported(
    filled: EventStore, target: EventStore, tmp_path: Path
) -> None:
    class Notified(Handler, start="beginning"):
        async def on_created(self, event: CustomerCreated) -> None: ...

    await export_log(filled, tmp_path / "log.jsonl", quiet)
    await import_log(tmp_path / "log.jsonl", target, quiet)
    heads = await target.heads()
    begin = dict.fromkeys(range(OTHER_SHARDS), Checkpoint(0, None))
    found = await HandlerSink(target, Notified(), EventRegistry([CustomerCreated])).prepare(begin)
    assert {shard: checkpoint.position for shard, checkpoint in found.items()} == heads
    last = await target.read_shard(0, heads[0] - 1, 1)
    assert found[0].event_id == last[0].event_id
    found = await HandlerSink(filled, Notified(), EventRegistry([CustomerCreated])).prepare({0: Checkpoint(0, None)})
    assert found == {0: Checkpoint(0, None)}, "nothing was imported there"


async def test_the_archive_is_plain_json_lines(filled: EventStore, tmp_path: Path) -> None:
    await export_log(filled, tmp_path / "log.jsonl", quiet)
    header, *lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    heads = await filled.heads()
    assert header == {
        "format": "eventray-archive",
        "version": 1,
        "store_id": filled.store_id,
        "shards": SHARDS,
        "heads": [heads[shard] for shard in range(SHARDS)],
    }
    assert [(line["shard"], line["position"]) for line in lines] == [record[:2] for record in await log_of(filled)]
    assert lines[0]["data"] == (await log_of(filled))[0].data


@pytest.mark.parametrize("cut", ["in the header", "after the header", "in a line", "after a line", "before the end"])
async def test_an_interrupted_export_is_continued(
    filled: EventStore, tmp_path: Path, small_pages: None, cut: str
) -> None:
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    await export_log(filled, whole, quiet)
    content = whole.read_bytes()
    ends = [place for place, byte in enumerate(content, 1) if byte == ord("\n")]
    places = {
        "in the header": 20,
        "after the header": ends[0],
        "in a line": ends[40] + 9,
        "after a line": ends[40],
        "before the end": len(content) - 1,
    }
    part.write_bytes(content[: places[cut]])
    await fill_more(filled)
    if cut == "in the header":
        assert await export_log(filled, part, quiet) == 121
    else:
        assert await export_log(filled, part, quiet) == 120
        assert part.read_bytes() == content


async def fill_more(store: EventStore) -> None:
    shard = shard_of("new", SHARDS)
    record = row(shard, (await store.heads())[shard] + 1, "note-new", 1)
    await fill(store, [record._replace(partition_key="new")])


async def test_a_finished_archive_is_done_until_the_log_goes_on(filled: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    content = path.read_bytes()
    assert await export_log(filled, path, quiet) == 120
    await fill_more(filled)
    with pytest.raises(InvalidValue, match="finished"):
        await export_log(filled, path, quiet)
    assert path.read_bytes() == content


async def test_files_of_something_else_are_left_as_they_are(
    filled: EventStore, target: EventStore, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    await fill_target(target)
    await export_log(target, path, quiet)
    for content in (b"a letter\n", b"a letter", b'{"format":"eventray-archive","version":2}\n', path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InvalidValue, match="file = "):
            await export_log(filled, path, quiet)
        assert path.read_bytes() == content


async def test_a_file_that_can_not_be_written_or_read_is_named(filled: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "none" / "log.jsonl"
    with pytest.raises(InvalidValue, match=r"file = .*log\.jsonl: it can't be written \(No such file or directory\)"):
        await export_log(filled, path, quiet)
    with pytest.raises(InvalidValue, match=r"file = .*log\.jsonl: it can't be read \(No such file or directory\)"):
        await import_log(path, filled, quiet)


async def fill_target(target: EventStore) -> None:
    shard = shard_of("k", OTHER_SHARDS)
    await fill(target, [row(shard, 1, "other-1", 1)._replace(partition_key="k")])


async def test_an_empty_store_has_an_archive_too(store: EventStore, target: EventStore, tmp_path: Path) -> None:
    assert await export_log(store, tmp_path / "log.jsonl", quiet) == 0
    assert await export_log(store, tmp_path / "log.jsonl", quiet) == 0
    assert await import_log(tmp_path / "log.jsonl", target, quiet) == 0


async def test_an_interrupted_import_is_completed_and_nothing_comes_twice(
    filled: EventStore, target: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_pages: None
) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)

    def stop(done: int, total: int) -> None:
        if done >= 60:
            raise Stopped

    with pytest.raises(Stopped):
        await import_log(path, target, stop)
    there = sum((await target.heads()).values())
    assert 60 <= there < 120
    with pytest.raises(UnfinishedImport, match="120 events"):
        await check_imported(target)
    monkeypatch.setattr(importing, "COMMIT_RECORDS_MAX", 11)
    assert await import_log(path, target, quiet) == 120 - there
    await check_imported(target)
    assert by_key(await log_of(target)) == by_key(await log_of(filled))
    assert await import_log(path, target, quiet) == 0
    assert sum((await target.heads()).values()) == 120


async def test_a_store_that_holds_something_else_is_refused(
    filled: EventStore, target: EventStore, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    await fill_target(target)
    before = await log_of(target)
    with pytest.raises(OtherContent):
        await import_log(path, target, quiet)
    assert await log_of(target) == before
    await check_imported(target)


async def test_a_store_that_has_gone_on_since_is_refused(
    filled: EventStore, store: EventStore, target: EventStore, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    await fill_more(store)
    with pytest.raises(OtherContent, match="121"):
        await import_log(path, store, quiet)


async def test_a_held_store_is_not_imported_into(filled: EventStore, target: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    async with OfflineWriter(target, "somebody"):
        with pytest.raises(StoreHeld, match="somebody"):
            await import_log(path, target, quiet)


def changed(line: dict[str, Any], **fields: Any) -> str:
    return json.dumps({**line, **fields})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 9),
        ("version", "1"),
        ("version", 0),
        ("partition_key", "another"),
        ("position", 99),
        ("shard", SHARDS),
        ("event_id", "no uuid"),
        ("data", "{"),
        ("metadata", "nothing"),
        ("recorded_at", 2**63),
        ("stream", "note-\0"),
        ("type", None),
        ("more", 1),
    ],
)
async def test_a_broken_line_is_named_with_its_field(
    filled: EventStore, target: EventStore, tmp_path: Path, field: str, value: object
) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    lines = path.read_text().splitlines()
    lines[9] = changed(json.loads(lines[9]), **{field: value})
    path.write_text("\n".join(lines) + "\n")
    expected = {"another": "shard"}.get(str(value), field)
    with pytest.raises(BrokenArchive, match=rf"Line 10 of the archive, {expected}") as caught:
        await import_log(path, target, quiet)
    assert (caught.value.line, caught.value.field) == (10, expected)
    assert sum((await target.heads()).values()) < 9


async def test_a_stream_with_two_partition_keys_is_refused(
    target: EventStore, store: EventStore, tmp_path: Path
) -> None:
    path = tmp_path / "log.jsonl"
    key = "k"
    other = next(f"o-{n}" for n in range(1000) if shard_of(f"o-{n}", SHARDS) == shard_of(key, SHARDS))
    shard = shard_of(key, SHARDS)
    records = [row(shard, 1, "note-1", 1), row(shard, 2, "note-1", 2)]
    await fill(store, [record._replace(partition_key=key) for record in records])
    await export_log(store, path, quiet)
    lines = path.read_text().splitlines()
    lines[2] = changed(json.loads(lines[2]), partition_key=other)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(BrokenArchive, match="Line 3 of the archive, partition_key"):
        await import_log(path, target, quiet)


@pytest.mark.parametrize("kept", [1, 2, 50, 120])
async def test_an_archive_that_is_not_whole_is_refused_before_anything_is_imported(
    filled: EventStore, target: EventStore, tmp_path: Path, kept: int
) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:kept]))
    with pytest.raises(BrokenArchive, match="finish the export"):
        await import_log(path, target, quiet)
    assert sum((await target.heads()).values()) == 0


async def test_a_line_left_out_or_put_in_is_noticed(filled: EventStore, target: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    await export_log(filled, path, quiet)
    lines = path.read_text().splitlines(keepends=True)
    for wrong in (lines[:5] + lines[6:], lines[:6] + lines[5:]):
        path.write_text("".join(wrong))
        with pytest.raises(BrokenArchive, match=r"Line [67] of the archive, (position|shard)"):
            await import_log(path, target, quiet)


async def test_a_log_with_a_hole_is_not_exported(
    filled: EventStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = filled.read_shard

    async def without_one(shard: int, after_position: int, limit: int) -> list[EventRecord]:
        return [record for record in await original(shard, after_position, limit) if record.position != 3]

    monkeypatch.setattr(filled, "read_shard", without_one)
    with pytest.raises(DamagedLog, match="audit"):
        await export_log(filled, tmp_path / "log.jsonl", quiet)


async def test_two_exports_to_one_file_are_not_run_at_once(filled: EventStore, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with exporting._opened(path), pytest.raises(InvalidValue, match="another export"):
        await export_log(filled, path, quiet)
    await export_log(filled, path, quiet)
    shutil.copy(path, tmp_path / "copy.jsonl")
    assert await export_log(filled, tmp_path / "copy.jsonl", quiet) == 120
