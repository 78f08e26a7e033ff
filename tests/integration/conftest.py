"""One Ray for the whole run of the tests. Each store has a Ray namespace of its own, so tests don't meet."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from cluster.settings import Settings


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Start Ray, small, for this process; returns the address at which other processes find it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")]))
        context: Any = ray.init(
            "local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    yield context.address_info["gcs_address"]
    ray.shutdown()


@pytest.fixture
def store_url(tmp_path: Path) -> str:
    """Where a new store may be made."""
    return f"sqlite:///{tmp_path}/shop.db"


@pytest.fixture
def settings() -> Settings:
    """Settings for a busy machine."""
    return Settings(query_timeout_s=20, close_timeout_s=20)
