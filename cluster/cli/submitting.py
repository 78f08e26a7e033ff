"""`eventray submit`: commands from a file of JSON lines.

Not here: what a line holds (`lines.py`), and how many are under way (`cluster/driving.py`).
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from actors.wire import Receipt
from cluster.application import Application, application_of
from cluster.cli import EXIT_INTERRUPTED
from cluster.cli.console import complain, print_json, progress_bars
from cluster.cli.lines import BadLine, Line, read_lines
from cluster.cli.options import EXIT_FAILED, App, Json, Shards, Store, run
from cluster.driving import Outcome, drive
from cluster.tally import Tally

if TYPE_CHECKING:
    from cluster.runtime import Runtime

IN_FLIGHT_MAX = 1_000

CommandFile = Annotated[Path, typer.Argument(metavar="FILE.jsonl", help="One command a line; - reads stdin.")]


def submit(file: CommandFile, store: Store, app: App = None, shards: Shards = None, json: Json = False) -> None:
    """Submit commands, one a line: {"command": "CreateOrder", "data": {...}, "command_id": "cart-77"}.

    Beside command and data a line may have command_id, expected_version, occurred_at, timeout_s, consistency and
    metadata. Lines of one partition key are decided in file order. A bad line goes to stderr and the others are still
    done. The summary is one line of JSON on stdout; the exit code is 1 if any command was rejected or failed. Ctrl-C
    takes no further line, waits for what is under way, prints the summary and exits with 130.
    """
    descriptor = _opened(file)
    tally = Tally()
    try:
        complete = run(_submit_from(descriptor, store, app, shards, tally))
    finally:
        if descriptor:
            os.close(descriptor)
    print_json(tally.summary())
    if not complete:
        raise typer.Exit(EXIT_INTERRUPTED)
    if tally.rejected or tally.failed:
        raise typer.Exit(EXIT_FAILED)


def _opened(file: Path) -> int:
    if str(file) == "-":
        return 0
    try:
        if file.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return os.open(file, os.O_RDONLY)
    except OSError as error:
        raise typer.BadParameter(f"{file}: {error.strerror}") from error


async def _submit_from(descriptor: int, url: str, app: str | None, shards: int | None, tally: Tally) -> bool:
    from cluster.runtime import Runtime  # here, so that the reading verbs needn't wait for Ray's import

    application = application_of(app)
    async with Runtime.open(url, app=application, shards=shards) as runtime:
        return await _submit_lines(runtime, descriptor, application, tally)


async def _submit_lines(runtime: Runtime, descriptor: int, application: Application, tally: Tally) -> bool:
    status = os.fstat(descriptor)
    size = status.st_size if stat.S_ISREG(status.st_mode) else None

    async def good_lines() -> AsyncIterator[Line]:
        async for line in read_lines(descriptor, runtime.registry, advance):
            if isinstance(line, BadLine):
                tally.rejected += 1
                complain(f"line {line.number}: {line.reason}")
            else:
                yield line

    async def submit_line(line: Line) -> Receipt:
        projections = [application.projection(name) for name in line.keywords.get("consistency", ())]
        return await runtime.submit(line.command, **(line.keywords | {"consistency": projections}))

    def on_outcome(line: Line, outcome: Outcome) -> None:
        tally.count(outcome)
        if not isinstance(outcome, Receipt):
            complain(f"line {line.number}: {outcome}")

    with progress_bars() as watcher:
        advance = watcher.phase("Submitting", size)
        tally.start()
        complete = await drive(submit_line, good_lines(), IN_FLIGHT_MAX, on_outcome)
        tally.stop()
    return complete
