"""What the tutorial and the README tell people to write and to type works as they say."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.commandline import ROOT, Done, environment, eventray, in_process

pytestmark = pytest.mark.timeout(180)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str) -> list[str]:
    return [text for kind, text in BLOCK.findall((ROOT / page).read_text()) if kind == language]


def python(directory: Path, *arguments: str, **variables: str) -> list[str]:
    """Run Python in a directory; return the lines it printed."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()


def type_session(page: str, directory: Path, run: Callable[..., Done]) -> None:
    """Type the page's first session of `eventray` commands; each must succeed."""
    session, *_ = (text for text in blocks(page, "console") if "eventray" in text)
    for command in session.splitlines():
        match command.removeprefix("$ ").split():
            case ["eventray", *arguments]:
                done = run(directory, *arguments)
                assert done.exit_code == 0, done
            case _:
                subprocess.run(["sh", "-c", command.removeprefix("$ ")], cwd=directory, check=True)


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    """A directory with the files of the tutorial."""
    for text in blocks("docs/tutorial.md", "python"):
        name = re.match(r"# (\w+\.py)\n", text)
        assert name, f"a block of the tutorial doesn't begin with its file's name: {text[:60]!r}"
        (tmp_path / name[1]).write_text(text)
    return tmp_path


def test_the_tutorials_tests_pass(bank: Path) -> None:
    tests = sorted(path.name for path in bank.glob("test_*.py"))
    assert tests == ["test_application.py", "test_bank.py"]
    (*_, summary) = python(bank, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    assert re.match(r"[1-9]\d* passed", summary)


def test_the_tutorials_aggregate_fits_in_some_40_lines(bank: Path) -> None:
    text = (bank / "bank.py").read_text()
    aggregate = text[text.index("class OpenAccount") : text.index("# The read model")]
    assert len([line for line in aggregate.splitlines() if line]) <= 45


def test_the_tutorials_script_and_commands_run(bank: Path) -> None:
    for where in ({"RAY_ADDRESS": "local"}, {}):  # where no Ray runs, and where one does
        assert python(bank, "run_bank.py", **where) == ["Account a-1 holds 10.00, not 99.00.", "Ada 10.00 1"]
    type_session("docs/tutorial.md", bank, eventray)
    options = ["--store", "sqlite:///bank.db", "--app", "bank:application", "--json"]
    assert eventray(bank, "query", "Accounts", "a-1", *options).json["balance"] == "15.00"


def test_the_readmes_script_and_commands_run(tmp_path: Path) -> None:
    script, *_ = blocks("README.md", "python")  # what follows it are parts of scripts
    (tmp_path / "first.py").write_text(script)
    assert python(tmp_path, "first.py", RAY_ADDRESS="local") == ["Ada Vip 1 42.00", "Regular"]
    (command,) = blocks("README.md", "json")
    (tmp_path / "commands.jsonl").write_text(command)
    type_session("README.md", tmp_path, in_process)
    row = in_process(tmp_path, "query", "CustomerProjection", "c-1", "--store", "sqlite:///shop.db", "--json").json
    assert row["total_spent"] == "49.50"
