"""`eventray events`, `show` and `query`: reading a store. No Ray is started, and the store is not held.

Not here: how a read model is kept, or an aggregate folded.
"""

from __future__ import annotations

import json as jsonlib
import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from actors.aggregate import Aggregate
from actors.commands import shown
from actors.repository import load_aggregate
from cluster.application import application_of
from cluster.cli.console import complain, print_json
from cluster.cli.options import EXIT_FAILED, App, Json, Store, run
from projections.projection import Projection
from projections.read_models import ReadModels
from store.errors import InvalidValue
from store.opening import open_store
from store.records import EventRecord, moment

PAGE_SIZE = 1_000
"""Events read at once."""

Stream = Annotated[str, typer.Argument(help="category-id, as in customer-00004.")]
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


def events(stream: Stream, store: Store, json: Json = False) -> None:
    """Print the events of a stream, in order. A stream without events makes the exit code 1."""
    records = run(_read_stream(store, stream))
    if json:
        print_json([_event_json(record) for record in records])
    elif records:
        Console().print(_event_table(stream, records))
    if not records:
        _nothing(f"{stream} has no events in {store}")


def show(
    stream: Stream, store: Store, version: Version = None, as_of: AsOf = None, app: App = None, json: Json = False
) -> None:
    """Print the state of an aggregate, folded from its events: now, at a version, or at a time."""
    if version is not None and as_of is not None:
        raise typer.BadParameter("give --version or --as-of, not both")
    if as_of is not None and as_of.tzinfo is None:
        as_of = as_of.replace(tzinfo=UTC)
    aggregate = run(_fold(store, stream, app, version, as_of))
    state = {name: value for name, value in vars(aggregate).items() if not name.startswith("_")}
    if json:
        print_json({"stream": stream, **state} if aggregate.version else None)
    elif aggregate.version:
        Console().print(_field_table(f"{stream} at version {aggregate.version}", state))
    if not aggregate.version:
        _nothing(f"{stream} has no events in {store}{' by then' if as_of else ''}")


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
        _nothing(f"{projection} has no row {key} in {store}")


async def _read_stream(url: str, stream: str) -> list[EventRecord]:
    reader = await open_store(url, create=False)
    try:
        records: list[EventRecord] = []
        while page := await reader.read_stream(stream, records[-1].version if records else 0, PAGE_SIZE):
            records += page
        return records
    finally:
        await reader.close()


async def _fold(url: str, stream: str, app: str | None, version: int | None, as_of: datetime | None) -> Aggregate:
    application = application_of(app)
    aggregate_class = application.registry.aggregate_of(stream)
    aggregate_id = stream.partition("-")[2]
    reader = await open_store(url, create=False)
    try:
        return await load_aggregate(
            reader, application.registry.events, aggregate_class, aggregate_id, version=version, as_of=as_of
        )
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


def _nothing(message: str) -> None:
    complain(f"eventray: {message}")
    raise typer.Exit(EXIT_FAILED)


def _event_json(record: EventRecord) -> dict[str, Any]:
    metadata = jsonlib.loads(record.metadata or "{}")
    return {
        "stream": record.stream,
        "version": record.version,
        "event_type": record.type,
        "schema_version": record.schema_version,
        "data": jsonlib.loads(record.data),
        "occurred_at": _occurred_at(record, metadata),
        "recorded_at": moment(record.recorded_at),
        "id": str(uuid.UUID(bytes=record.event_id)),
        "shard": record.shard,
        "position": record.position,
        "partition_key": record.partition_key,
        "command_id": record.command_key,
        "metadata": metadata,
    }


def _occurred_at(record: EventRecord, metadata: dict[str, Any]) -> datetime:
    return moment(metadata.get("occurred_at", record.recorded_at))


def _event_table(stream: str, records: list[EventRecord]) -> Table:
    table = Table(title=stream, title_justify="left")
    table.add_column("version", justify="right")
    table.add_column("event")
    table.add_column("occurred at", no_wrap=True)
    table.add_column("data", overflow="fold")
    for record in records:
        occurred_at = _occurred_at(record, jsonlib.loads(record.metadata or "{}"))
        data = jsonlib.loads(record.data)
        fields = ", ".join(f"{name}={value}" for name, value in data.items()) if isinstance(data, dict) else str(data)
        table.add_row(str(record.version), record.type, f"{occurred_at:%Y-%m-%d %H:%M:%S}", fields)
    return table


def _field_table(title: str, fields: dict[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    for name, value in fields.items():
        table.add_row(name, str(value))
    return table
