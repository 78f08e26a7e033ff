"""The SQL of the outbox: the commands that a process manager has issued and that are not acknowledged yet.

A command is written in the transaction that takes its event, and belongs to the build that took it. Only the live one's
are sent; one that is filled beside it keeps those of events that the live one has not taken, so that once it takes over
each event has been acted on once. Everything here is to be run in a transaction. Not here: whose (`outbox.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from sqlalchemy import Connection, and_, delete, func, select, update

from projections.changes import Changes
from projections.issuing import Issued
from projections.row_sql import statements
from projections.tables import Build, checkpoints, outbox, outbox_counts

TABLES = {outbox: outbox, outbox_counts: outbox_counts}
ERROR_SIZE_MAX = 1_000
"""Characters of an error that are kept."""


class Ending(Enum):
    """How an attempt to send a command ended."""

    ACKNOWLEDGED = "acknowledged"
    """Its events are stored, or it needed none."""
    REFUSED = "refused"
    """By a DomainError, which is final."""
    FAILED = "failed"
    """It can never succeed."""
    AGAIN = "again"
    """It stays in the outbox, to be tried again."""


class Waiting(NamedTuple):
    """A command in the outbox."""

    command: Issued
    attempts: int
    """Those that failed."""


class Outcome(NamedTuple):
    """What came of an attempt."""

    waiting: Waiting
    ending: Ending
    error: str = ""


class OutboxState(NamedTuple):
    """What a process manager has sent, and what it has not."""

    waiting: int
    """Commands that are not acknowledged yet."""
    retried: int
    """Those of them that have failed so far."""
    retry_error: str
    """Of one of these."""
    acknowledged: int
    refused: int
    """Commands that a DomainError ended."""
    failed: int
    """Commands that could never succeed."""
    last_failure: str
    """Of these, the last one's id and error."""


NOTHING_SENT = OutboxState(0, 0, "", 0, 0, 0, "")


def put(connection: Connection, name: str, live: Build | None, build: Build, issued: Sequence[Issued]) -> None:
    """Write down what was issued with a build; of one that is not live, only what the live one will not issue."""
    taken = {} if live is None or live == build else _positions(connection, live.subscriber(name))
    due = [command for command in issued if command.position > taken.get(command.shard, 0)]
    rows, subscriber = Changes(), build.subscriber(name)
    for command in due:
        if not command.error:
            rows.insert(outbox, subscriber=subscriber, attempts=0, **command._asdict())
    _run(connection, rows)
    if unsendable := [command for command in due if command.error]:
        _count(connection, name, {Ending.FAILED: len(unsendable)})
        _note_failure(connection, name, unsendable[-1], unsendable[-1].error)


def waiting(
    connection: Connection, subscriber: str, shards: Collection[int], but: Collection[str], limit: int
) -> list[Waiting]:
    """Return a build's first commands of these shards, in order, none of the partition keys in `but`."""
    c = outbox.c
    query = (
        select(*(c[field] for field in Issued._fields), c.attempts)
        .where(c.subscriber == subscriber, c.shard.in_(shards), c.partition_key.not_in(but))
        .order_by(c.shard, c.position, c.number)
        .limit(limit)
    )
    return [Waiting(Issued(*row[:-1]), row.attempts) for row in connection.execute(query)]


def settle(connection: Connection, name: str, subscriber: str, outcomes: Iterable[Outcome]) -> None:
    """Let commands of a build leave that are done with, and note the failures of the others.

    Each is counted once, by whoever takes it out.
    """
    by_ending: dict[Ending, list[Outcome]] = {}
    for outcome in outcomes:
        by_ending.setdefault(outcome.ending, []).append(outcome)
    counts: dict[Ending, int] = {}
    for ending, ended in by_ending.items():
        rows = Changes()
        for (command, attempts), _, error in ended:
            key = (subscriber, command.shard, command.position, command.number)
            if ending is Ending.AGAIN:
                rows.set(outbox, key, attempts=attempts + 1, error=error[:ERROR_SIZE_MAX])
            else:
                rows.delete(outbox, key)
        changed = _run(connection, rows)
        if ending is not Ending.AGAIN and changed:
            counts[ending] = changed
    _count(connection, name, counts)
    if Ending.FAILED in counts:
        last = by_ending[Ending.FAILED][-1]
        _note_failure(connection, name, last.waiting.command, last.error)


def holds(connection: Connection, subscriber: str, shard: int, position: int) -> bool:
    """Whether a command of a build waits that follows from an event of the shard up to that position."""
    c = outbox.c
    found = select(c.number).where(c.subscriber == subscriber, c.shard == shard, c.position <= position)
    return connection.execute(found.limit(1)).first() is not None


def state(connection: Connection, name: str, subscriber: str) -> OutboxState:
    """Return what is waiting of a build, and what its process manager has sent, with former builds too."""
    mine = outbox.c.subscriber == subscriber
    retried = and_(mine, outbox.c.attempts > 0)
    count = select(func.count()).select_from(outbox)
    waiting, retried_count = (connection.scalar(count.where(condition)) or 0 for condition in (mine, retried))
    error = connection.scalar(select(outbox.c.error).where(retried).limit(1)) or ""
    c = outbox_counts.c
    query = select(c.acknowledged, c.refused, c.failed, c.last_failure).where(c.process_manager == name)
    acknowledged, refused, failed, last_failure = connection.execute(query).one_or_none() or NOTHING_SENT[3:]
    return OutboxState(waiting, retried_count, error, acknowledged, refused, failed, last_failure)


def take_over(connection: Connection, name: str, live: Build, build: Build) -> None:
    """Let a build send what the live one has issued and not sent, and drop what both have issued.

    To be done before the live one's checkpoints go: up to these it has acted.
    """
    old, new = live.subscriber(name), build.subscriber(name)
    taken = select(checkpoints.c.position).where(checkpoints.c.subscriber == old, checkpoints.c.shard == outbox.c.shard)
    issued_by_both = outbox.c.position <= taken.scalar_subquery()
    connection.execute(delete(outbox).where(outbox.c.subscriber == new, issued_by_both))
    connection.execute(update(outbox).where(outbox.c.subscriber == old).values(subscriber=new))


def forget(connection: Connection, name: str, build: Build) -> None:
    """Forget what a build has issued that is given up."""
    connection.execute(delete(outbox).where(outbox.c.subscriber == build.subscriber(name)))


def _positions(connection: Connection, subscriber: str) -> dict[int, int]:
    query = select(checkpoints.c.shard, checkpoints.c.position).where(checkpoints.c.subscriber == subscriber)
    return {row.shard: row.position for row in connection.execute(query)}


def _run(connection: Connection, changes: Changes) -> int:
    """Make changes; return how many rows they met."""
    return sum(connection.exec_driver_sql(*each).rowcount for each in statements(changes, TABLES, connection.dialect))


def _count(connection: Connection, name: str, counts: Mapping[Ending, int]) -> None:
    if counts:
        changes = Changes()
        changes.accumulate(outbox_counts, name, **{ending.value: count for ending, count in counts.items()})
        _run(connection, changes)


def _note_failure(connection: Connection, name: str, command: Issued, error: str) -> None:
    text = f"{command.command_id}: {error}"[:ERROR_SIZE_MAX]
    mine = outbox_counts.c.process_manager == name
    connection.execute(update(outbox_counts).where(mine).values(last_failure=text))
