"""`eventray store`, `audit` and `replay`, as their users meet them."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from actors.replay import Failure
from cluster import replaying
from cluster.replaying import StoreReplay
from store import open_store
from tests.acceptance.commandline import EVENTRAY, all_events, environment, eventray, in_process
from tests.logs import Log, created, ordered

pytestmark = pytest.mark.timeout(180)
CUSTOMERS = 300
STORE = ["--store", "sqlite:///shop.db"]
COPY = ["--store", "sqlite:///copy.db"]


@pytest.fixture
async def shop(tmp_path: Path) -> Path:
    """A directory with a store of 600 events in 8 shards."""
    store = await open_store(f"sqlite:///{tmp_path / 'shop.db'}", shards=8)
    log = await Log.on(store)
    customers = [f"c-{number}" for number in range(CUSTOMERS)]
    await log.write(*(event for key in customers for event in (created(key), ordered(key, "1"))))
    await store.release(1)
    await store.close()
    return tmp_path


def test_a_store_is_exported_imported_with_other_shards_and_nothing_comes_twice(shop: Path) -> None:
    exported = in_process(shop, "store", "export", "log.jsonl", *STORE, "--json")
    assert (exported.exit_code, exported.err) == (0, "")
    assert exported.json == {"file": "log.jsonl", "events": 600}
    first = in_process(shop, "store", "import", "log.jsonl", *COPY, "--shards", "3", "--json")
    assert (first.exit_code, first.err) == (0, "")
    assert (first.json["events"], first.json["imported"], first.json["shards"]) == (600, 600, 3)
    again = in_process(shop, "store", "import", "log.jsonl", *COPY, "--json")
    assert (again.exit_code, again.json) == (0, {**first.json, "imported": 0})
    assert {row[5]: row[2:] for row in all_events(shop / "copy.db")} == {
        row[5]: row[2:] for row in all_events(shop / "shop.db")
    }


def test_an_import_that_was_killed_is_completed_by_the_next(shop: Path) -> None:
    assert in_process(shop, "store", "export", "log.jsonl", *STORE).exit_code == 0
    script = (
        "import os, signal; from store import importing; from cluster.cli import main, store as verb;"
        "importing.COMMIT_RECORDS_MAX = 50;"
        "kill_itself = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= 300 else None;"
        "verb._bar = lambda *a: kill_itself;"
        "main()"
    )
    killed = subprocess.run(
        [EVENTRAY[0], "-c", script, "store", "import", "log.jsonl", *COPY], cwd=shop, env=environment(), check=False
    )
    assert killed.returncode == -signal.SIGKILL
    assert len(all_events(shop / "copy.db")) == 300
    done = in_process(shop, "store", "import", "log.jsonl", *COPY, "--json")
    assert (done.exit_code, done.json["imported"], done.json["shards"]) == (0, 300, 8)
    assert all_events(shop / "copy.db") == all_events(shop / "shop.db")


def test_what_is_refused_makes_the_exit_code_1_and_wrong_usage_2(shop: Path) -> None:
    assert in_process(shop, "store", "export", "log.jsonl", *STORE).exit_code == 0
    lines = (shop / "log.jsonl").read_text().splitlines()
    lines[4] = json.dumps({**json.loads(lines[4]), "version": 7})
    (shop / "log.jsonl").write_text("\n".join(lines) + "\n")
    broken = in_process(shop, "store", "import", "log.jsonl", *COPY)
    assert (broken.exit_code, broken.out) == (1, "")
    assert broken.err.startswith("eventray: Line 5 of the archive, version: ")
    into_itself = in_process(shop, "store", "import", "log.jsonl", *STORE, "--shards", "5")
    assert into_itself.exit_code == 1
    assert "8 shards" in into_itself.err
    (shop / "cut.jsonl").write_text("\n".join(lines[:4])[:-1])
    cut = in_process(shop, "store", "import", "cut.jsonl", "--store", "sqlite:///none.db")
    assert (cut.exit_code, "finish the export that made it" in cut.err) == (1, True)
    assert not (shop / "none.db").exists()
    nowhere = in_process(shop, "store", "import", "log.jsonl", "--store", "memory://shop")
    assert (nowhere.exit_code, "a memory store serves one process" in nowhere.err) == (1, True)
    assert in_process(shop, "store", "import", "missing.jsonl", *COPY).exit_code == 2
    assert in_process(shop, "store", "export", "x.jsonl", "--store", "sqlite:///none.db").exit_code == 1
    assert not (shop / "x.jsonl").exists()


def test_a_backup_is_a_store_and_never_overwrites(shop: Path) -> None:
    done = in_process(shop, "store", "backup", "copy.db", *STORE, "--json")
    assert (done.exit_code, done.err) == (0, "")
    assert done.json == {"file": "copy.db", "bytes": (shop / "copy.db").stat().st_size}
    assert all_events(shop / "copy.db") == all_events(shop / "shop.db")
    again = in_process(shop, "store", "backup", "copy.db", *STORE)
    assert (again.exit_code, "not overwritten" in again.err) == (1, True)
    server = in_process(shop, "store", "backup", "x.dump", "--store", "postgresql://ada:s3cret@db/shop")
    assert server.exit_code == 1
    assert server.out == "pg_dump --format=custom --file=x.dump --dbname=postgresql://ada@db/shop\n"


def test_a_sound_store_is_replayed_and_of_a_damaged_one_the_damage_is_told(shop: Path) -> None:
    replayed = eventray(shop, "replay", *STORE, "--json", timeout_s=90)
    assert (replayed.exit_code, replayed.err) == (0, "")
    assert replayed.json["types"] == {"CustomerCreated": 300, "OrderCreated": 300}
    assert (replayed.json["events"], replayed.json["aggregates"], replayed.json["failed"]) == (600, 600, 0)
    assert replayed.json["events_per_s"] > 0
    with closing(sqlite3.connect(shop / "shop.db")) as damaged:
        damaged.execute("UPDATE events SET data = '{}' WHERE stream = 'customer-c-7'")
        damaged.commit()
    found = eventray(shop, "audit", "store", *STORE, timeout_s=90)
    assert (found.exit_code, found.err) == (1, "")
    first, last = found.out.splitlines()
    assert "customer-c-7 version 1: decoding: " in first
    assert last.startswith("600 events in 8 shards, 1 findings, ")


def test_a_replay_prints_how_fast_it_was_counts_by_type_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def replayed(*_: object) -> StoreReplay:
        failure = Failure("order-o-1", 2, "it is unlucky")
        return StoreReplay(8, 3_000, 1_000, Counter({"Sent": 1_000, "Made": 2_000}), 2.0, 1, [failure])

    monkeypatch.setattr(replaying, "replay_store", replayed)
    done = in_process(tmp_path, "replay", *STORE)
    assert (done.exit_code, done.out.splitlines()) == (
        1,
        [
            "order-o-1 version 2: it is unlucky",
            "       2,000  Made",
            "       1,000  Sent",
            "       3,000  events of 1,000 aggregates, 2.0 s, 1,500 events/s",
        ],
    )


def test_a_read_model_is_rebuilt_and_what_it_came_to_is_told(shop: Path) -> None:
    rebuilt = eventray(shop, "rebuild", "CustomerProjection", *STORE, "--json", timeout_s=90)
    assert (rebuilt.exit_code, rebuilt.err) == (0, "")
    assert list(rebuilt.json) == ["projection", "version", "events", "seconds", "events_per_s"]
    assert (rebuilt.json["projection"], rebuilt.json["version"], rebuilt.json["events"]) == (
        "CustomerProjection",
        1,
        600,
    )
    row = in_process(shop, "query", "CustomerProjection", "c-7", *STORE, "--json")
    assert (row.exit_code, row.json["total_orders"]) == (0, 1)
    unknown = in_process(shop, "rebuild", "Nobody", *STORE)
    assert (unknown.exit_code, unknown.out) == (1, "")
    assert "CustomerProjection" in unknown.err
