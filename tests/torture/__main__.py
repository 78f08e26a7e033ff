"""`python -m tests.torture`: torture a runtime for some time, then judge it. Exit code 0: nothing is wrong.

What a run leaves is kept in its directory where something is wrong, and thrown away else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path


def main() -> int:
    """Run it as the command line says."""
    parser = argparse.ArgumentParser(prog="tests.torture", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "postgres"), default="sqlite")
    parser.add_argument("--seconds", type=float, default=60, help="how long faults are done (default: 60)")
    parser.add_argument("--seed", type=int, help="what is drawn is drawn from this (default: any)")
    parser.add_argument("--brief", action="store_true", help="on SQLite, without the faults that take long")
    parser.add_argument("--keep", action="store_true", help="keep the directory in any case")
    arguments = parser.parse_args()
    seed = int(time.time()) if arguments.seed is None else arguments.seed
    directory = Path(tempfile.mkdtemp(prefix="tt-"))  # short: Ray's sockets are in it
    os.environ["RAY_TMPDIR"] = str(directory)
    os.environ["RAY_AUTH_MODE"] = "disabled"
    os.environ["EVENTRAY_FAULTS"] = str(directory)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path.cwd()), os.environ.get("PYTHONPATH", ""))))

    from tests.torture.report import report
    from tests.torture.run import torture  # imports Ray, which looks at the environment
    from tests.torture.schedule import BRIEFLY, ON_POSTGRES, ON_SQLITE

    asked = BRIEFLY if arguments.brief else ON_SQLITE if arguments.store == "sqlite" else ON_POSTGRES

    began_s, ours = time.monotonic(), sys.stdout

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began_s:5.0f} s] {text}", file=ours, flush=True)

    say(f"seed {seed}, {arguments.seconds:g} s of faults")
    with (directory / "ray.log").open("w") as log, redirect_stdout(log), redirect_stderr(log):  # Ray tells much
        outcome = asyncio.run(torture(directory, arguments.store, arguments.seconds, seed, asked, say))
    good = report(outcome, arguments.store, arguments.seconds, seed, arguments.brief)
    if good and not arguments.keep:
        shutil.rmtree(directory)
    else:
        print(f"kept: {directory} (judge again: python -m tests.torture.checker {directory})")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
