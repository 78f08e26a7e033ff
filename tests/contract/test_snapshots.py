"""Snapshots in a store: found by stream, in one transaction, an older one never in the place of a newer one."""

from __future__ import annotations

import pytest

from store import EventStore, StoreRejected, paging
from store.records import Snapshot, SnapshotPlace
from tests.contract.conftest import Opener
from tests.contract.rows import append, own, rows

DATA = '{"text":"Zoë said \\"5 €\\" \\u0000 \U0001f600","amount":"12345678901234567890.12"}'


def snapshot(stream: str, version: int, data: str = DATA) -> Snapshot:
    return Snapshot(stream, version, "f1", data, 1_764_000_000_123_456)


async def test_what_is_written_is_read_by_stream(store: EventStore, open_another: Opener) -> None:
    first, second = snapshot("note-a", 100), snapshot("note-\U0001f600", 7, "{}")
    await store.write_snapshots([first, second])
    other = await open_another()
    assert await other.read_snapshots(["note-a", "note-\U0001f600", "note-none"]) == {
        "note-a": first,
        "note-\U0001f600": second,
    }
    assert await other.read_snapshots([]) == {}
    await store.write_snapshots([])


async def test_a_newer_one_takes_the_place_and_an_older_one_does_not(store: EventStore) -> None:
    await store.write_snapshots([snapshot("note-a", 100)])
    newer = snapshot("note-a", 200)
    await store.write_snapshots([newer])
    await store.write_snapshots([snapshot("note-a", 100), snapshot("note-b", 1)])
    assert await store.read_snapshots(["note-a", "note-b"]) == {"note-a": newer, "note-b": snapshot("note-b", 1)}


async def test_one_of_the_same_version_takes_the_place(store: EventStore) -> None:
    await store.write_snapshots([snapshot("note-a", 100)])
    other_code = snapshot("note-a", 100)._replace(fingerprint="f2")
    await store.write_snapshots([other_code])
    assert await store.read_snapshots(["note-a"]) == {"note-a": other_code}


async def test_of_two_of_one_stream_the_newer_is_kept(store: EventStore) -> None:
    await store.write_snapshots([snapshot("note-a", 200), snapshot("note-a", 100)])
    assert await store.read_snapshots(["note-a"]) == {"note-a": snapshot("note-a", 200)}


async def test_all_are_written_or_none(store: EventStore) -> None:
    with pytest.raises(StoreRejected):
        await store.write_snapshots([snapshot("note-a", 1), snapshot("note-b", 1, '"\ud800"')])
    assert await store.read_snapshots(["note-a", "note-b"]) == {}


@pytest.mark.parametrize("page", [1, 2, 1_000])
async def test_the_places_of_all_are_told_beside_the_log(
    store: EventStore, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paging, "SNAPSHOTS_PAGE", page)
    assert [place async for places in store.snapshot_places() for place in places] == []
    claims = await own(store, "h-1", [1, 2])
    await append(store, claims[1].epoch, rows(1, "note-\U0001f600", 3))
    await append(store, claims[2].epoch, rows(2, "note-b", 2))
    kept = {"note-\U0001f600": 2, "note-b": 7, "note-B": 1, "note-b\x01": 4, "note-ä": 5}
    await store.write_snapshots([snapshot(stream, version) for stream, version in kept.items()])
    found = [place async for places in store.snapshot_places() for place in places]
    assert sorted(found) == [
        SnapshotPlace("note-B", 1, 0, None),
        SnapshotPlace("note-b", 7, 2, 2),
        SnapshotPlace("note-b\x01", 4, 0, None),
        SnapshotPlace("note-ä", 5, 0, None),
        SnapshotPlace("note-\U0001f600", 2, 3, 1),
    ]
