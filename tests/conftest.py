"""What all tests may ask for: a PostgreSQL server and room in it, and one Ray for each process of the run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import ray
import structlog

from tests import postgres

os.environ.setdefault("EVENTRAY_METRICS_EXPORTER", "false")
"""Most tests need none, and it would be one more process of each runtime; those that do say so in their settings."""

os.environ.update(RAY_LOG_MONITOR_MANY_FILES_THRESHOLD="0", LOG_NAME_UPDATE_INTERVAL_S="3600")
"""Ray looks for new log files ten times a second, to print their lines where drivers want them, as none here does."""

os.environ.update(RAY_prestart_worker_first_driver="0")
"""Else each Ray that a test begins first makes a process for each of its CPUs, whether anybody needs it or not."""

hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")
"""On a busy machine an example may take any time."""


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """Leave structlog unconfigured where it was: what one test captured or chose, no other test's lines follow."""
    was_configured = structlog.is_configured()
    yield
    if not was_configured:
        structlog.reset_defaults()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.Server]:
    """One server for the whole run. Without it the tests that ask for it fail."""
    with postgres.running_server() as server:
        yield server


@pytest.fixture
def new_postgres_url(postgres_server: postgres.Server) -> Iterator[Callable[[], str]]:
    """Return the URL of an empty schema, another at each call."""
    with ExitStack() as schemas:
        yield lambda: schemas.enter_context(postgres_server.schema())


@pytest.fixture
def postgres_url(new_postgres_url: Callable[[], str]) -> str:
    """The URL of an empty schema of the test's own."""
    return new_postgres_url()


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
