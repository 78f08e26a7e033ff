"""An address that can't be joined is told in one line, and soon: no cluster, no Ray, another version, no token."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray._private import utils as ray_utils

from cluster.ray_probe import RayUnavailable, check_cluster

PROBE = "import sys; from cluster.ray_probe import check_cluster; check_cluster(sys.argv[1])"


@pytest.fixture
def no_ray() -> Iterator[str]:
    """An address where something listens that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_the_cluster_that_runs_is_fine(ray_address: str) -> None:
    check_cluster(ray_address)


def test_where_no_ray_answers(no_ray: str) -> None:
    began_s = time.monotonic()
    for address in ("127.0.0.1:1", no_ray):
        with pytest.raises(RayUnavailable, match=f"Ray at {address} can't be used: no Ray answers there within 1 s"):
            check_cluster(address, 1)
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize(("address", "words"), [("ray://head:10001", "as a Ray job"), ("rubbish", "give HOST:PORT")])
def test_what_is_no_address(address: str, words: str) -> None:
    with pytest.raises(RayUnavailable, match=words):
        check_cluster(address)


def test_another_ray(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "__version__", "2.61.0")
    with pytest.raises(RayUnavailable, match=r"it runs Ray 2\.60\.\d on Python .*, this process Ray 2\.61\.0 on"):
        check_cluster(ray_address)


def test_another_python(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_utils, "compute_version_info", lambda: (ray.__version__, "3.9.1"))
    with pytest.raises(RayUnavailable, match=r"this process Ray \S+ on Python 3\.9\.1: use the same versions"):
        check_cluster(ray_address)


@pytest.mark.parametrize("token", [{"RAY_AUTH_TOKEN": "b" * 64}, {}, {"RAY_AUTH_MODE": "disabled"}])
def test_a_driver_without_the_token_is_refused(ray_address: str, token: dict[str, str], tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    refused = subprocess.run(
        [sys.executable, "-c", PROBE, ray_address],
        env={**environment, "RAY_AUTH_MODE": "token", "HOME": str(tmp_path), "PYTHONPATH": str(Path.cwd()), **token},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert refused.returncode == 1
    last_line = refused.stderr.splitlines()[-1]
    assert "it refuses this process's token: set RAY_AUTH_MODE=token" in last_line
    assert "b" * 64 not in refused.stderr
