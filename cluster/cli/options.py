"""What every verb takes, and how it is run: options, exit codes, one line for an error.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any, TypeVar

import typer

from cluster.application import Application, application_of
from cluster.cli import EXIT_INTERRUPTED, STOPPED
from cluster.cli.console import complain
from store.errors import EventrayError

EXIT_FAILED = 1

Store = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="EVENTRAY_STORE",
        metavar="URL",
        help="The store: sqlite:///FILE (sqlite:////ABSOLUTE/FILE) or postgresql://USER@HOST/DATABASE.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
App = Annotated[
    str | None,
    typer.Option(
        "--app",
        envvar="EVENTRAY_APP",
        metavar="MODULE:ATTRIBUTE",
        help="The application: an Application(aggregates=..., projections=...). Default: the shop of the demo.",
        show_default=False,
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address",
        envvar="RAY_ADDRESS",
        metavar="HOST:PORT",
        help="Ray's: HOST:PORT, auto, or local for a new one. Default: the one that runs on this machine, if any.",
        show_default=False,
    ),
]
Shards = Annotated[
    int | None,
    typer.Option(
        "--shards", min=1, help="The number of shards of a store that is made; of one that is there: checked."
    ),
]

Result = TypeVar("Result")


async def with_application(app: str | None, work: Callable[[Application], Awaitable[Result]]) -> Result:
    """Do what needs an application with the one that --app names; loaded here, so that `run` tells what it raises."""
    return await work(application_of(app))


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Run a verb's work; an error of Eventray becomes one line on stderr and exit code 1, Ctrl-C exit code 130."""
    try:
        return asyncio.run(work)
    except EventrayError as error:
        complain(f"eventray: {error}")
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt as interrupt:
        complain(STOPPED)
        raise typer.Exit(EXIT_INTERRUPTED) from interrupt
