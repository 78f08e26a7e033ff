"""Log lines: as JSON where that is asked for, and each with the ids of what it is about."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from actors.customers import CreateCustomer, CustomerCreated
from cluster.settings import read_settings
from projections import Handler
from projections.deliveries import Deliveries
from store import InvalidValue, open_store
from store.logs import subject
from store.urls import short_name
from tests.hosts import host_on
from tests.logs import EVENTS

ADA = CreateCustomer(customer_id="c-1", name="Ada", email="ada@example.com")

BELLS = """
import asyncio, sys
import structlog
from actors import Aggregate, Command
from cluster import Application
from cluster.testing import InProcessRuntime
from projections import Handler, Policy, Projection
from sqlalchemy import Column, MetaData, Table, Text
from store import Event, EventrayError
from store.logs import configure_logs

configure_logs("json", in_worker=True, actor="host-1-1-1")
log = structlog.get_logger()
heard = {"plain": asyncio.Event(), "async": asyncio.Event()}

class Rang(Event):
    bell_id: str

class Ring(Command):
    bell_id: str

class Smash(Command):
    bell_id: str

class Bell(Aggregate):
    def ring(self, command: Ring) -> None:
        log.info("the bell decides")
        self.raise_event(Rang(bell_id=self.aggregate_id))

    def smash(self, command: Smash) -> None:
        raise ZeroDivisionError("in pieces")

    def on_rang(self, event: Rang) -> None:
        pass

bells = Table("bells", MetaData(), Column("id", Text, primary_key=True))

class Bells(Projection, version=1):
    tables = (bells,)

    def on_rang(self, event: Rang, changes) -> None:
        raise KeyError("no tower")

class Ears(Handler, start="beginning", policy=Policy(attempts_max=1)):
    def on_rang(self, event: Rang) -> None:
        log.info("a plain method hears")
        loop.call_soon_threadsafe(heard["plain"].set)
        raise ValueError("deaf")

class Nose(Handler, start="beginning"):
    async def on_rang(self, event: Rang) -> None:
        await asyncio.sleep(0)
        log.info("an async method hears")
        loop.call_soon_threadsafe(heard["async"].set)

async def main():
    global loop
    loop = asyncio.get_running_loop()
    async with InProcessRuntime.open(app=Application([Bell], [Bells], handlers=[Ears, Nose])) as runtime:
        await runtime.submit(Ring(bell_id="b"), command_id="r-1", metadata={"correlation_id": "evening"})
        try:
            await runtime.submit(Smash(bell_id="b"), command_id="s-1")
        except EventrayError:
            pass
        await asyncio.wait_for(asyncio.gather(*(each.wait() for each in heard.values())), 20)
    log.info("the end")

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def lines() -> dict[str, dict[str, Any]]:
    """What a process of a runtime logs, by what it says."""
    done = subprocess.run([sys.executable, "-c", BELLS], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return {line["event"]: line for line in map(json.loads, done.stdout.splitlines())}


def test_each_line_is_an_object_with_its_time_its_level_and_the_actor(lines: dict[str, dict[str, Any]]) -> None:
    for line in lines.values():
        assert (line["actor"], line["level"] in ("info", "warning", "error")) == ("host-1-1-1", True)
        assert line["timestamp"].endswith("Z")


@pytest.mark.parametrize(
    "said",
    [
        "the bell decides",
        "a plain method hears",
        "an async method hears",
        "a handler failed at an event; its key is parked",
        "a projection can't apply an event; its shard waits",
    ],
)
def test_a_line_about_a_command_or_its_event_names_them(lines: dict[str, dict[str, Any]], said: str) -> None:
    line = lines[said]
    assert (line["stream"], line["command_id"], line["correlation_id"]) == ("bell-b", "r-1", "evening")


def test_a_command_that_breaks_the_code_that_decides_it_is_told_with_its_traceback(
    lines: dict[str, dict[str, Any]],
) -> None:
    line = lines["a command broke the code that decides it"]
    assert (line["stream"], line["command"]) == ("bell-b", "Smash")
    assert (line["command_id"], line["correlation_id"]) == ("s-1", "s-1")
    assert "ZeroDivisionError: in pieces" in line["exception"]


def test_a_line_about_nothing_in_particular_names_no_command(lines: dict[str, dict[str, Any]]) -> None:
    assert lines["the end"].keys() == {"event", "actor", "level", "timestamp"}


async def test_what_comes_after_a_command_or_an_event_is_about_nothing_any_more() -> None:
    store = await open_store("memory://logs", shards=2)
    async with host_on(store) as host:
        await host.submit(ADA, "k-1")
        assert subject.get() is None
    deliveries = Deliveries(Greeter(), EVENTS)
    assert await deliveries.deliver(host.published[0]) is None
    assert (subject.get(), deliveries.handled) == (None, 1)
    deliveries.close()
    await store.close()


class Greeter(Handler):
    async def on_created(self, event: CustomerCreated) -> None:
        tell = subject.get()
        assert tell is not None
        assert tell()["command_id"] == "k-1"


def test_a_format_that_is_none_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EVENTRAY_LOG_FORMAT", "xml")
    with pytest.raises(InvalidValue, match=r"EVENTRAY_LOG_FORMAT = 'xml': .*'console' or 'json'"):
        read_settings()


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("sqlite:////var/lib/shop.db", "shop.db"),
        ("postgresql://ada:hunter2@db:5433/shop?sslmode=require", "shop"),
        ("postgresql://ada@/all?host=%2Frun&search_path=shop&sslmode=require", "shop"),
    ],
)
def test_a_store_has_a_name_for_people(url: str, name: str) -> None:
    assert short_name(url) == name
