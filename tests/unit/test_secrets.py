"""A store's password is in no log line, no repr and no error (see also `test_urls.py`); what is read is only data."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from actors.host import HostPlan
from actors.limits import HostLimits
from cluster.application import application_of
from cluster.coordinator import RuntimePlan
from cluster.settings import Settings
from projections.host import ProjectionPlan
from projections.progress import SubscriberLimits
from store import InvalidValue
from store.backup import server_command
from store.migrating import schema_version_of
from store.schema import metadata
from store.urls import shared_url

ROOT = Path(__file__).parents[2]
PASSWORD = "hunter2"
URL = f"postgresql://ada:{PASSWORD}@db.example/shop?sslpassword={PASSWORD}"

BREAKS = f"""
import structlog
from store.logs import configure_logs
configure_logs(FORMAT, in_worker=WORKER)
def fail(url):
    raise ValueError("broken")
try:
    fail("{URL}")
except ValueError as error:
    structlog.get_logger("x").error("a loop ended", exc_info=error)
"""


@pytest.mark.parametrize("log_format", ["console", "json"])
@pytest.mark.parametrize("in_worker", [True, False])
def test_a_traceback_in_a_log_shows_no_variables(in_worker: bool, log_format: str) -> None:
    script = BREAKS.replace("WORKER", str(in_worker)).replace("FORMAT", repr(log_format))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    said = done.stdout + done.stderr
    assert "ValueError: broken" in said
    assert said.count(PASSWORD) == 0


@pytest.mark.parametrize(
    "plan",
    [
        HostPlan("host", "Host", "namespace", URL, (), HostLimits(), 1),
        ProjectionPlan(URL, (), (), SubscriberLimits()),
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


UNPICKLERS = {
    "pickle",
    "_pickle",
    "cPickle",
    "cloudpickle",
    "dill",
    "marshal",
    "shelve",
    "jsonpickle",
    "copyreg",
    "yaml",
}
RUNNERS = {"eval", "exec", "compile", "PickleType"}
HOOKS = {"ext_hook"}


def unsafe(source: str) -> list[str]:
    """Names that would make objects, or run code, of what was read."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [part for name in names for part in name.split(".") if part in UNPICKLERS | {"PickleType"}]
        elif isinstance(node, ast.Name | ast.Attribute):
            name = node.id if isinstance(node, ast.Name) else node.attr
            builtin = isinstance(node, ast.Name) or name == "PickleType"
            found += [name] if (builtin and name in RUNNERS) or name in UNPICKLERS else []
        elif isinstance(node, ast.keyword) and node.arg in HOOKS:
            found.append(node.arg)
    return found


def test_nothing_that_is_read_is_ever_unpickled_or_run() -> None:
    sources = [path for layer in ("store", "actors", "projections", "cluster") for path in (ROOT / layer).rglob("*.py")]
    assert len(sources) > 50
    assert {str(path.relative_to(ROOT)): found for path in sources if (found := unsafe(path.read_text()))} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from ray import cloudpickle",
        "import ray.cloudpickle",
        "ray.cloudpickle.loads(row)",
        "eval(row)",
        "msgpack.unpackb(row, ext_hook=make)",
        "Column('state', PickleType)",
        "sqlalchemy.PickleType()",
    ],
)
def test_what_would_unpickle_is_noticed(source: str) -> None:
    assert unsafe(source)


def test_a_stored_row_that_is_a_pickle_is_text_and_no_more() -> None:
    """The columns of the store hold numbers, text, and ids of 16 bytes: no type that an object could be made of."""
    kinds = {type(column.type).__name__ for table in metadata.sorted_tables for column in table.columns}
    assert kinds <= {"BigInteger", "Boolean", "Integer", "LargeBinary", "String", "Text"}
