"""What counts as left over after a run."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.torture.ground import COORDINATOR, HOST, HOSTS, MARK, PROJECTIONS, Actor, Ground

TITLES = ("ray::IDLE", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::HostProcess")


def test_a_process_of_an_actor_that_is_no_more_is_left_over_and_those_of_a_node_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, str(tmp_path))
    there = [Actor(role, role, 0, "node") for role in (COORDINATOR, *[HOST] * HOSTS, PROJECTIONS)]
    monkeypatch.setattr(Ground, "actors", lambda _ground: there)
    started = [subprocess.Popen([title, "60"], executable="sleep") for title in TITLES]
    try:
        ground = Ground(tmp_path, "sqlite:///torture.db", "", 1)
        assert {process.pid for process in ground.processes()} == {each.pid for each in started}
        assert ground.leftover_actors() == [f"process {started[-1].pid} (ray::HostProcess 60)"]
    finally:
        for each in started:
            each.kill()
            each.wait()
