"""The file by which Prometheus finds an exporter: one for each runtime, and none of an exporter that has ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.metrics import announcing, exporter
from cluster.metrics.announcing import announce, sweep, withdraw
from cluster.metrics.exporter import ExporterPlan
from cluster.metrics.judging import Limits
from cluster.metrics.process import ExporterProcess
from store import process
from store.records import Writer

SHOP, BANK = "eventray-shop", "eventray-bank"
ELSEWHERE = """
import sys
from pathlib import Path
from cluster.metrics.announcing import announce
announce(Path(sys.argv[1]), "http://127.0.0.1:1", sys.argv[2])
"""


def targets(directory: Path) -> list[str]:
    """What Prometheus would scrape."""
    files = sorted(directory.glob("*_service_discovery.json"))
    return [target for file in files for group in json.loads(file.read_text()) for target in group["targets"]]


def left_by_a_killed_exporter(directory: Path, namespace: str) -> None:
    subprocess.run([sys.executable, "-c", ELSEWHERE, str(directory), namespace], check=True, timeout=60)


def test_a_runtime_has_one_target_whoever_had_it_before(tmp_path: Path) -> None:
    left_by_a_killed_exporter(tmp_path, SHOP)
    assert targets(tmp_path) == ["127.0.0.1:1"]
    for _ in range(2):
        announce(tmp_path, "http://127.0.0.1:2", SHOP)
        announce(tmp_path, "http://127.0.0.1:3", BANK)
    assert targets(tmp_path) == ["127.0.0.1:3", "127.0.0.1:2"]
    withdraw(tmp_path, BANK)
    withdraw(tmp_path, BANK)
    assert targets(tmp_path) == ["127.0.0.1:2"]


def test_a_predecessor_that_is_still_ending_has_no_target_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", os.getppid)  # one that lives
        announce(tmp_path, "http://127.0.0.1:1", SHOP)
    sweep(tmp_path)
    assert targets(tmp_path) == ["127.0.0.1:1"]
    announce(tmp_path, "http://127.0.0.1:2", SHOP)
    assert targets(tmp_path) == ["127.0.0.1:2"]


def test_what_a_killed_exporter_has_left_is_taken_away_by_whoever_comes_next(tmp_path: Path) -> None:
    left_by_a_killed_exporter(tmp_path, SHOP)
    announce(tmp_path, "http://127.0.0.1:3", BANK)
    assert targets(tmp_path) == ["127.0.0.1:3"]
    left_by_a_killed_exporter(tmp_path, SHOP)
    sweep(tmp_path)
    assert targets(tmp_path) == ["127.0.0.1:3"]


def test_what_may_be_alive_elsewhere_or_is_not_ours_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = Writer("another container", 1, "1")
    with monkeypatch.context() as patch:
        patch.setattr(announcing, "this_process", lambda: elsewhere)
        announce(tmp_path, "http://127.0.0.1:2", SHOP)
    for name, content in {
        "prom_metrics": '[{"targets": ["127.0.0.1:8080"], "labels": {"job": "ray"}}]',
        "eventray-older.1": '[{"targets": ["127.0.0.1:9"], "labels": {}}]',
        "eventray-half.1": "[",
    }.items():
        (tmp_path / f"{name}_service_discovery.json").write_text(content)
    sweep(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_pid_that_another_process_has_now_is_no_sign_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = process.this_process()
    with monkeypatch.context() as patch:
        patch.setattr(announcing, "this_process", lambda: own._replace(started="long ago"))
        announce(tmp_path, "http://127.0.0.1:2", SHOP)
    sweep(tmp_path)
    assert targets(tmp_path) == []


def test_an_exporter_that_ends_with_its_coordinator_leaves_no_target_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter, "temp_dir", lambda: tmp_path)
    ending = ExporterProcess.__new__(ExporterProcess)  # without Ray
    ending._plan = ExporterPlan(SHOP, "memory://", (), {}, "127.0.0.1", 0, Limits(5, 10))
    announce(tmp_path, "http://127.0.0.1:2", SHOP)
    for _ in range(2):
        ending._before_the_end()
    assert targets(tmp_path) == []
