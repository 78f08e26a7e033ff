"""A standing audit: now and then some partition keys' rows are folded anew from the log and compared with what is read.

One projection in one shard at a time. It may take so much of the time and so many keys, whatever the log's length, and
finds what pushes, checkpoints, retries or SQL have done wrong, or somebody's hand. Rows of several shards are left out:
`eventray audit projections` compares these too. Not here: the fold (`plain_rows.py`).
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import structlog
from sqlalchemy import Connection, Table

from projections import builds
from projections.auditing import RowFinding, check_version, compared
from projections.changes import Key, Rows
from projections.errors import ProjectionFailed
from projections.plain_rows import PlainFold, PlainRows
from projections.projection import Projection
from projections.read_models import ReadModels
from projections.row_sql import rows_of
from projections.tables import Build
from store.codec import EventRegistry
from store.errors import EventrayError, told
from store.paging import read_log
from store.ports import EventReader
from store.records import Checkpoint, EventRecord

log = structlog.get_logger(__name__)

TIME_SHARE = 0.02
"""Of the time that one audit takes, it rests all but so much: the log may be long."""
ROWS_MAX = 20_000
"""Rows of a sample; with more it leaves out partition keys."""


@dataclass(frozen=True)
class SampleLimits:
    """How often is looked, and how much."""

    interval_s: float = 60.0
    """Between two audits, of one projection in one shard each; 0: never."""
    keys_max: int = 100
    """Partition keys in one sample."""


class AuditState(NamedTuple):
    """What the standing audit of a projection has come to, in this process since it was started."""

    projection: str
    audits: int = 0
    rows: int = 0
    """Rows compared, in all audits."""
    differences: int = 0
    """Findings, in all audits."""
    last_at: float | None = None
    """When the last one was made, in seconds since 1970; None: there was none."""
    last_shard: int | None = None
    last_rows: int = 0
    last_differences: int = 0
    finding: str = ""
    """The last thing that was found; stays."""
    failure: str = ""
    """Why the last one could not be made."""


class Sample:
    """The rows of a few partition keys, each with all its events: the keys whose hashes under a salt are least.

    Which these are is known only at the log's end. Until then a key with a lesser hash takes the place of the one with
    the greatest, from its first event on; from that one's hash on none is let in any more, so none comes back.
    """

    def __init__(self, fold: PlainFold, keys_max: int, salt: bytes) -> None:
        self._fold, self._keys_max, self._salt = fold, keys_max, salt
        self._greatest: list[tuple[int, str]] = []
        """A heap of negative hashes and their keys."""
        self._below = 2**64
        """Only keys with a lesser hash are let in."""
        self._is_open = True
        self.rows: dict[str, PlainRows] = {}
        """By partition key."""
        self.failed: ProjectionFailed | None = None

    def add(self, record: EventRecord) -> None:
        """Let an event change the rows of its key, if that is in the sample or comes in."""
        key = record.partition_key
        if key not in self.rows and not (self._is_open and self._let_in(key)):
            return
        try:
            self._fold.apply(record, self.rows[key])
        except ProjectionFailed as error:
            self.failed = error

    def shrink(self) -> None:
        """Leave out keys until the rows are few enough; none once it is closed."""
        while self._is_open and self.rows and sum(each.count for each in self.rows.values()) > ROWS_MAX:
            self._leave_out_one()

    def close(self) -> None:
        """Let no further key in, and leave none out."""
        self._is_open = False

    def keys(self) -> dict[Table, set[Key]]:
        """Return which rows there should be, or no longer, by table."""
        found: dict[Table, set[Key]] = {}
        for each in self.rows.values():
            for kept in (each.rows, each.gone):
                for table, keys in kept.items():
                    found.setdefault(table, set()).update(keys)
        return found

    def made(self, table: Table) -> dict[Key, dict[str, object]]:
        """Return the rows of one table."""
        return {key: row for each in self.rows.values() for key, row in each.rows.get(table, {}).items()}

    def _let_in(self, key: str) -> bool:
        digest = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8, key=self._salt).digest())
        if digest >= self._below:
            return False
        heapq.heappush(self._greatest, (-digest, key))
        self.rows[key] = PlainRows()
        if len(self.rows) > self._keys_max:
            self._leave_out_one()
        return key in self.rows

    def _leave_out_one(self) -> None:
        digest, key = heapq.heappop(self._greatest)
        self._below = -digest
        del self.rows[key]


class StandingAudit:
    """Audits samples of some projections in some shards, one after the other."""

    def __init__(
        self,
        store: EventReader,
        read_models: ReadModels,
        projections: Iterable[type[Projection]],
        events: EventRegistry,
        shards: Callable[[], Collection[int]],
        limits: SampleLimits | None = None,
        *,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        draw: random.Random | None = None,
    ) -> None:
        """`shards`: those that are to be looked at, which may change. Raises InvalidValue where a method is none."""
        self._store, self._read_models, self._pause = store, read_models, pause
        self._shards = shards
        self._limits = limits or SampleLimits()
        self._draw = draw or random.Random()  # noqa: S311 - nobody gains by guessing it
        self._folds = [PlainFold(projection, events) for projection in projections]
        self._turns: list[tuple[PlainFold, int]] = []
        """What is still to be looked at in this round, each projection in each shard."""
        self._states = {fold.projection.name: AuditState(fold.projection.name) for fold in self._folds}

    def states(self) -> list[AuditState]:
        """Return what it has come to, by projection; may be called from any thread."""
        return list(self._states.values())

    async def run(self) -> None:
        """Audit for ever. What fails is told by `states`, and the next turn is taken all the same."""
        if not self._limits.interval_s or not self._states:
            return
        while True:
            await self._pause(self._limits.interval_s)
            await self.step()

    async def step(self) -> None:
        """Make one audit."""
        turn = self._next_turn()
        if turn is None:
            return
        fold, shard = turn
        name = fold.projection.name
        state = self._states[name]
        try:
            made = await self._audit(fold, shard)
        except EventrayError as error:
            self._states[name] = state._replace(failure=str(error))
            return
        except Exception as error:
            log.warning("a read model could not be audited", projection=name, exc_info=error)
            self._states[name] = state._replace(failure=told(error))
            return
        if made is None:
            return
        rows, findings = made
        for finding in findings:
            log.error("a read model is not what the log says", finding=str(finding))
        self._states[name] = AuditState(
            name,
            state.audits + 1,
            state.rows + rows,
            state.differences + len(findings),
            time.time(),
            shard,
            rows,
            len(findings),
            str(findings[0]) if findings else state.finding,
        )

    def _next_turn(self) -> tuple[PlainFold, int] | None:
        shards = self._shards()
        self._turns = [turn for turn in self._turns if turn[1] in shards]
        if not self._turns:
            self._turns = list(itertools.product(self._folds, shards))
            self._draw.shuffle(self._turns)
        return self._turns.pop() if self._turns else None

    async def _audit(self, fold: PlainFold, shard: int) -> tuple[int, list[RowFinding]] | None:
        """Return how many rows were compared, and what was found; None where another build has come meanwhile.

        The sample is folded as far as the read model is; then its rows are read, with the checkpoint that they stand
        at; then the fold goes on to there. So both are at one position, whoever writes meanwhile.
        """
        build, before, _ = await self._read(fold.projection, shard, {})
        salt = self._draw.randbytes(16)
        sample = Sample(fold, self._limits.keys_max, salt)
        await self._fold(sample, shard, 0, before.position)
        sample.close()
        wanted = sample.keys()
        same_build, now, there = await self._read(fold.projection, shard, wanted)
        if same_build != build or now.position < before.position:
            return None
        await self._fold(sample, shard, before.position, now.position)
        name = fold.projection.name
        if sample.failed is not None:
            return 0, [RowFinding(name, "fold", str(sample.failed), shard=shard)]
        findings: list[RowFinding] = []
        for table, keys in wanted.items():
            findings += compared(name, table, keys, there[table], sample.made(table), shard)
        return sum(map(len, wanted.values())), findings

    async def _fold(self, sample: Sample, shard: int, after: int, up_to: int) -> None:
        began_s = time.perf_counter()
        async for page in read_log(self._store, shard, after, up_to):
            for record in page:
                sample.add(record)
            sample.shrink()
            await self._pause((time.perf_counter() - began_s) * (1 / TIME_SHARE - 1))
            began_s = time.perf_counter()

    async def _read(
        self, projection: type[Projection], shard: int, wanted: Mapping[Table, Collection[Key]]
    ) -> tuple[Build, Checkpoint, Rows]:
        """Return the build that is read, its checkpoint and those rows of it, in one snapshot."""

        def work(connection: Connection, build: Build) -> tuple[Build, Checkpoint, Rows]:
            check_version(projection, build)
            tables = projection.physical_tables(build)
            found = builds.checkpoints_of(connection, projection.name, build, [shard])
            rows = {table: rows_of(connection, tables[table], keys) for table, keys in wanted.items()}
            return build, found.get(shard, Checkpoint(0, None)), rows

        return await self._read_models.read_live(projection, work)
