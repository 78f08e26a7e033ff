"""The verb `schema`: keep stored events readable while their classes change.

No store is opened: an application's classes are compared with the file that is kept beside its code. Not here: what
counts as a breaking change (`store/event_schemas.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cluster.application import application_of
from cluster.cli.console import complain, print_json
from cluster.cli.options import EXIT_FAILED, App, Json
from store.errors import EventrayError, InvalidValue
from store.event_schemas import SchemaChange, changes_since, frozen_anew, read_frozen, write_frozen

schema = typer.Typer(help="Freeze the events' schemas, and check the classes against them.", no_args_is_help=True)

SchemaFile = Annotated[Path, typer.Option("--file", metavar="FILE", help="The frozen schemas.")]
DEFAULT_FILE = Path("schemas.json")


@schema.command()
def freeze(app: App = None, file: SchemaFile = DEFAULT_FILE, json: Json = False) -> None:
    """Write today's event schemas to the file, beside those of older versions.

    Refused where a class no longer reads rows of its frozen version: that takes a new version and an upcaster.
    """
    with _errors_told():
        registry = application_of(app).registry.events
        frozen = read_frozen(file)
        changes = changes_since(frozen, registry)
        write_frozen(file, frozen_anew(frozen, registry))
    if json:
        print_json({"file": str(file), "frozen": [_as_dict(change) for change in changes]})
    else:
        for change in changes:
            print(f"frozen: {change}")
        print(f"{file}: {len(registry.types)} event types, {len(changes)} changed")


@schema.command()
def check(app: App = None, file: SchemaFile = DEFAULT_FILE, json: Json = False) -> None:
    """Fail if a class no longer reads all rows of its frozen version; say which field broke it."""
    with _errors_told():
        registry = application_of(app).registry.events
        if not file.exists():
            raise InvalidValue("schemas", str(file), "there is no such file: run `eventray schema freeze` first")
        changes = changes_since(read_frozen(file), registry)
    breaking = [change for change in changes if change.breaking]
    compatible = [change for change in changes if not change.breaking]
    if json:
        print_json({"breaking": [*map(_as_dict, breaking)], "compatible": [*map(_as_dict, compatible)]})
    else:
        for change in changes:
            print(f"{'BREAKING' if change.breaking else 'compatible'}: {change}")
        if compatible and not breaking:
            print("run `eventray schema freeze` and keep the file with the code")
        elif not changes:
            print(f"{len(registry.types)} event types read all that {file} has frozen")
    if breaking:
        raise typer.Exit(EXIT_FAILED)


def _as_dict(change: SchemaChange) -> dict[str, str | int]:
    return {
        "event_type": change.event_type,
        "version": change.version,
        "field": change.field,
        "what": change.what,
    }


@contextmanager
def _errors_told() -> Iterator[None]:
    try:
        yield
    except EventrayError as error:
        complain(f"eventray: {error}")
        raise typer.Exit(EXIT_FAILED) from error
