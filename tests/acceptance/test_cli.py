"""The command line, as its users meet it: bad input, exit codes, what goes to stdout and what to stderr."""

import asyncio
import json
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from actors.customers import CreateCustomer, PromoteToVip
from cluster.testing import InProcessRuntime
from tests.acceptance.commandline import EVENTRAY, ROOT, Done, all_events, environment, eventray, in_process

pytestmark = pytest.mark.timeout(120)
STORE = ["--store", "sqlite:///x.db"]


def line(command: str, command_id: str, **data: Any) -> str:
    return json.dumps({"command": command, "data": data, "command_id": command_id})


GOOD_LINES = [
    line("CreateCustomer", "1", customer_id="c-1", name="Ada", email="ada@example.com"),
    line("CreateOrder", "2", order_id="o-1", customer_id="c-1", total_amount="42.00"),
    line("PromoteToVip", "3", customer_id="c-1", reason="loyal"),
    line("CreateCustomer", "4", customer_id="c-2", name="Bob", email="bob@example.com"),
    line("ChangeEmail", "5", customer_id="c-1", email="ada@example.org"),
]


@pytest.fixture(scope="module")
def submitted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Done]:
    """A directory with a store that the good lines were submitted to, and what the first submit said."""
    directory = tmp_path_factory.mktemp("submitted")
    (directory / "good.jsonl").write_text("\n".join(GOOD_LINES))
    return directory, eventray(directory, "submit", "good.jsonl", *STORE, "--json")


@pytest.fixture
def shop(submitted: tuple[Path, Done], tmp_path: Path) -> Path:
    """A directory of the test's own with a copy of that store."""
    return Path(shutil.copytree(submitted[0], tmp_path / "shop"))


def test_submit_closes_with_the_summary(submitted: tuple[Path, Done]) -> None:
    _, done = submitted
    assert (done.exit_code, done.err) == (0, "")
    summary = done.json
    assert list(summary) == [
        "submitted",
        "accepted",
        "duplicates",
        "rejected",
        "failed",
        "seconds",
        "commands_per_s",
    ]
    assert (summary["submitted"], summary["accepted"]) == (5, 5)


def test_the_same_file_twice_changes_nothing(shop: Path) -> None:
    before = all_events(shop / "x.db")
    assert len(before) == 5
    done = in_process(shop, "submit", "good.jsonl", *STORE)
    assert (done.exit_code, done.json["submitted"], done.json["duplicates"]) == (0, 5, 5)
    assert all_events(shop / "x.db") == before


def test_bad_lines_are_named_and_the_others_are_done(tmp_path: Path) -> None:
    order = '{"command": "CreateOrder", "data": {"order_id": "o-%s", "customer_id": "c-1", "total_amount": %s}}'
    lines = [
        GOOD_LINES[0],
        '{"command": "CreateOrder", "data": {',
        '{"command": "CreateOrdr", "data": {}}',
        '{"command": "CreateOrder", "data": {"order_id": "o-1", "customer_id": "c-1"}}',
        order % ("2", '"much"'),
        order % ("x" * 201, "1"),
        order % ("3", '"-1.00"'),
        order % ("4", "NaN"),
        order % ("5\\u0000", "1"),
        "",
        order % ("6", '"42.00"'),
        '{"command": "CreateOrder", "data": {"order_id": "o-7", "customer_id": "nobody", "total_amount": 1}}',
    ]
    done = eventray(tmp_path, "submit", "-", *STORE, stdin="\n".join(lines))
    assert done.exit_code == 1
    summary = done.json
    counts = {name: summary[name] for name in ("submitted", "accepted", "duplicates", "rejected", "failed")}
    assert counts == {"submitted": 11, "accepted": 2, "duplicates": 0, "rejected": 9, "failed": 0}
    said = sorted(done.err.splitlines(), key=lambda text: int(text.split(":")[0].removeprefix("line ")))
    expected = [
        (2, "line: ", "one JSON object was expected"),
        (3, "command: 'CreateOrdr': ", "did you mean CreateOrder?"),
        (4, "total_amount: (missing): ", "needs it"),
        (5, "total_amount: 'much': ", "decimal"),
        (6, "order_id: 'o-xxx", "at most 200 bytes"),
        (7, "total_amount: '-1.00': ", "greater than or equal to 0"),
        (8, "total_amount: nan: ", "finite number"),
        (9, "order_id: 'o-5\\x00': ", "NUL"),
        (12, "", "Customer nobody does not exist."),
    ]
    for text, (number, field_and_value, expectation) in zip(said, expected, strict=True):
        assert text.startswith(f"line {number}: {field_and_value}")
        assert expectation in text
    assert {row[2] for row in all_events(tmp_path / "x.db")} == {"customer-c-1", "order-o-6"}


def not_a_store(directory: Path) -> list[str]:
    (directory / "x.db").write_text("a letter to the bank, " * 100)
    return STORE


def a_directory_that_cannot_be_written(directory: Path) -> list[str]:
    return ["--store", "sqlite:////proc/x.db"]  # not even by root, as whom tests may run


def another_database(directory: Path) -> list[str]:
    connection = sqlite3.connect(directory / "x.db")
    connection.execute("CREATE TABLE letters (text)")
    connection.close()
    return STORE


def no_such_directory(directory: Path) -> list[str]:
    return ["--store", "sqlite:///nowhere/x.db"]


def an_unknown_url(directory: Path) -> list[str]:
    return ["--store", "mysql://localhost/x"]


def an_unknown_application(directory: Path) -> list[str]:
    return [*STORE, "--app", "nothing.of:that"]


@pytest.mark.parametrize(
    ("given", "run"),
    [
        (not_a_store, eventray),  # all of stderr, Ray's own lines too; the other complaints come the same way
        (another_database, in_process),
        (a_directory_that_cannot_be_written, in_process),
        (no_such_directory, in_process),
        (an_unknown_url, in_process),
        (an_unknown_application, in_process),
    ],
)
def test_a_store_that_cannot_be_opened_is_one_clear_line(
    given: Callable[[Path], list[str]], run: Callable[..., Done], tmp_path: Path
) -> None:
    options = given(tmp_path)
    (tmp_path / "good.jsonl").write_text(GOOD_LINES[0])
    done = run(tmp_path, "submit", "good.jsonl", *options)
    assert (done.exit_code, done.out) == (1, "")
    (said,) = done.err.splitlines()
    assert said.startswith("eventray: ")


def test_a_store_of_another_number_of_shards_is_one_clear_line(shop: Path) -> None:
    done = in_process(shop, "submit", "good.jsonl", *STORE, "--shards", "8")
    assert (done.exit_code, done.out) == (1, "")
    (said,) = done.err.splitlines()
    assert "64 shards, 8 were asked for" in said


async def test_a_store_that_another_runtime_holds_is_one_clear_line(shop: Path) -> None:
    async with InProcessRuntime.open(f"sqlite:///{shop / 'x.db'}"):
        done = await asyncio.to_thread(in_process, shop, "submit", "good.jsonl", *STORE)
    assert (done.exit_code, done.out) == (1, "")
    (said,) = done.err.splitlines()
    assert "held by another runtime" in said


def test_reading_verbs_start_no_ray(shop: Path) -> None:
    (shop / "ray.py").write_text("raise AssertionError('Ray was imported')")
    for verb in (["events", "customer-c-1"], ["show", "customer-c-1"], ["query", "CustomerProjection", "c-1"]):
        done = eventray(shop, *verb, *STORE, "--json", PYTHONPATH=f"{shop}{os.pathsep}{ROOT}")
        assert (done.exit_code, done.err) == (0, ""), done


def test_events_prints_a_stream(shop: Path) -> None:
    events = in_process(shop, "events", "customer-c-1", *STORE, "--json").json
    assert [(event["version"], event["event_type"]) for event in events] == [
        (1, "CustomerCreated"),
        (2, "CustomerPromoted"),
        (3, "CustomerEmailChanged"),
    ]
    assert events[0]["data"]["name"] == "Ada"
    page = in_process(shop, "events", "customer-c-1", EVENTRAY_STORE="sqlite:///x.db")
    assert page.exit_code == 0
    assert "CustomerPromoted" in page.out


def test_events_follow_goes_on_until_ctrl_c(shop: Path) -> None:
    following = subprocess.Popen(
        [*EVENTRAY, "events", "customer-c-1", "--follow", *STORE, "--json"],
        cwd=shop, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert following.stdout is not None
    versions = [json.loads(following.stdout.readline())["version"] for _ in range(3)]
    following.send_signal(signal.SIGINT)
    rest, complaint = following.communicate(timeout=20)
    assert (versions, rest, complaint, following.returncode) == ([1, 2, 3], "", "eventray: stopped\n", 130)
    assert in_process(shop, "events", *STORE).exit_code == 2


INTERRUPTED = """
import os, signal, sys

class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupting())
from cluster.cli import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "pydantic", "sqlalchemy", "cluster.cli.submitting", "cluster.life", "ray"])
def test_ctrl_c_while_modules_are_imported_is_told_as_at_any_other_time(shop: Path, module: str) -> None:
    """A verb's own ones, `cluster.life`, are imported once it runs."""
    words = [EVENTRAY[0], "-c", INTERRUPTED.format(module=module), "down", *STORE]
    done = subprocess.run(words, cwd=shop, env=environment(), capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "eventray: stopped\n")


def test_show_prints_the_state_now_at_a_version_and_at_a_time(shop: Path) -> None:
    def shown(*options: str) -> Any:
        return in_process(shop, "show", "customer-c-1", *STORE, "--json", *options)

    now = shown().json
    assert (now["version"], now["type"], now["email"]) == (3, "Vip", "ada@example.org")
    then = shown("--version", "1").json
    assert (then["version"], then["type"], then["email"]) == (1, "Regular", "ada@example.com")
    assert shown("--as-of", "2100-01-01").json["version"] == 3
    assert shown("--as-of", "1996-01-01").exit_code == 1


def test_show_diff_prints_what_each_event_changed(shop: Path) -> None:
    def shown(*options: str) -> Any:
        return in_process(shop, "show", "customer-c-1", "--diff", *STORE, *options)

    created, promoted, moved = shown("--json").json
    assert (created["version"], created["event_type"]) == (1, "CustomerCreated")
    assert created["changed"]["name"] == {"to": "Ada"}
    assert promoted["changed"] == {"type": {"from": "Regular", "to": "Vip"}}
    assert moved["changed"] == {"email": {"from": "ada@example.com", "to": "ada@example.org"}}
    assert shown("--json", "--version", "2").json == [created, promoted]
    assert shown("--json", "--as-of", "2100-01-01").json == [created, promoted, moved]
    page = shown()
    assert page.exit_code == 0
    assert "type: Regular -> Vip" in page.out
    assert (shown("--as-of", "1996-01-01").exit_code, shown("--version", "4").exit_code) == (1, 1)


def test_what_users_wrote_is_printed_as_it_is(tmp_path: Path) -> None:
    async def fill() -> None:
        async with InProcessRuntime.open(f"sqlite:///{tmp_path / 'x.db'}") as runtime:
            await runtime.submit(CreateCustomer(customer_id="c-[/1]", name="[/red]", email="ada@example.com"))
            await runtime.submit(PromoteToVip(customer_id="c-[/1]", reason="\x1b[31m"))

    asyncio.run(fill())
    events = in_process(tmp_path, "events", "customer-c-[/1]", *STORE)
    assert "[/red]" in events.out
    assert "\\x1b[31m" in events.out
    for options in ([], ["--diff"]):
        assert "[/red]" in in_process(tmp_path, "show", "customer-c-[/1]", *STORE, *options).out
    row = in_process(tmp_path, "query", "CustomerProjection", "c-[/1]", *STORE).out
    assert "[/red]" in row
    assert "c-[/1]" in row


def test_query_prints_a_row(shop: Path) -> None:
    row = in_process(shop, "query", "CustomerProjection", "c-1", *STORE, "--json").json
    assert (row["type"], row["total_orders"], row["total_spent"]) == ("Vip", 1, "42.00")
    page = in_process(shop, "query", "CustomerProjection", "c-1", *STORE)
    assert "42.00" in page.out


@pytest.mark.parametrize(
    "verb",
    [
        ["events", "customer-nobody"],
        ["events", "customer-\udcff"],
        ["events", "customer", "--follow"],
        ["show", "customer-nobody"],
        ["show", "customer-nobody", "--diff"],
        ["show", "nothing-1"],
        ["query", "CustomerProjection", "nobody"],
        ["query", "CustomerProjektion", "c-1"],
    ],
)
def test_what_is_not_there_is_one_line_and_exit_code_1(verb: list[str], shop: Path) -> None:
    done = in_process(shop, *verb, *STORE)
    assert (done.exit_code, done.out) == (1, "")
    assert len(done.err.splitlines()) == 1


@pytest.mark.parametrize("verb", [["events", "customer-c-1"], ["query", "CustomerProjection", "c-1"]])
def test_reading_makes_no_store(verb: list[str], tmp_path: Path) -> None:
    done = in_process(tmp_path, *verb, *STORE)
    assert done.exit_code == 1
    assert len(done.err.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["submit", "good.jsonl"],
        ["submit", "nowhere.jsonl", *STORE],
        ["events", *STORE],
        ["show", "customer-c-1", "--version", "0", *STORE],
        ["show", "customer-c-1", "--version", "1", "--as-of", "2100-01-01", *STORE],
        ["show", "customer-c-1", "--as-of", "yesterday", *STORE],
        ["nothing"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], shop: Path) -> None:
    assert in_process(shop, *arguments).exit_code == 2
