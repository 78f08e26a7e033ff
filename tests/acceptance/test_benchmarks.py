"""Each benchmark runs once, small, so that it can't rot. Its figures are not judged here."""

import json
import subprocess
import sys

import pytest

from tests.acceptance.commandline import ROOT, environment


@pytest.mark.timeout(120)
def test_the_command_benchmark_runs_and_its_counts_agree() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.commands", "--commands", "2000", "--customers", "300", "--json"],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["commands"] == 2000
    assert 0 < figures["commits"] <= 2000
    for name in ("commands_per_s", "latency_p50_ms", "latency_p99_ms", "lone_command_p50_ms", "empty_ray_call_p50_ms"):
        assert figures[name] > 0
