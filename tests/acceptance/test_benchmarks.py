"""Each benchmark runs once, small, so that it can't rot. Its figures are not judged here."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.acceptance.commandline import ROOT, environment


def benchmark(*arguments: str) -> Any:
    """Run the command benchmark; return its figures."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.commands", *arguments, "--json"],
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
    figures = benchmark("--commands", "2000", "--customers", "300")
    assert figures["commands"] == 2000
    assert 0 < figures["commits"] <= 2000
    for name in ("commands_per_s", "latency_p50_ms", "latency_p99_ms", "lone_command_p50_ms", "empty_ray_call_p50_ms"):
        assert figures[name] > 0


@pytest.mark.timeout(120)
def test_drivers_on_a_cluster_submit_together_and_the_log_has_all_that_they_say(ray_address: str) -> None:
    figures = benchmark("--address", ray_address, "--drivers", "2", "--seconds", "1", "--in-flight", "100")
    assert figures["drivers"] == len(figures["commands_per_s_by_driver"]) == 2
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
