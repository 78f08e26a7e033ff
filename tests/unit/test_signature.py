"""The signature of an application: the same in every process, another for other names, versions and schemas."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.application import Application, default_application, load_application
from cluster.signature import OtherApplication, check_same, signature_of
from tests.unit.test_application import SCRIPT

PRINT = "import json; from cluster.application import *; from cluster.signature import *; "
PRINT += "print(json.dumps(signature_of(default_application())))"

DOCUMENTED = SCRIPT.replace("class Opened(Event):", 'class Opened(Event):\n    """One more account."""\n')


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Application:
    return load(SCRIPT, "bank", tmp_path, monkeypatch)


def load(source: str, name: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Application:
    module = f"{name}_of_{directory.name}".replace("-", "_")
    (directory / f"{module}.py").write_text(source)
    monkeypatch.chdir(directory)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return load_application(f"{module}:application")


def test_every_process_finds_the_same() -> None:
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", PRINT], env=environment, capture_output=True, text=True, check=True)
    check_same(signature_of(default_application()), json.loads(done.stdout))
    assert "event CustomerCreated" in json.loads(done.stdout)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (SCRIPT.replace("class Opened(Event):", "class Opened(Event):\n    amount: int"), "event Opened: version 1, "),
        (SCRIPT.replace("class Opened(Event):", "class Opened(Event, event_type='Begun'):"), "event Begun: none here"),
        (SCRIPT.replace("class Open(Command):", "class Open(Command):\n    amount: int"), "command Open: for account"),
        (
            SCRIPT.replace("Account(Aggregate)", "Account(Aggregate, category='till')").replace(
                "account_id", "till_id"
            ),
            "till",
        ),
        (
            SCRIPT.replace("class Accounts(Projection):", "class Accounts(Projection, version=2):"),
            "projection Accounts",
        ),
        (SCRIPT.replace("primary_key=True)", "primary_key=True), Column('size', Integer)"), "projection Accounts"),
        (SCRIPT.replace("projections=[Accounts]", ""), "projection Accounts: version 1, tables .* here, none there"),
    ],
)
def test_a_difference_is_named(
    source: str, words: str, bank: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source != SCRIPT
    with pytest.raises(OtherApplication, match=words):
        check_same(signature_of(bank), signature_of(load(source, "other", tmp_path, monkeypatch)))


@pytest.mark.parametrize(
    "source", [DOCUMENTED, SCRIPT.replace("self.is_open = True", "self.is_open = bool(event.account_id)")]
)
def test_what_methods_do_and_say_is_no_difference(
    source: str, bank: Application, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert source != SCRIPT
    check_same(signature_of(bank), signature_of(load(source, "other", tmp_path, monkeypatch)))


def test_many_differences_are_counted(bank: Application) -> None:
    with pytest.raises(OtherApplication, match=r"aggregate account: .*; aggregate customer: .*; and \d+ more\. Give"):
        check_same(signature_of(bank), signature_of(default_application()))
