"""The torture, brief: some seconds of it in each run of the tests. `make torture` is the whole."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.acceptance.commandline import ROOT, environment

SECONDS = 30
"""Each kind of fault of a brief run comes once."""


@pytest.mark.timeout(260)
def test_nothing_is_lost_doubled_or_reordered_under_random_faults() -> None:
    arguments = [sys.executable, "-m", "tests.torture", "--brief", "--seconds", str(SECONDS), "--seed", "7"]
    kept = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    done = subprocess.run(arguments, cwd=ROOT, env=kept, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
