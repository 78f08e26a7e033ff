"""Running `eventray` as its users do: in a process of its own, in a directory of its own."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from typer.testing import CliRunner

from cluster.cli.verbs import verbs

ROOT = Path(__file__).parents[2]
EVENTRAY = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"  # a shell's background jobs ignore it
    "from cluster.cli import main; main()",
]


class Done(NamedTuple):
    """What a run came to."""

    exit_code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one line of JSON that it printed."""
        (line,) = self.out.splitlines()
        return json.loads(line)


def environment(**variables: str) -> dict[str, str]:
    """The environment of a run: this one's, without settings of Eventray's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("EVENTRAY_")}
    spared = {"EVENTRAY_METRICS_EXPORTER": "false"}
    return {**kept, **spared, "PYTHONPATH": str(ROOT), "COLUMNS": "200", **variables}


def eventray(directory: Path, *arguments: str, stdin: str = "", timeout_s: float = 100, **variables: str) -> Done:
    """Run `eventray` to its end."""
    done = subprocess.run(
        [*EVENTRAY, *arguments],
        cwd=directory,
        env=environment(**variables),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return Done(done.returncode, done.stdout, done.stderr)


def in_process(directory: Path, *arguments: str, **variables: str) -> Done:
    """Run a verb in this process, which spares a second of imports; if it needs Ray, it uses this process's."""
    with contextlib.chdir(directory):
        done = CliRunner().invoke(verbs, arguments, env=variables)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Done(done.exit_code, done.stdout, done.stderr)


def all_events(store: Path) -> list[tuple[Any, ...]]:
    """Every row of the log."""
    connection = sqlite3.connect(store)
    try:
        return connection.execute("SELECT * FROM events ORDER BY shard, position").fetchall()
    finally:
        connection.close()
