"""What the verbs print, and where: results on stdout, progress and errors on stderr.

Progress bars appear on a terminal only. Not here: what is printed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SHOWN_MAX = 100
"""Findings that are printed."""


def complain(message: str) -> None:
    """Print one line on stderr."""
    print(message, file=sys.stderr)


def print_json(value: Any) -> None:
    """Print one line of JSON on stdout: times in ISO 8601, decimals as strings."""
    print(json.dumps(value, default=_plain))


def dashboard_line(url: str) -> str:
    """Return how Ray's dashboard is told of."""
    return f"Ray's dashboard: {url}/#/actors (where it asks for a token: `ray get-auth-token` prints it)"


def _plain(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_first(lines: Sequence[object], count: int) -> None:
    """Print the first 100 of so many lines on stdout, and say how many there are."""
    for line in lines[:SHOWN_MAX]:
        print(line)
    if count > SHOWN_MAX:
        print(f"... and {count - SHOWN_MAX:,} more: --json prints up to 1,000")


def cell(text: str) -> Text:
    """Return text of the users' as a table shows it: brackets are no markup, control characters are spelled out."""
    return Text("".join(char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in text))


class ProgressWatcher:
    """Shows the phases of long work, one bar each."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a phase; the returned function hears how many more are done. `total` None: not known."""
        for task in self._progress.tasks:
            if task.total is None:
                self._progress.remove_task(task.id)
        bar = self._progress.add_task(name, total=total)
        return lambda more: self._progress.advance(bar, more)

    def end(self) -> None:
        """Show no bars any more."""
        self._progress.stop()


@contextmanager
def progress_bars() -> Iterator[ProgressWatcher]:
    """Show progress on stderr while the block runs, if stderr is a terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as progress:
        yield ProgressWatcher(progress)
