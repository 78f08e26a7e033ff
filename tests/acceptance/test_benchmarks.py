"""Each benchmark runs once, small, so that it can't rot. Its figures are not judged here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commandline import ROOT, environment


def benchmark(*arguments: str, of: str = "commands") -> Any:
    """Run a benchmark; return its figures."""
    done = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{of}", *arguments, "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.timeout(120)
def test_the_command_benchmark_runs_and_its_counts_agree() -> None:
    report = benchmark("--commands", "2000", "--customers", "300", "--repeats", "1", "--peer-commands", "60")
    assert report["commands"] == 2000
    assert 0 < report["commits"] <= 2000
    for name in ("commands_per_s", "latency_p50_ms", "latency_p99_ms", "lone_command_p50_ms", "empty_ray_call_p50_ms"):
        assert report[name] > 0
    ratios = {name for name in report["figures"] if "over_" in name}
    assert {name for name in ratios if "eventsourc" in name or "raw" in name} < ratios
    for name, figure in report["figures"].items():
        assert 0 <= figure["min"] <= figure["median"] <= figure["max"], name


@pytest.mark.timeout(120)
def test_drivers_on_a_cluster_submit_together_and_the_log_has_all_that_they_say(ray_address: str) -> None:
    figures = benchmark("--address", ray_address, "--drivers", "3", "--seconds", "1", "--in-flight", "3000")
    assert figures["drivers"] == len(figures["commands_per_s_by_driver"]) == 3
    assert figures["commands"] == figures["events_stored"] > 0
    assert figures["failures"] == {}
    assert 0.5 < figures["seconds"] < 30
    assert 0 < figures["latency_p50_ms"] <= figures["latency_p99_ms"] <= figures["latency_max_ms"]


def test_more_drivers_than_the_cluster_has_room_for_is_one_clear_line(ray_address: str) -> None:
    arguments = [sys.executable, "-m", "benchmarks.commands", "--address", ray_address, "--drivers", "1000"]
    done = subprocess.run(
        arguments, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 1
    assert "--drivers 1000: the cluster has" in done.stderr.splitlines()[-1]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_the_store_benchmark_runs_and_reads_what_it_wrote(store: str) -> None:
    small = (
        "--events",
        "1000",
        "--repeats",
        "1",
        "--fold-streams",
        "4",
        "--fold-events",
        "5",
        "--snapshot-events",
        "50",
    )
    report = benchmark("--store", store, *small, of="store")
    assert report["measured_on"]["store"] == store
    assert report["measured_on"]["durability"]
    assert {name.partition(",")[0].partition(" /")[0] for name in report["figures"]} >= {"append", "typed read", "fold"}
    for name, figure in report["figures"].items():
        assert figure["min"] <= figure["median"] <= figure["max"], name


@pytest.mark.timeout(120)
def test_the_replay_benchmark_runs_and_folds_what_was_written() -> None:
    small = ("--events", "500", "--repeats", "1", "--fold-streams", "4", "--fold-events", "5", "--cores", "1")
    report = benchmark(*small, of="replay")
    assert report["measured_on"]["store"] == "sqlite"
    assert report["measured_on"]["durability"]
    assert {name.partition(",")[0] for name in report["figures"]} == {"fold", "whole log"}
    for name, figure in report["figures"].items():
        assert 0 < figure["min"] <= figure["median"] <= figure["max"], name


@pytest.mark.timeout(120)
def test_a_store_that_grows_pauses_and_goes_on_where_it_was_and_commands_come_to_it(tmp_path: Path) -> None:
    growing = ("--growth", "--events", "2000", "--points", "2", "--pause-after", "0", "--directory", str(tmp_path))
    first, second, third = (benchmark(*growing, of="store")["growth"] for _ in range(3))
    assert [point["events"] for point in first] == [1000]
    assert [point["events"] for point in second] == [1000, 2000]
    assert third == second
    assert second[-1]["read/s"] > 0
    grown = ("--directory", str(tmp_path), "--streams", "200", "--commands", "400", "--repeats", "1")
    figures = {name: each["median"] for name, each in benchmark(*grown, of="grown")["figures"].items()}
    raw = second[-1]["raw append/s"] / second[0]["raw append/s"]
    assert figures["slow-down / raw driver's"] == pytest.approx(figures["grown / new"] / raw)
    assert figures["grown, customers not in memory, commands/s"] > 0


@pytest.mark.timeout(120)
def test_the_rebuild_benchmark_runs_beside_its_peer_and_its_rows_agree() -> None:
    small = ("--events", "2000", "--customers", "50", "--rounds", "1", "--peer-events", "100")
    report = benchmark(*small, of="rebuild")
    assert [len(report[name]) for name in ("events_per_s", "peer_events_per_s", "times_the_peer")] == [1, 1, 1]
    assert report["events_per_s"][0] > report["peer_events_per_s"][0] > 0


@pytest.mark.timeout(120)
def test_the_projection_benchmark_runs_and_every_event_becomes_visible() -> None:
    report = benchmark("--rate", "200", "--seconds", "2", "--repeats", "1", of="projections")
    figures = {name: each["median"] for name, each in report["figures"].items()}
    assert figures["events watched"] > 300
    assert 0 < figures["commit to visible, p50, ms"] <= figures["commit to visible, p99, ms"]
    assert report["measured_on"]["store"] == "sqlite"


def test_the_benchmark_of_tracing_runs_and_none_of_it_is_called_while_it_is_off() -> None:
    (off,), (on,) = (
        benchmark("--variant", variant, "--commands", "1000", of="tracing") for variant in ("off", "all sampled")
    )
    assert off["calls_of_tracing_per_1000"] == 0
    assert on["calls_of_tracing_per_1000"] > 1000
