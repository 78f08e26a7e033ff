"""What is shipped for deployment: Ray's own checks pass, the token is on, and no secret is in it."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import prepare_config, validate_config

from benchmarks.commands import read_arguments
from cluster import local_ray
from cluster.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
RAY_UP = yaml.safe_load((DEPLOY / "ray-up.yaml").read_text())
RAY_CLUSTER = yaml.safe_load((DEPLOY / "raycluster.yaml").read_text())
RAY_JOB = yaml.safe_load((DEPLOY / "rayjob.yaml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()

SPECS = [RAY_CLUSTER["spec"], RAY_JOB["spec"]["rayClusterSpec"]]
"""Of all Ray clusters on Kubernetes."""


def containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_ray_up_takes_its_configuration() -> None:
    prepared = prepare_config(RAY_UP)
    validate_config(prepared)
    assert prepared["provider"]["type"] == "local"
    assert prepared["max_workers"] == len(RAY_UP["provider"]["worker_ips"])


@pytest.mark.parametrize("spec", SPECS)
def test_ray_reads_the_cluster_of_kubernetes(spec: dict[str, Any]) -> None:
    config = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": spec})
    validate_config(config)
    head, workers = config["available_node_types"].values()
    assert head["resources"]["CPU"] == 0
    assert workers["resources"]["CPU"] >= 2
    assert workers["max_workers"] >= workers["min_workers"] == 2


def test_the_token_is_on_everywhere() -> None:
    assert [spec["authOptions"] for spec in SPECS] == [{"mode": "token"}] * 2
    starts = RAY_UP["head_start_ray_commands"] + RAY_UP["worker_start_ray_commands"]
    assert [bool("RAY_AUTH_MODE=token" in command) for command in starts if " start " in command] == [True, True]
    assert "~/.ray/auth_token" in RAY_UP["file_mounts"]
    assert "ENV RAY_AUTH_MODE=token" in DOCKERFILE


def test_every_command_of_the_page_starts_ray_with_the_token() -> None:
    page = (ROOT / "docs" / "deployment.md").read_text()
    starts = re.findall(r"^(?:head|worker)\$ +(.*ray start .*)$", page, re.MULTILINE)
    assert len(starts) == 2
    assert all(command.startswith("RAY_AUTH_MODE=token ray start ") for command in starts)


def test_nothing_listens_wider_than_ray_must() -> None:
    for path in DEPLOY.iterdir():
        assert "0.0.0.0" not in path.read_text(), path
    assert "--dashboard-host=127.0.0.1" in RAY_UP["head_start_ray_commands"][1]
    assert "--dashboard-host=127.0.0.1" in local_ray._arguments(1, 2, 3, Settings(include_dashboard=True))
    assert Settings.model_fields["metrics_address"].default == "127.0.0.1"


def test_no_secret_is_written_in_it() -> None:
    for spec in SPECS:
        for container in containers(spec):
            for variable in container["env"]:
                assert variable.keys() == {"name", "valueFrom"}
    assert RAY_CLUSTER["spec"]["gcsFaultToleranceOptions"]["redisPassword"].keys() == {"valueFrom"}
    for path in DEPLOY.iterdir():
        assert set(re.findall(r"://[^:@/\s]+:([^@\s]+)@", path.read_text())) <= {"PASSWORD"}


def test_every_part_has_the_ray_that_is_tested() -> None:
    assert {spec["rayVersion"] for spec in SPECS} == {version("ray")}
    assert f"FROM rayproject/ray:{version('ray')}-py311" in DOCKERFILE
    images = {container["image"] for spec in SPECS for container in containers(spec)}
    assert images == {f"eventray:{version('eventray')}"}
    assert f"-t eventray:{version('eventray')}" in DOCKERFILE


def test_the_job_runs_the_benchmark_with_arguments_that_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    python, _, module, *arguments = shlex.split(RAY_JOB["spec"]["entrypoint"])
    assert (python, module) == ("python", "benchmarks.commands")
    monkeypatch.setattr("sys.argv", [module, *arguments])
    parsed = read_arguments()
    assert (parsed.address, parsed.drivers, parsed.seconds) == ("auto", 4, 60.0)
