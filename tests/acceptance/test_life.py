"""A runtime that outlives the command that brought it up: up, status, down, and what is said of bad input."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import psutil
import pytest
from ray.util import list_named_actors

from actors.customers import CreateCustomer, CreateOrder
from cluster import SyncRuntime
from cluster.cli.status import _ranges
from cluster.ray_edge import namespace_of, temp_dir
from store import open_store
from tests.acceptance.commandline import EVENTRAY, Done, environment, eventray, in_process
from tests.unit.test_application import SCRIPT

pytestmark = pytest.mark.usefixtures("ray_address")

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[str]:
    """A store's URL; a runtime that is left on it is ended."""
    url = f"sqlite:///{tmp_path}/shop.db"
    yield url
    if (tmp_path / "shop.db").exists():
        in_process(tmp_path, "down", "--store", url, "--force")


def ours(directory: Path, *arguments: str) -> Done:
    """Run a verb in this process, which is connected to the Ray of the tests."""
    done = in_process(directory, *arguments)
    assert done.exit_code == 0, done.err
    return done


def actors_of(store_id: str) -> set[str]:
    return {each["name"] for each in list_named_actors(True) if each["namespace"] == namespace_of(store_id)}


def announced(store_id: str) -> list[Path]:
    """The files by which Prometheus finds the runtime's exporter."""
    return list(temp_dir().glob(f"{namespace_of(store_id)}.*_service_discovery.json"))


def test_a_runtime_stays_is_joined_told_of_and_ended(tmp_path: Path, shop: str) -> None:
    began = eventray(tmp_path, "up", "--store", shop, "--hosts", "2", "--json", EVENTRAY_METRICS_EXPORTER="true")
    assert began.exit_code == 0, began.err
    assert began.json["joined"] is began.json["ray_begun"] is False
    again = ours(tmp_path, "up", "--store", shop, "--json", "--hosts", "3")
    assert again.json | {"joined": False} == began.json
    assert "it ran already, with 2 hosts" in again.err

    with SyncRuntime.open(shop) as runtime:
        assert runtime.submit(ADA).position == 1
        runtime.submit(CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal("7.50")))
    told = ours(tmp_path, "status", "--store", shop, "--json", "--stream", "order-o-1").json
    assert (told["running"], told["detached"], told["hosts_wanted"]) == (True, True, 2)
    assert told["metrics"] == began.json["metrics"]
    with urllib.request.urlopen(f"{told['metrics']}/health/ready") as answer:
        assert json.load(answer) == {"ready": True, "why": []}
    assert [(host["state"], host["shards"]) for host in told["hosts"]] == [("serving", 32), ("serving", 32)]
    assert len(told["nodes"]) == 1
    place, shard = told["stream"], told["shards"][told["stream"]["shard"]]
    assert (place["partition_key"], place["node"]) == ("c-1", told["nodes"][0]["address"])
    assert shard == {"shard": place["shard"], "host": place["host"], "epoch": place["epoch"], "head": 2}
    assert {handler["name"]: (handler["off"], handler["begun"]) for handler in told["handlers"]} == {
        "WelcomeMail": ("EVENTRAY_SMTP_HOST is not set", False),
        "PromotionNotice": ("EVENTRAY_PROMOTION_WEBHOOK_URL is not set", False),
    }
    audits = {audit["projection"]: audit["differences"] for audit in told["audits"]}
    assert audits["CustomerProjection"] == 0
    page = ours(tmp_path, "status", "--store", shop, "--stream", "customer-c-1").out
    for words in (
        "a runtime of 2 hosts, it stays",
        "host-1-1-1",
        "CustomerProjection",
        "customer-c-1: shard",
        "off:",
        told["metrics"],
    ):
        assert words in page

    store_id = began.json["store_id"]
    assert len(actors_of(store_id)) == 5
    (target,) = announced(store_id)
    os.kill(int(target.name.rpartition(".json")[0].partition(".")[2].partition("_")[0]), signal.SIGKILL)
    ended = ours(tmp_path, "down", "--store", shop, "--json").json
    assert ended == {"ended": True, "ray_ended": False}
    assert actors_of(store_id) == set()
    assert announced(store_id) == [], "Prometheus would go on asking the exporter that was killed"
    told = ours(tmp_path, "status", "--store", shop, "--json").json
    assert (told["running"], told["given_back"]) == (False, True)
    assert {shard["host"] for shard in told["shards"]} == {None}
    assert [subscriber["behind"] for subscriber in told["subscribers"]] == [0] * len(told["subscribers"])
    assert {handler["off"] for handler in told["handlers"]} == {None}
    assert ours(tmp_path, "down", "--store", shop, "--json").json == {"ended": False, "ray_ended": False}


def test_a_runtime_that_is_ended_by_force_leaves_nothing_and_comes_back(tmp_path: Path, shop: str) -> None:
    store_id = ours(tmp_path, "up", "--store", shop, "--hosts", "2", "--json").json["store_id"]
    with SyncRuntime.open(shop) as runtime:
        runtime.submit(ADA)
    assert eventray(tmp_path, "down", "--store", shop, "--force", "--json").json["ended"]
    assert actors_of(store_id) == set()
    told = " ".join(ours(tmp_path, "status", "--store", shop).out.split())
    assert "no runtime on this store is at this Ray; it was not given back by a runtime that was brought" in told
    elsewhere = in_process(tmp_path, "down", "--store", shop)
    assert elsewhere.exit_code == 1
    assert "the store was not given back by a runtime that was brought up on" in elsewhere.err
    assert ours(tmp_path, "up", "--store", shop, "--json").json["hosts"] == 2  # as many as were wanted last
    with SyncRuntime.open(shop) as runtime:
        assert runtime.submit(CreateOrder(order_id="o-1", customer_id="c-1", total_amount=Decimal(1))).version == 1


def test_a_runtime_that_a_program_runs_is_not_brought_up(tmp_path: Path, shop: str) -> None:
    with SyncRuntime.open(shop):
        refused = in_process(tmp_path, "up", "--store", shop)
    assert refused.exit_code == 1
    assert "a program runs a runtime on sqlite:///" in refused.err.lower()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--hosts", "0"], "hosts = 0: give 1 to 4"),
        (["--hosts", "5"], "hosts = 5: give 1 to 4"),
        (["--app", "shop"], "write module:attribute"),
        (["--store", "postgres://x"], "give sqlite:///FILE"),
    ],
)
def test_bad_input_is_one_clear_line_and_begins_nothing(
    tmp_path: Path, shop: str, arguments: list[str], words: str
) -> None:
    done = in_process(tmp_path, "up", "--store", shop, "--shards", "4", *arguments)
    assert done.exit_code == 1
    assert len(done.err.splitlines()) == 1
    assert words in done.err


def test_an_address_of_no_cluster_is_one_clear_line(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    asyncio.run(make(url))
    done = eventray(tmp_path, "status", "--store", url, "--address", "127.0.0.1:1")
    assert done.exit_code == 1
    assert done.err == "eventray: Ray at 127.0.0.1:1 can't be used: no Ray answers there within 5 s\n"


def test_another_application_is_not_let_in(tmp_path: Path, shop: str) -> None:
    (tmp_path / "bank_app.py").write_text(SCRIPT)
    ours(tmp_path, "up", "--store", shop)
    done = eventray(tmp_path, "submit", "-", "--store", shop, "--app", "bank_app:application")
    assert done.exit_code == 1
    (line,) = done.err.splitlines()
    assert line.startswith(
        "eventray: The runtime's processes have another application than this one: aggregate account"
    )


def test_a_password_given_as_an_argument_is_taken_out_of_sight(tmp_path: Path, postgres_url: str) -> None:
    asyncio.run(make(postgres_url))
    url = postgres_url.replace("postgres@", "postgres:never-to-be-seen@")
    watching = subprocess.Popen(
        [*EVENTRAY, "status", "--store", url, "--watch", "--json"],
        env=environment(RAY_ADDRESS="local"),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert watching.stdout is not None
        assert "postgres:***@" in watching.stdout.readline()
        arguments = " ".join(psutil.Process(watching.pid).cmdline())
        assert "postgres:***@" in arguments
        assert "never-to-be-seen" not in arguments
    finally:
        watching.send_signal(signal.SIGINT)
        watching.communicate(timeout=30)
    assert watching.returncode == 130


async def make(url: str) -> None:
    await (await open_store(url)).close()


def test_ranges_of_shards_are_written_short() -> None:
    assert _ranges([0, 1, 2, 3, 7, 9, 10]) == "0-3, 7, 9-10"
    assert _ranges([]) == ""
