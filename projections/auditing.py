"""Auditing read models: is each row what the log says? Folded anew from the log, and compared row by row.

The fold shares with the runtime what a projection says of each event, and nothing else: no pushes, checkpoints,
retries, batches or SQL. It goes exactly as far as the checkpoints in the snapshot that the rows are read from, so a
runtime may go on writing. Not here: spreading it over processes (`cluster/auditing.py`), samples (`sampling.py`).
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, select

from projections import builds
from projections.changes import Key, Row
from projections.errors import NotThisVersion, ProjectionFailed
from projections.plain_rows import PlainFold, PlainRows, accumulated_row, add_to
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.row_texts import RowTexts, differing, named
from projections.tables import Build
from store.codec import EventRegistry
from store.paging import read_log
from store.ports import EventReader
from store.records import Checkpoint

PAGE_ROWS = 2_000
FINDINGS_MAX = 1_000
"""Findings kept; more are counted."""

EXTRA = "nothing in the log makes it"
MISSING = "the log makes it"


class RowFinding(NamedTuple):
    """One thing in a read model that the log does not say, or one that it says and that isn't there."""

    projection: str
    check: str
    """missing, extra or different: of a row. checkpoint: it is not where the log could have brought it. fold: an event
    up to the checkpoint can't be applied."""
    problem: str
    table: str | None = None
    key: str | None = None
    """Of the row: its primary key's values."""
    column: str | None = None
    """The first that differs."""
    shard: int | None = None

    def __str__(self) -> str:
        place = self.projection
        if self.table is not None:
            place += f", {self.table} {ascii(self.key)[1:-1]}"
        if self.shard is not None:
            place += f", shard {self.shard}"
        return f"{place}: {self.check}: {self.problem}"


@dataclass
class ShardFold:
    """What the log of one shard makes of some projections, in texts, up to a checkpoint of each."""

    shard: int
    events: int = 0
    seconds: float = 0.0
    rows: dict[tuple[str, str], list[tuple[str, str]]] = field(default_factory=dict)
    """By projection and table: the keys and rows that this shard alone makes, as JSON texts."""
    amounts: dict[tuple[str, str], dict[Key, dict[str, Any]]] = field(default_factory=dict)
    """By projection and table: what this shard adds to rows of several shards."""
    findings: list[RowFinding] = field(default_factory=list)


async def fold_shard(
    store: EventReader,
    projections: Iterable[type[Projection]],
    events: EventRegistry,
    shard: int,
    checkpoints: Mapping[str, Mapping[int, Checkpoint]],
    progress: Callable[[int], None],
) -> ShardFold:
    """Fold one shard's log for projections, each up to its checkpoint; the log is read once, page by page.

    Holds the rows of the shard in memory. Raises StoreUnavailable; what can't be applied, and a checkpoint that the log
    doesn't have, are findings.
    """
    began_s = time.perf_counter()
    done = ShardFold(shard)
    folds = {fold.projection.name: (fold, PlainRows()) for fold in (PlainFold(each, events) for each in projections)}
    ends = {name: checkpoints[name].get(shard, Checkpoint(0, None)) for name in folds}
    stopped: set[str] = set()
    position = 0
    async for page in read_log(store, shard, 0, max((end.position for end in ends.values()), default=0)):
        for record in page:
            position = record.position
            for name, (fold, rows) in folds.items():
                if position > ends[name].position or name in stopped:
                    continue
                try:
                    fold.apply(record, rows)
                except ProjectionFailed as error:
                    stopped.add(name)
                    done.findings.append(RowFinding(name, "fold", str(error), shard=shard))
                if position == ends[name].position and ends[name].event_id != record.event_id:
                    done.findings.append(_checkpoint(name, shard, position, "the log has another event there"))
        done.events += len(page)
        progress(len(page))
    for name, (fold, rows) in folds.items():
        if ends[name].position > position:
            reason = f"the log ends at {position}"
            done.findings.append(_checkpoint(name, shard, ends[name].position, reason))
        _keep(done, fold.projection, rows)
    done.seconds = time.perf_counter() - began_s
    return done


class LiveRows:
    """The rows of read models as they were in one snapshot of each, kept in a file of its own while they are compared.

    Blocks, but never for longer than a page.
    """

    def __init__(self, file: Path) -> None:
        self._file = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        self._file.execute("PRAGMA journal_mode = OFF")
        self._file.execute("PRAGMA synchronous = OFF")
        self._file.execute(
            "CREATE TABLE live (projection TEXT, name TEXT, key TEXT, row TEXT, PRIMARY KEY (projection, name, key))"
            " WITHOUT ROWID"
        )
        self.checkpoints: dict[str, dict[int, Checkpoint]] = {}
        self.rows: dict[str, int] = {}
        """By projection: how many there were."""

    async def read(self, read_models: ReadModels, projection: type[Projection], shards: Iterable[int]) -> None:
        """Take all rows of what is read of a projection, and how far it is, in one snapshot.

        Raises ReadModelMissing, ReadModelUnavailable, ReadModelVersion, and NotThisVersion where an older one is live.
        """

        def work(connection: Connection, build: Build) -> tuple[dict[int, Checkpoint], int]:
            check_version(projection, build)
            self._file.execute("DELETE FROM live WHERE projection = ?", [projection.name])  # it may be run again
            count = 0
            for logical, table in projection.physical_tables(build).items():
                texts = RowTexts(logical)
                found = connection.execution_options(yield_per=PAGE_ROWS).execute(select(table)).mappings()
                for page in found.partitions():
                    rows = [texts.as_json(texts.of_read(dict(row))) for row in page]
                    place = projection.name, logical.name
                    self._file.executemany("INSERT INTO live VALUES (?, ?, ?, ?)", [(*place, *row) for row in rows])
                    count += len(rows)
            return builds.checkpoints_of(connection, projection.name, build, list(shards)), count

        found = await read_models.read_live(projection, work, for_long=True)
        self.checkpoints[projection.name], self.rows[projection.name] = found

    def take(self, projection: str, table: str, key: str) -> str | None:
        """Return a row and forget it; None if there is none."""
        place = projection, table, key
        found = self._file.execute("SELECT row FROM live WHERE (projection, name, key) = (?, ?, ?)", place).fetchone()
        if found is None:
            return None
        self._file.execute("DELETE FROM live WHERE (projection, name, key) = (?, ?, ?)", place)
        row: str = found[0]
        return row

    def left(self, projection: str, table: str) -> Iterator[tuple[str, str]]:
        """Yield the keys and rows that were not taken."""
        query = "SELECT key, row FROM live WHERE (projection, name) = (?, ?) ORDER BY key"
        yield from self._file.execute(query, (projection, table))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class Comparison:
    """Compares what shards make with what is there, as shards come in."""

    def __init__(self, live: LiveRows, projections: Sequence[type[Projection]]) -> None:
        self._live = live
        self._tables = {(each.name, table.name): table for each in projections for table in each.tables}
        self._amounts: dict[tuple[str, str], dict[Key, dict[str, Any]]] = {}
        self.findings: list[RowFinding] = []
        self.found: dict[str, int] = {each.name: 0 for each in projections}
        """Findings in all, by projection."""

    def add(self, shard: ShardFold) -> None:
        """Compare the rows that a shard alone makes; keep what it adds to others."""
        for finding in shard.findings:
            self._note(finding)
        for place, rows in shard.rows.items():
            self._compare(place, rows)
        for place, amounts in shard.amounts.items():
            sums = self._amounts.setdefault(place, {})
            for key, more in amounts.items():
                add_to(sums.setdefault(key, {}), more)

    def finish(self) -> None:
        """Compare the rows of several shards, then look for rows that no event has made. To be called at the end."""
        for place, sums in self._amounts.items():
            table = self._tables[place]
            texts = RowTexts(table)
            rows = (accumulated_row(table, key, amounts) for key, amounts in sums.items())
            self._compare(place, (texts.as_json(texts.of_made(row)) for row in rows))
        for (projection, name), table in self._tables.items():
            for key, row in self._live.left(projection, name):
                problem = f"{EXTRA}: {named(table, json.loads(row))}"
                self._note(RowFinding(projection, "extra", problem, name, _key_shown(key)))

    def _compare(self, place: tuple[str, str], rows: Iterable[tuple[str, str]]) -> None:
        projection, name = place
        for key, made in rows:
            there = self._live.take(projection, name, key)
            if there is None:
                problem = f"{MISSING}: {named(self._tables[place], json.loads(made))}"
                self._note(RowFinding(projection, "missing", problem, name, _key_shown(key)))
            elif there != made:
                difference = differing(self._tables[place], json.loads(there), json.loads(made))
                self._note(RowFinding(projection, "different", difference[1], name, _key_shown(key), difference[0]))

    def _note(self, finding: RowFinding) -> None:
        self.found[finding.projection] += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(finding)


def _key_shown(key: str) -> str:
    return ", ".join("NULL" if each is None else each for each in json.loads(key))


def compared(
    projection: str, table: Table, keys: Iterable[Key], there: Mapping[Key, Row], made: Mapping[Key, Row], shard: int
) -> list[RowFinding]:
    """Return in which of the rows with these keys what is there is not what was made."""
    texts, findings = RowTexts(table), []
    for key in keys:
        found = None if key not in there else texts.of_read(there[key])
        wanted = None if key not in made else texts.of_made(made[key])
        if found == wanted:
            continue
        column = None
        if found is None or wanted is None:
            check = "missing" if found is None else "extra"
            problem = f"{EXTRA if wanted is None else MISSING}: {named(table, wanted or found or ())}"
        else:
            check = "different"
            column, problem = differing(table, found, wanted)
        shown, _ = texts.as_json(wanted or found or ())
        findings.append(RowFinding(projection, check, problem, table.name, _key_shown(shown), column, shard))
    return findings


def check_version(projection: type[Projection], build: Build) -> None:
    """Raise NotThisVersion where what is read was made by an older version than this code's."""
    if build.version != projection.version:
        raise NotThisVersion(projection.name, build.version, projection.version)


def _checkpoint(name: str, shard: int, position: int, reason: str) -> RowFinding:
    return RowFinding(name, "checkpoint", f"it is at {position}, and {reason}", shard=shard)


def _keep(done: ShardFold, projection: type[Projection], made: PlainRows) -> None:
    for table in projection.tables:
        texts, place = RowTexts(table), (projection.name, table.name)
        if table in made.amounts:
            done.amounts[place] = made.amounts[table]
        done.rows[place] = [texts.as_json(texts.of_made(row)) for row in made.rows.get(table, {}).values()]
