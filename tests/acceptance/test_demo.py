"""The demo, run as its users run it."""

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from tests.acceptance.commandline import EVENTRAY, Done, all_events, environment, eventray, in_process

pytestmark = pytest.mark.timeout(180)
CUSTOMERS = 40


@pytest.fixture(scope="module")
def first_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A directory in which the demo has run on a slice of the input, and what it said."""
    directory = tmp_path_factory.mktemp("demo")
    return directory, eventray(directory, "demo", "--customers", str(CUSTOMERS), "--json")


@pytest.fixture
def after_a_run(first_run: tuple[Path, Done], tmp_path: Path) -> Path:
    """A directory of the test's own with a copy of that store."""
    return Path(shutil.copytree(first_run[0], tmp_path / "demo"))


def again(directory: Path, *options: str) -> Done:
    return in_process(directory, "demo", "--customers", str(CUSTOMERS), *options)


def test_a_slice_matches_its_input(first_run: tuple[Path, Done]) -> None:
    _, done = first_run
    assert (done.exit_code, done.err) == (0, "")
    report = done.json
    assert (report["customers"], report["matches_input"]) == (CUSTOMERS, True)
    commands, promotions = report["commands"], report["promotions"]
    assert commands["accepted"] == commands["submitted"] == report["events"] - report["vips"]
    assert promotions == {"acknowledged": report["vips"], "refused": 0, "failed": 0, "waiting": 0}


def test_a_second_run_changes_nothing(after_a_run: Path) -> None:
    before = all_events(after_a_run / "eventray-demo.db")
    done = again(after_a_run)
    assert done.exit_code == 0, done
    assert "commands were duplicates: an earlier run had done them. Nothing changed." in done.out
    assert all_events(after_a_run / "eventray-demo.db") == before


def test_a_difference_is_told_and_fails(after_a_run: Path) -> None:
    read_model = sqlite3.connect(after_a_run / "eventray-demo.read.db")
    read_model.execute("UPDATE customers_v1 SET total_spent = total_spent + 1 WHERE id = '00004'")
    read_model.commit()
    read_model.close()
    done = again(after_a_run, "--json")
    assert done.exit_code == 1
    report = done.json
    assert report["matches_input"] is False
    (difference,) = report["differences"]
    assert "customer 00004: total_spent is 100.5001 in the read model, 100.50 by the input" in difference


def test_the_whole_input_comes_out(tmp_path: Path) -> None:
    done = eventray(tmp_path, "demo", timeout_s=120, RAY_ADDRESS="local")
    assert done.exit_code == 0, done
    for figure in ("2,357", "6,919", "$244,091.94", "commands per second", "projection lag"):
        assert figure in done.out
    assert len(all_events(tmp_path / "eventray-demo.db")) == 2_357 + 6_919 + 76


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_stopped_is_completed_by_the_next(how: signal.Signals, tmp_path: Path) -> None:
    running = subprocess.Popen(
        [*EVENTRAY, "demo"],
        cwd=tmp_path,
        env=environment(RAY_ADDRESS="local"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    store, deadline = tmp_path / "eventray-demo.db", time.monotonic() + 60
    while not (store.exists() and has_events(store)):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    processes = psutil.Process(running.pid).children(recursive=True)
    running.send_signal(how)
    _, said = running.communicate(timeout=60)
    if how is signal.SIGINT:
        assert (running.returncode, "the next run does the rest" in said) == (130, True), said
        _, alive = psutil.wait_procs(processes, timeout=30)
        assert alive == []
    done_before = submitted_events(store)
    report = in_process(tmp_path, "demo", "--json").json
    assert report["matches_input"] is True
    commands, promotions = report["commands"], report["promotions"]
    assert commands["accepted"] + commands["duplicates"] == commands["submitted"] == submitted_events(store)
    assert promotions == {"acknowledged": 76, "refused": 0, "failed": 0, "waiting": 0}
    assert report["vips"] == report["events"] - commands["submitted"] == 76
    # A host outlives a killed driver by a moment, and still commits what it has in hand.
    done_late = commands["duplicates"] - done_before
    assert done_late == 0 if how is signal.SIGINT else done_late >= 0
    assert commands["accepted"] > 0


def submitted_events(store: Path) -> int:
    """How many events came of the driver's commands, not of the process manager's."""
    return sum("CustomerPromoted" not in row for row in all_events(store))


def has_events(store: Path) -> bool:
    connection = sqlite3.connect(store)
    try:
        return bool(connection.execute("SELECT EXISTS (SELECT 1 FROM events)").fetchone()[0])
    except sqlite3.OperationalError:  # it is being made
        return False
    finally:
        connection.close()


def test_a_demo_beside_a_dashboard_stays_until_ctrl_c(after_a_run: Path) -> None:
    running = subprocess.Popen(
        [*EVENTRAY, "demo", "--customers", str(CUSTOMERS), "--dashboard", "--json"],
        cwd=after_a_run,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr is not None
    said = []
    for line in running.stderr:
        said.append(line)
        if "stays until Ctrl-C" in line:
            break
    assert said[0].startswith(
        "eventray: the Ray that runs here has no dashboard: RAY_ADDRESS=local starts one that has"
    )
    running.send_signal(signal.SIGINT)
    out, _ = running.communicate(timeout=60)
    assert (running.returncode, json.loads(out)["matches_input"]) == (0, True)
