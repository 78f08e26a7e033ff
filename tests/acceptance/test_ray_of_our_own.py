"""Where no Ray is to be joined, `eventray up` begins one that stays, and the last `eventray down` ends it."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.acceptance.commandline import EVENTRAY, environment


@pytest.fixture
def home() -> Iterator[Path]:
    """A home, and a place for Ray, of a short name: sockets are in it."""
    directory = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    yield directory
    for process in processes_of(directory):
        process.kill()
    shutil.rmtree(directory)


def processes_of(directory: Path) -> list[psutil.Process]:
    """Return the processes of the Ray in a directory, which they all have in their command lines."""
    found = psutil.process_iter(["cmdline"])
    return [process for process in found if any(str(directory) in word for word in process.info["cmdline"] or ())]


def variables_of(home: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in environment().items() if not name.startswith("RAY_")}
    return {**kept, "HOME": str(home), "RAY_TMPDIR": str(home), **variables}


def run(home: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EVENTRAY, *arguments, "--json"],
        env=variables_of(home, **variables),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.timeout(120)
def test_a_ray_that_up_began_ends_with_the_last_runtime_on_it(home: Path) -> None:
    def eventray(*arguments: str, address: str) -> Any:
        done = run(home, *arguments, RAY_ADDRESS=address)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    first, second = (f"sqlite:///{home}/{name}.db" for name in ("first", "second"))
    began = eventray("up", "--store", first, address="local")
    assert (began["ray_begun"], began["joined"], began["hosts"]) == (True, False, 1)
    assert stat.S_IMODE((home / ".ray" / "auth_token").stat().st_mode) == 0o600
    refused = run(home, "up", "--store", second, RAY_ADDRESS=began["address"], RAY_AUTH_MODE="disabled")
    assert (refused.returncode, refused.stdout, len(refused.stderr.splitlines())) == (1, "", 1)
    assert "it refuses this process's token" in refused.stderr
    joined = eventray("up", "--store", second, address="auto")
    assert (joined["ray_begun"], joined["joined"], joined["address"]) == (False, False, began["address"])

    assert eventray("down", "--store", first, address="auto") == {"ended": True, "ray_ended": False}
    assert eventray("status", "--store", second, address="auto")["running"]
    assert processes_of(home)
    assert eventray("down", "--store", second, address="auto") == {"ended": True, "ray_ended": True}
    psutil.wait_procs(processes_of(home), timeout=10)
    assert processes_of(home) == []


@pytest.mark.timeout(120)
def test_ctrl_c_while_its_ray_starts_leaves_nothing(home: Path) -> None:
    starting = subprocess.Popen(
        [*EVENTRAY, "up", "--store", f"sqlite:///{home}/shop.db"],
        env=variables_of(home, RAY_ADDRESS="local"),
        cwd=home,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + 40
    while not any("gcs_server" in process.name() for process in processes_of(home)):
        assert time.monotonic() < deadline_s, "no Ray was begun"
        time.sleep(0.02)
    starting.send_signal(signal.SIGINT)
    _, said = starting.communicate(timeout=60)
    assert (starting.returncode, said.splitlines()[-1]) == (130, "eventray: stopped")
    psutil.wait_procs(processes_of(home), timeout=10)
    assert processes_of(home) == []
