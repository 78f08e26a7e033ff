"""`eventray events`, `show` and `query`: reading a store. No Ray is started, and the store is not held.

Not here: how a read model is kept, or an aggregate folded.
"""

from __future__ import annotations

import json as jsonlib
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from actors.commands import shown
from actors.history import EventChanges, FieldChange, changes_of
from actors.repository import load_aggregate
from cluster.application import application_of
from cluster.cli import following
from cluster.cli.console import cell, complain, print_json
from cluster.cli.options import EXIT_FAILED, App, Json, Store, run
from projections.projection import Projection
from projections.read_models import ReadModels
from store.errors import InvalidValue
from store.identity import checked_stream
from store.opening import open_store
from store.records import EventRecord, moment
from store.urls import shown_url

Result = TypeVar("Result")
Reading = Callable[..., Awaitable[Result]]

PAGE_SIZE = 1_000
"""Events read at once."""

Stream = Annotated[str, typer.Argument(help="category-id, as in customer-00004.")]
AnyStream = Annotated[str | None, typer.Argument(help="category-id, as in customer-00004.")]
Follow = Annotated[bool, typer.Option("--follow", help="Go on with what is stored from now on, until Ctrl-C.")]
Diff = Annotated[bool, typer.Option("--diff", help="What each event up to then changed.")]
Version = Annotated[
    int | None, typer.Option("--version", min=1, help="As it was at this version: 1 is the first event.")
]
AsOf = Annotated[
    datetime | None,
    typer.Option(
        "--as-of",
        formats=["%Y-%m-%d", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%S%z", "%Y-%m-%dT%H:%M:%S.%f%z"],
        help="As it was at this time (UTC unless it says otherwise).",
    ),
]


def events(store: Store, stream: AnyStream = None, follow: Follow = False, json: Json = False) -> None:
    """Print the events of a stream, in order. A stream without events makes the exit code 1.

    With --follow, go on with those that are stored from now on, until Ctrl-C; without a stream, those of all.
    """
    if follow:
        run(following.follow(store, stream, _print_as_json if json else _print_line))
        return
    if stream is None:
        raise typer.BadParameter("name a stream, or give --follow for the events of all")
    records = run(_read_stream(store, stream))
    if json:
        print_json([_event_json(record) for record in records])
    elif records:
        Console().print(_event_table(stream, records))
    if not records:
        _no_events(stream, store)


def show(
    stream: Stream,
    store: Store,
    version: Version = None,
    as_of: AsOf = None,
    diff: Diff = False,
    app: App = None,
    json: Json = False,
) -> None:
    """Print the state of an aggregate, folded from its events: now, at a version, or at a time.

    With --diff, print what each event up to then changed in it.
    """
    if version is not None and as_of is not None:
        raise typer.BadParameter("give --version or --as-of, not both")
    if as_of is not None and as_of.tzinfo is None:
        as_of = as_of.replace(tzinfo=UTC)
    if diff:
        _show_changes(stream, store, run(_on_stream(changes_of, store, stream, app, version, as_of)), as_of, json)
        return
    aggregate = run(_on_stream(load_aggregate, store, stream, app, version, as_of))
    state = {name: value for name, value in vars(aggregate).items() if not name.startswith("_")}
    if json:
        print_json({"stream": stream, **state} if aggregate.version else None)
    elif aggregate.version:
        Console().print(_field_table(f"{stream} at version {aggregate.version}", state))
    if not aggregate.version:
        _no_events(stream, store, as_of)


def _show_changes(stream: str, store: str, told: list[EventChanges], as_of: datetime | None, json: bool) -> None:
    if json:
        print_json([_changes_json(event) for event in told])
    elif told:
        Console().print(_changes_table(stream, told))
    if not told:
        _no_events(stream, store, as_of)


def query(
    projection: Annotated[str, typer.Argument(help="The projection's name, as in CustomerProjection.")],
    key: Annotated[str, typer.Argument(help="The row's key, as in 00004.")],
    store: Store,
    app: App = None,
    json: Json = False,
) -> None:
    """Print a row of a read model, as its projection has written it so far."""
    row = run(_query(store, app, projection, key))
    if json:
        print_json(row)
    elif row is not None:
        Console().print(_field_table(f"{projection} {key}", row))
    if row is None:
        _nothing(f"{projection} has no row {key} in {shown_url(store)}")


async def _read_stream(url: str, stream: str) -> list[EventRecord]:
    checked_stream(stream)
    reader = await open_store(url, create=False)
    try:
        records: list[EventRecord] = []
        while page := await reader.read_stream(stream, records[-1].version if records else 0, PAGE_SIZE):
            records += page
        return records
    finally:
        await reader.close()


async def _on_stream(
    reading: Reading[Result], url: str, stream: str, app: str | None, version: int | None, as_of: datetime | None
) -> Result:
    """Open the store and read of one stream what `reading` makes of it."""
    application = application_of(app)
    aggregate_class = application.registry.aggregate_of(stream)
    aggregate_id = stream.partition("-")[2]
    reader = await open_store(url, create=False)
    try:
        return await reading(reader, application.registry.events, aggregate_class, aggregate_id, version, as_of)
    finally:
        await reader.close()


async def _query(url: str, app: str | None, projection: str, key: str) -> dict[str, Any] | None:
    found = application_of(app).projection(projection)
    await (await open_store(url, create=False)).close()  # what is no store gets the error that says so
    read_models = ReadModels(url)
    try:
        return (await read_models.query(found, _typed_key(found, key))).row
    finally:
        await read_models.close()


def _typed_key(projection: type[Projection], key: str) -> str | int:
    (column, *_) = projection.tables[0].primary_key
    if column.type.python_type is not int:
        return key
    try:
        return int(key)
    except ValueError as error:
        raise InvalidValue("key", shown(key), f"{projection.name} has whole numbers for keys") from error


def _no_events(stream: str, store: str, as_of: datetime | None = None) -> NoReturn:
    _nothing(f"{stream} has no events in {shown_url(store)}{' by then' if as_of else ''}")


def _nothing(message: str) -> NoReturn:
    complain(f"eventray: {message}")
    raise typer.Exit(EXIT_FAILED)


def _print_as_json(record: EventRecord) -> None:
    print_json(_event_json(record))
    sys.stdout.flush()


def _print_line(record: EventRecord) -> None:
    place = f"{_occurred_at(record):%Y-%m-%d %H:%M:%S} {record.stream} {record.version} {record.type}"
    print(cell(f"{place} {_fields(record)}".replace("\n", " ")).plain, flush=True)


def _event_json(record: EventRecord) -> dict[str, Any]:
    metadata = jsonlib.loads(record.metadata or "{}")
    return {
        "stream": record.stream,
        "version": record.version,
        "event_type": record.type,
        "schema_version": record.schema_version,
        "data": jsonlib.loads(record.data),
        "occurred_at": _occurred_at(record),
        "recorded_at": moment(record.recorded_at),
        "id": str(uuid.UUID(bytes=record.event_id)),
        "shard": record.shard,
        "position": record.position,
        "partition_key": record.partition_key,
        "command_id": record.command_key,
        "metadata": metadata,
    }


def _occurred_at(record: EventRecord) -> datetime:
    return moment(jsonlib.loads(record.metadata or "{}").get("occurred_at", record.recorded_at))


def _event_table(stream: str, records: list[EventRecord]) -> Table:
    table = Table(title=cell(stream), title_justify="left")
    table.add_column("version", justify="right")
    table.add_column("event")
    table.add_column("occurred at", no_wrap=True)
    table.add_column("data", overflow="fold")
    for record in records:
        occurred_at = f"{_occurred_at(record):%Y-%m-%d %H:%M:%S}"
        table.add_row(str(record.version), record.type, occurred_at, cell(_fields(record)))
    return table


def _fields(record: EventRecord) -> str:
    data = jsonlib.loads(record.data)
    return ", ".join(f"{name}={value}" for name, value in data.items()) if isinstance(data, dict) else str(data)


def _changes_json(event: EventChanges) -> dict[str, Any]:
    changed = {
        change.field: ({"from": change.before} if change.was_there else {})
        | ({"to": change.after} if change.is_there else {})
        for change in event.changes
    }
    return {
        "version": event.version,
        "event_type": event.event_type,
        "occurred_at": event.occurred_at,
        "changed": changed,
    }


def _changes_table(stream: str, told: list[EventChanges]) -> Table:
    table = Table(title=cell(stream), title_justify="left")
    table.add_column("version", justify="right")
    table.add_column("event")
    table.add_column("occurred at", no_wrap=True)
    table.add_column("changed", overflow="fold")
    for event in told:
        changes = "\n".join(map(_change_text, event.changes)) or "nothing"
        table.add_row(str(event.version), event.event_type, f"{event.occurred_at:%Y-%m-%d %H:%M:%S}", cell(changes))
    return table


def _change_text(change: FieldChange) -> str:
    if not change.was_there:
        return f"+ {change.field} = {change.after}"
    if not change.is_there:
        return f"- {change.field} (was {change.before})"
    return f"{change.field}: {change.before} -> {change.after}"


def _field_table(title: str, fields: dict[str, Any]) -> Table:
    table = Table(title=cell(title), title_justify="left", show_header=False)
    for name, value in fields.items():
        table.add_row(name, cell(str(value)))
    return table
