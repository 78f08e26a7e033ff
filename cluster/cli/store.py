"""The verbs `store`, `audit store` and `replay`: everything that is done to a store as a whole.

Not here: how (`store/exporting.py`, `store/importing.py`, `store/backup.py`, `cluster/replaying.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cluster.cli.console import ProgressWatcher, complain, print_first, print_json, progress_bars
from cluster.cli.dead_letters import replay_handler
from cluster.cli.options import EXIT_FAILED, App, Json, Store, run, with_application
from store.archive import Progress
from store.backup import back_up, server_command
from store.errors import NotAStore
from store.exporting import export_log
from store.importing import archive_header, import_log
from store.opening import open_store
from store.ports import EventStore
from store.schema import SCHEMA_VERSION
from store.urls import shared_url

store = typer.Typer(help="Check, migrate, export, import or back up a store.", no_args_is_help=True)
audit = typer.Typer(help="Check what is kept against what was promised.", no_args_is_help=True)

NewFile = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False, help="The file to write.")]
Archive = Annotated[
    Path, typer.Argument(metavar="FILE", exists=True, dir_okay=False, readable=True, help="What an export wrote.")
]
Shards = Annotated[
    int | None, typer.Option("--shards", min=1, help="How many shards a new store gets. Default: as many as it had.")
]
Handler = Annotated[
    str | None, typer.Option("--handler", metavar="NAME", help="Let this handler take events again, from --from on.")
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="WHERE", help="beginning, now, or when the events were written (UTC unless said)."),
]


@store.command(name="export")
def export_(file: NewFile, store: Store, json: Json = False) -> None:
    """Write all events to a file of JSON lines, as they are now; a file that an interrupted export left is continued.

    A runtime may go on writing meanwhile.
    """
    with progress_bars() as watcher:
        count = run(_export(store, file, watcher))
    if json:
        print_json({"file": str(file), "events": count})
    else:
        print(f"{file}: {count:,} events")


@store.command(name="import")
def import_(file: Archive, store: Store, shards: Shards = None, json: Json = False) -> None:
    """Bring the events of an archive into an empty store, which is made if it isn't there.

    Run it again after an interruption: it goes on where it was, and nothing comes twice. A store that holds anything
    else is refused.
    """
    with progress_bars() as watcher:
        added, total, shard_count, store_id = run(_import(file, store, shards, watcher))
    if json:
        print_json({"events": total, "imported": added, "shards": shard_count, "store_id": store_id})
    else:
        there = "" if added == total else f" ({total - added:,} were there)"
        print(f"{total:,} events in {shard_count} shards{there}; store id {store_id}")


@store.command()
def backup(file: NewFile, store: Store, json: Json = False) -> None:
    """Copy the store to a new file, as it is now, while a runtime may go on writing. Never overwrites a file.

    That is for SQLite. For PostgreSQL it prints the command to run, with exit code 1, since nothing was copied.
    """
    command = run(_command(store, file))
    if command is not None:
        if json:
            print_json({"run": command})
        else:
            print(command)
        complain("eventray: nothing was backed up: run this, and give it the password as pg_dump asks for it")
        raise typer.Exit(EXIT_FAILED)
    with progress_bars() as watcher:
        size_bytes = run(_back_up(store, file, watcher))
    if json:
        print_json({"file": str(file), "bytes": size_bytes})
    else:
        print(f"{file}: {size_bytes:,} bytes")


@store.command()
def check(store: Store, json: Json = False) -> None:
    """Say whether the store has the schema that this Eventray needs; if not, the exit code is 1."""
    stored = run(_schema_version(store))
    if json:
        print_json({"schema_version": stored, "needed": SCHEMA_VERSION})
    elif stored == SCHEMA_VERSION:
        print(f"schema version {stored}, as needed")
    if stored != SCHEMA_VERSION:
        remedy = "run `eventray store migrate`" if stored < SCHEMA_VERSION else "use the newer Eventray"
        complain(f"eventray: the store has schema version {stored}, and {SCHEMA_VERSION} is needed: {remedy}")
        raise typer.Exit(EXIT_FAILED)


@store.command(name="migrate")
def migrate_(store: Store, json: Json = False) -> None:
    """Bring an older store to the schema that this Eventray needs, all or nothing. No runtime may hold it meanwhile."""
    former = run(_migrate(store))
    if json:
        print_json({"schema_version": SCHEMA_VERSION, "former": former})
    else:
        print(f"schema version {SCHEMA_VERSION}" + (f", was {former}" if former != SCHEMA_VERSION else ", as it was"))


@audit.command(name="store")
def audit_store(store: Store, app: App = None, json: Json = False) -> None:
    """Walk every shard and print what is wrong, and where; then the exit code is 1."""
    from cluster import replaying  # here, so that the other verbs needn't wait for Ray's import

    with progress_bars() as watcher:
        result = run(with_application(app, lambda found: replaying.audit_store(store, found, watcher)))
    if json:
        findings = [finding._asdict() for finding in result.findings]
        summary = {"shards": result.shards, "events": result.events, "seconds": round(result.seconds, 3)}
        print_json({**summary, "found": result.found, "findings": findings})
    else:
        print_first(result.findings, result.found)
        print(f"{result.events:,} events in {result.shards} shards, {result.found:,} findings, {result.seconds:.1f} s")
    if result.found:
        raise typer.Exit(EXIT_FAILED)


def replay(store: Store, handler: Handler = None, from_: From = None, app: App = None, json: Json = False) -> None:
    """Fold every aggregate with today's code; print events/s and counts. If any can't be folded the exit code is 1.

    No handler sees any of it. With --handler NAME --from WHERE nothing is folded: that handler takes events again, or
    leaves some out, and goes on from there; a running runtime begins within about a second, else the next one does.
    """
    if (handler is None) != (from_ is None):
        raise typer.BadParameter("give --handler and --from together")
    if handler is not None and from_ is not None:
        replay_handler(store, app, handler, from_, json)
        return
    from cluster import replaying  # here, so that the other verbs needn't wait for Ray's import

    with progress_bars() as watcher:
        result = run(with_application(app, lambda found: replaying.replay_store(store, found, watcher)))
    types = dict(result.types.most_common())
    if json:
        failures = [failure._asdict() for failure in result.failures]
        print_json(
            {
                "events": result.events,
                "aggregates": result.aggregates,
                "types": types,
                "seconds": round(result.seconds, 3),
                "events_per_s": round(result.events_per_s),
                "failed": result.failed,
                "failures": failures,
            }
        )
    else:
        print_first(result.failures, result.failed)
        for name, count in types.items():
            print(f"{count:>12,}  {name}")
        speed = f"{result.seconds:.1f} s, {result.events_per_s:,.0f} events/s"
        print(f"{result.events:>12,}  events of {result.aggregates:,} aggregates, {speed}")
    if result.failed:
        raise typer.Exit(EXIT_FAILED)


async def _export(url: str, file: Path, watcher: ProgressWatcher) -> int:
    opened = await open_store(url, create=False)
    try:
        return await export_log(opened, file, _bar(watcher, "Exporting"))
    finally:
        await opened.close()


async def _import(file: Path, url: str, shards: int | None, watcher: ProgressWatcher) -> tuple[int, int, int, str]:
    header = archive_header(file)  # before a store is made
    opened = await _open_target(shared_url(url), shards, header.shards)
    try:
        added = await import_log(file, opened, _bar(watcher, "Importing"))
        return added, header.events, opened.shards, opened.store_id
    finally:
        await opened.close()


async def _open_target(url: str, shards: int | None, shards_default: int) -> EventStore:
    try:
        return await open_store(url, shards, create=False)
    except NotAStore:
        return await open_store(url, shards or shards_default)


async def _schema_version(url: str) -> int:
    from store.migrating import schema_version_of  # here, so that the other verbs needn't wait for Alembic's import

    return await schema_version_of(url)


async def _migrate(url: str) -> int:
    from store.migrating import migrate

    return await migrate(url)


async def _command(url: str, file: Path) -> str | None:
    return server_command(url, file)


async def _back_up(url: str, file: Path, watcher: ProgressWatcher) -> int:
    return await asyncio.to_thread(back_up, url, file, _bar(watcher, "Backing up (pages)"))


def _bar(watcher: ProgressWatcher, name: str) -> Progress:
    """Return a callback for totals, which begins a phase when it hears the first."""
    advance: Callable[[int], None] | None = None
    before = 0

    def progress(done: int, total: int) -> None:
        nonlocal advance, before
        if advance is None:
            advance = watcher.phase(name, total)
        advance(done - before)
        before = done

    return progress
