"""How SQLite goes about the hot reads, and which rows it brings in the careful form."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from store.opening import open_store
from store.sqlite_rows import (
    FIND_COMMANDS,
    READ_SHARD,
    READ_STREAM,
    READ_STREAMS,
    Unfit,
    careful_records_of,
    carefully,
    records_of,
)
from tests.contract.rows import append, own, rows

SHARD = (1, 0, 10)
QUERIES = {
    READ_SHARD: SHARD,
    READ_STREAM: ("note-a", 0, 10),
    READ_STREAMS: ('[["note-a", 0]]', 10),
    FIND_COMMANDS: ('[[1, "k", "note-a"]]',),
}


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store of one stream of 30 events in one shard: what tempts a planner most to go through the whole table."""
    path = tmp_path / "notes.db"
    store = await open_store(f"sqlite:///{path}", 4)
    await own(store, "h-1", [1])
    await append(store, 1, rows(1, "note-a", 30))
    await store.close()
    return path


@pytest.mark.parametrize("analyzed", [False, True])
def test_each_hot_read_goes_through_a_range_of_an_index_which_gives_the_order(path: Path, analyzed: bool) -> None:
    with closing(sqlite3.connect(path)) as connection:
        if analyzed:
            connection.execute("ANALYZE")
        for query, values in QUERIES.items():
            plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}", values)]
            assert [step for step in plan if "SEARCH events USING" in step], plan
            assert not [step for step in plan if "TEMP B-TREE" in step or "CO-ROUTINE" in step or step == "SCAN events"]


@pytest.mark.parametrize(
    "damage",
    [
        "event_id = X'00'",
        "event_id = '0123456789abcdef'",
        "event_id = CASE position WHEN 1 THEN zeroblob(15) WHEN 2 THEN zeroblob(17) ELSE event_id END",
        "metadata = X'7B7D'",
        "stream = CAST('note-a' AS BLOB)",
        "data = data || char(30)",
    ],
)
def test_rows_of_an_odd_form_are_read_in_the_careful_one(path: Path, damage: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert len(records_of(connection.execute(READ_SHARD, SHARD).fetchone())) == 10
        connection.execute(f"UPDATE events SET {damage} WHERE position < 3")
        with pytest.raises(Unfit):
            records_of(connection.execute(READ_SHARD, SHARD).fetchone())
        assert len(careful_records_of(connection.execute(carefully(READ_SHARD), SHARD).fetchone())) == 10


@pytest.mark.parametrize(
    ("damage", "fits"),
    [
        ("event_id = X'00'", False),
        ("event_id = CASE position WHEN 1 THEN zeroblob(15) WHEN 2 THEN zeroblob(17) ELSE event_id END", False),
        ("data = data || char(30)", False),
        ("metadata = metadata || char(30)", False),
        ("command_key = char(30)", False),
        ("data = CAST(data AS BLOB), metadata = CAST(metadata AS BLOB)", True),
    ],
)
def test_what_is_folded_is_read_in_the_careful_form_where_its_columns_would_not_fit(
    path: Path, damage: str, fits: bool
) -> None:
    with closing(sqlite3.connect(path)) as connection:
        whole = list(records_of(connection.execute(READ_STREAMS, QUERIES[READ_STREAMS]).fetchone()))
        connection.execute(f"UPDATE events SET {damage} WHERE position = 1 OR position = 2 AND {'zeroblob' in damage}")
        row = connection.execute(READ_STREAMS, QUERIES[READ_STREAMS]).fetchone()
        if fits:
            assert records_of(row) == whole
        else:
            with pytest.raises(Unfit):
                records_of(row)
        careful = careful_records_of(connection.execute(carefully(READ_STREAMS), QUERIES[READ_STREAMS]).fetchone())
        assert [each.version for each in careful] == list(range(1, 11))
