"""A store's password is in no log line, no repr and no error; see also `test_urls.py`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.host import HostPlan
from actors.hosting import HostLimits
from cluster.application import application_of
from cluster.coordinator import RuntimePlan
from cluster.settings import Settings
from projections.host import ProjectionPlan
from projections.subscriber import SubscriberLimits
from store import InvalidValue
from store.backup import server_command
from store.migrating import schema_version_of
from store.urls import shared_url

PASSWORD = "hunter2"
URL = f"postgresql://ada:{PASSWORD}@db.example/shop?sslpassword={PASSWORD}"

BREAKS = f"""
import structlog
from store.logs import configure_logs
configure_logs(in_worker=WORKER)
def fail(url):
    raise ValueError("broken")
try:
    fail("{URL}")
except ValueError as error:
    structlog.get_logger("x").error("a loop ended", exc_info=error)
"""


@pytest.mark.parametrize("in_worker", [True, False])
def test_a_traceback_in_a_log_shows_no_variables(in_worker: bool) -> None:
    script = BREAKS.replace("WORKER", str(in_worker))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "ValueError: broken" in said
    assert said.count(PASSWORD) == 0


@pytest.mark.parametrize(
    "plan",
    [
        HostPlan("host", "Host", "namespace", URL, (), HostLimits(), 1),
        ProjectionPlan(URL, (), (), 1, SubscriberLimits()),
        RuntimePlan(URL, "namespace", "holder", 1, application_of(None), Settings()),
    ],
)
def test_a_plan_does_not_show_it(plan: Any) -> None:
    assert PASSWORD not in repr(plan)


def test_the_command_for_a_backup_does_not_show_it() -> None:
    command = server_command(URL, Path("shop.dump"))
    assert command is not None
    assert PASSWORD not in command
    assert "sslpassword" not in command


async def test_a_url_that_is_refused_does_not_show_it() -> None:
    memory = f"memory://ada:{PASSWORD}@x"
    with pytest.raises(InvalidValue) as shared:
        shared_url(memory)
    with pytest.raises(InvalidValue) as migrated:
        await schema_version_of(memory)
    with pytest.raises(InvalidValue) as odd:
        shared_url(f"mysql://ada:{PASSWORD}@db/shop")
    for refused in (shared, migrated, odd):
        assert PASSWORD not in str(refused.value)
