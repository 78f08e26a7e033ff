"""`eventray dead-letters`: what handlers could not take, and what is to become of it; and putting a handler back.

No Ray is started: what is asked for is kept in the store, and whoever runs the handler does it. Not here: parking and
taking up again (`projections/handler_sink.py`, `projections/draining.py`).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from cluster.application import application_of
from cluster.cli.console import ProgressWatcher, cell, complain, print_json, progress_bars
from cluster.cli.options import EXIT_FAILED, App, Json, Store, run
from projections.progress import Start
from projections.rewinding import rewind
from store.errors import EventrayError, InvalidValue
from store.opening import open_store
from store.ports import EventStore, Wish
from store.records import EventRecord, ParkedKey, moment
from store.urls import shown_url
from store.values import shown

ERROR_SHOWN_MAX = 80

dead_letters = typer.Typer(
    help="The events that handlers could not take: list, show, retry or discard them.", no_args_is_help=True
)

HandlerName = Annotated[str, typer.Argument(metavar="HANDLER", help="The handler's name, as in WelcomeMail.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="The partition key, as in c-1.")]
Keys = Annotated[list[str] | None, typer.Argument(metavar="[KEY]...", help="Partition keys, as in c-1.")]
All = Annotated[bool, typer.Option("--all", help="All keys that the handler has parked.")]
OfHandler = Annotated[str | None, typer.Option("--handler", metavar="NAME", help="Of this handler only.")]


class NoDeadLetter(EventrayError):
    """Handler {0} has not parked {1} in {2}."""

    def __init__(self, handler: str, key: str, store: str) -> None:
        super().__init__(handler, key, store)


@dead_letters.command(name="list")
def list_(store: Store, handler: OfHandler = None, app: App = None, json: Json = False) -> None:
    """Print which partition keys are parked, by handler, the oldest first: their later events wait behind that one.

    A handler that nobody knows is refused: neither the application has it, nor has it ever begun on this store.
    """
    found = run(_list(store, handler, app))
    if json:
        print_json([_as_json(row, record) for row, record in found])
        return
    if not found:
        print("nothing is parked")
        return
    table = Table()
    for title in ("handler", "key", "event", "attempts", "parked at", "asked for", "error"):
        table.add_column(title)
    for row, record in found:
        what = f"{record.type} {record.stream}@{record.version}" if record else row.event_id.hex()
        error = row.error.split("\n")[0][:ERROR_SHOWN_MAX]
        texts = (row.handler, row.partition_key, what, str(row.attempts), _at(row.parked_at), row.wish, error)
        table.add_row(*map(cell, texts))
    Console().print(table)


@dead_letters.command()
def show(handler: HandlerName, key: Key, store: Store, json: Json = False) -> None:
    """Print one parked key: the event, the error with its traceback, attempts and times."""
    found = [each for each in run(_read(store, handler)) if each[0].partition_key == key]
    if not found:
        complain(f"eventray: {NoDeadLetter(handler, key, shown_url(store))}")
        raise typer.Exit(EXIT_FAILED)
    told = _as_json(*found[0])
    if json:
        print_json(told)
        return
    traceback = told.pop("traceback")
    table = Table(show_header=False)
    for name, value in told.items():
        table.add_row(name, cell(str(value)))
    Console().print(table)
    print(traceback)


@dead_letters.command()
def retry(handler: HandlerName, store: Store, keys: Keys = None, all_: All = False, json: Json = False) -> None:
    """Ask for another attempt at parked keys: the event that failed, then all that waits behind it, in order.

    A running runtime begins within about a second, else the next one does.
    """
    _ask(handler, keys, all_, store, "retry", json)


@dead_letters.command()
def discard(handler: HandlerName, store: Store, keys: Keys = None, all_: All = False, json: Json = False) -> None:
    """Ask for leaving out the event that failed; then all that waits behind it is taken, in order.

    A running runtime begins within about a second, else the next one does.
    """
    _ask(handler, keys, all_, store, "discard", json)


def replay_handler(url: str, app: str | None, handler: str, start: str, json: bool) -> None:
    """Let a handler take events again from `start` on: `beginning`, `now` or a time in ISO 8601."""
    with progress_bars() as watcher:
        count = run(_replay(url, app, handler, _start(start), watcher))
    if json:
        print_json({"handler": handler, "from": start, "events": count})
    else:
        print(f"{handler} goes on from {start}: {count:,} events of all types are still to come")


def _ask(handler: str, keys: list[str] | None, all_: bool, store: str, wish: Wish, json: bool) -> None:
    if all_ == bool(keys):
        raise typer.BadParameter("name keys, or give --all")
    asked = run(_wish(store, handler, keys, wish))
    if json:
        print_json({"handler": handler, "asked_for": wish, "keys": asked})
    else:
        print(f"{wish} is asked for {len(asked):,} keys of {handler}")


async def _wish(url: str, handler: str, keys: list[str] | None, wish: Wish) -> list[str]:
    """Raises NoDeadLetter where one of the keys is not parked; then nothing is asked for."""
    store = await open_store(url, create=False)
    try:
        parked = [row.partition_key for row in await store.parked(handler)]
        for key in keys or ():
            if key not in parked:
                raise NoDeadLetter(handler, key, shown_url(url))
        if not parked:
            raise NoDeadLetter(handler, "any key", shown_url(url))
        await store.wish(handler, keys, wish)
        return keys or parked
    finally:
        await store.close()


async def _list(url: str, handler: str | None, app: str | None) -> list[tuple[ParkedKey, EventRecord | None]]:
    """Raises InvalidValue for a handler that nobody knows."""
    found = await _read(url, handler)
    if handler is not None and not found:
        await _check_known(url, handler, app)
    return found


async def _check_known(url: str, handler: str, app: str | None) -> None:
    """One that is no longer in the application has left checkpoints; one that is off has none."""
    store = await open_store(url, create=False)
    try:
        if await store.checkpoints(handler):
            return
        parking = await store.parked_counts()
    finally:
        await store.close()
    known = {each.name for each in application_of(app).handlers}
    if handler not in known:
        named = ", ".join(sorted(known | parking.keys()))
        remedy = f"neither the application has it nor has it begun on this store; these are known: {named or 'none'}"
        raise InvalidValue("handler", shown(handler), remedy)


async def _read(url: str, handler: str | None) -> list[tuple[ParkedKey, EventRecord | None]]:
    store = await open_store(url, create=False)
    try:
        return [(row, await _event(store, row)) for row in await store.parked(handler)]
    finally:
        await store.close()


async def _event(store: EventStore, row: ParkedKey) -> EventRecord | None:
    """Return the event that failed last; None where the row has gone on to a later one that wasn't tried yet."""
    found = await store.read_shard(row.shard, row.position - 1, 1)
    return found[0] if found and found[0].event_id == row.event_id else None


async def _replay(url: str, app: str | None, handler: str, start: Start | datetime, watcher: ProgressWatcher) -> int:
    name = application_of(app).handler(handler).name
    store = await open_store(url, create=False)
    try:
        on_events = watcher.phase("Looking for the time", None) if isinstance(start, datetime) else None
        return await rewind(store, name, start, *([on_events] if on_events else []))
    finally:
        await store.close()


def _start(text: str) -> Start | datetime:
    if text in ("beginning", "now"):
        return "beginning" if text == "beginning" else "now"
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        remedy = "give beginning, now, or a time such as 2026-01-31T12:00:00Z"
        raise typer.BadParameter(f"--from {text}: {remedy}") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def _as_json(row: ParkedKey, record: EventRecord | None) -> dict[str, Any]:
    event = {"stream": record.stream, "version": record.version, "type": record.type} if record else {}
    return {
        "handler": row.handler,
        "partition_key": row.partition_key,
        "event_id": _uuid(row.event_id),
        **event,
        "shard": row.shard,
        "position": row.position,
        "attempts": row.attempts,
        "parked_at": _at(row.parked_at),
        "failed_at": _at(row.failed_at),
        "asked_for": row.wish,
        "error": row.error,
        "traceback": row.traceback,
    }


def _uuid(event_id: bytes) -> str:
    return str(uuid.UUID(bytes=event_id))


def _at(micros: int) -> str:
    return moment(micros).isoformat(timespec="milliseconds")
