"""What `eventray status` says of projections and handlers: what is true of them, also where they can take nothing."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actors.customers import Customer, CustomerCreated, Order
from actors.health import HostHealth
from cluster.application import Application
from cluster.cli.status import _show, as_json, as_tables
from cluster.overview import Overview, OverviewReader, ShardStatus
from cluster.spreading import Node
from cluster.status import ProcessStatus, RuntimeStatus
from projections import Handler
from projections.customers import CustomerProjection, LoyaltyProgramme
from projections.handler_sink import HandlerState
from projections.host import ProjectionHealth
from projections.progress import Lag
from projections.relay import RelayState
from store import open_store


class Greeting(Handler):
    def on_created(self, event: CustomerCreated) -> None:
        raise NotImplementedError


SERVING = ProcessStatus("projections-1", "projections-1-1-1", "node", "serving", {}, None, "")
RUNTIME = RuntimeStatus("id", 1, True, 0, [Node("node", "127.0.0.1")], [], [SERVING], [], [], 0, True)
ON = HandlerState("Greeting", "", 0, 0, 0, 0, 0)


def lag(subscriber: str, failure: str = "", blocked: dict[int, str] | None = None) -> Lag:
    return Lag(subscriber, 4, 0, 0, 0.1, blocked or {}, failure, 0)


@pytest.fixture
async def reader(tmp_path: Path) -> Any:
    url = f"sqlite:///{tmp_path}/shop.db"
    await (await open_store(url, shards=4)).close()
    async with AsyncExitStack() as ending:
        application = Application([Customer, Order], [CustomerProjection], [Greeting], [LoyaltyProgramme])
        yield await OverviewReader.open(url, application, None, ending)


async def read(reader: OverviewReader, monkeypatch: pytest.MonkeyPatch, *healths: ProjectionHealth) -> Overview:
    async def ask_runtime() -> tuple[RuntimeStatus, str]:
        return RUNTIME, ""

    async def ask_projection_hosts(_runtime: RuntimeStatus) -> list[ProjectionHealth]:
        return list(healths)

    monkeypatch.setattr(reader, "_ask_runtime", ask_runtime)
    monkeypatch.setattr(reader, "_healths", ask_projection_hosts)
    return await reader.read(on_ray=True)


def shown(overview: Overview) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(as_tables(overview))
    return " ".join(capture.get().split())


async def test_who_takes_events_is_on(reader: OverviewReader, monkeypatch: pytest.MonkeyPatch) -> None:
    health = ProjectionHealth([lag("CustomerProjection@1"), lag("Greeting")], [ON], [], [])
    overview = await read(reader, monkeypatch, health)
    assert "CustomerProjection on 0" in shown(overview)
    assert "Greeting on never run" in shown(overview)


async def test_who_can_not_follow_is_not_called_on(reader: OverviewReader, monkeypatch: pytest.MonkeyPatch) -> None:
    lags = [lag("CustomerProjection@1", "a higher version is read"), lag("Greeting", "the log was restored")]
    overview = await read(reader, monkeypatch, ProjectionHealth(lags, [ON], [], []))
    assert "CustomerProjection waiting: a higher version is read" in shown(overview)
    assert "Greeting stands still: the log was restored" in shown(overview)
    told = as_json(overview)
    assert told["subscribers"][0]["trouble"] == "a higher version is read"
    assert told["handlers"][0]["failure"] == "the log was restored"


async def test_a_shard_that_waits_is_told_of_with_its_reason(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    lags = [lag("CustomerProjection@1", blocked={2: "a bad event"}), lag("Greeting", blocked={1: "no server"})]
    page = shown(await read(reader, monkeypatch, ProjectionHealth(lags, [ON], [], [])))
    assert "CustomerProjection waiting: a bad event" in page
    assert "Greeting waiting in shards 1: no server" in page


async def test_a_process_manager_that_sends_nothing_says_why(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    relay = RelayState("LoyaltyProgramme", 0, 0, 0, 0, 0, "no such table", 1.0)
    health = ProjectionHealth([lag("LoyaltyProgramme@1")], [], [], [relay])
    page = shown(await read(reader, monkeypatch, health))
    assert "LoyaltyProgramme: waiting: it sends no command: no such table" in page


async def test_what_is_told_is_shown_as_it_is_whatever_is_in_it(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "RuntimeError: no [/answer] from [smtp]"
    overview = await read(reader, monkeypatch, ProjectionHealth([lag("Greeting", reason)], [ON], [], []))
    host = ProcessStatus("host-1", "host-1-1-1", "node", "serving", {}, None, "it said [/bye]")
    assert overview.runtime is not None
    overview = overview._replace(runtime=overview.runtime._replace(hosts=[host]), unreached="[fe80::1]")
    for text in (f"stands still: {reason}", "serving: it said [/bye]"):
        assert text in shown(overview)
    assert "[fe80::1]" in shown(overview._replace(runtime=None))


async def test_of_each_host_what_lives_in_it_and_waits_there_is_told(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    health = HostHealth({0: 7}, {0: 3}, 1_234, 56, 7.8, 0.1, 9, 10, 11)
    host = ProcessStatus("host-1", "host-1-1-1", "node", "serving", {0: 7}, health, "")
    overview = (await read(reader, monkeypatch))._replace(runtime=RUNTIME._replace(hosts=[host]))
    overview = overview._replace(shards=[ShardStatus(0, "host-1-1-1", 7, 3)])
    (told,) = as_json(overview)["hosts"]
    assert (told["shards"], told["live_aggregates"], told["pending_commands"]) == (1, 1_234, 56)
    assert (told["oldest_pending_s"], told["events"], told["fenced"]) == (7.8, 10, 11)
    assert "host-1-1-1 serving 1,234 56 7.8 9 10 11" in shown(overview)
    assert "host-1-1-1 0 1 7 3 3" in shown(overview)


async def test_where_nobody_follows_that_is_what_is_said(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(await read(reader, monkeypatch))
    assert page.count("no projection host says that it follows it") == 3
    page = shown(await read(reader, monkeypatch, ProjectionHealth([lag("another@1")], [], [], [])))
    assert page.count("no projection host says that it follows it") == 3


async def test_the_table_is_shown_anew_each_time(
    reader: OverviewReader, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # as on a terminal
    now = await read(reader, monkeypatch)

    async def overviews() -> AsyncIterator[Overview]:
        for hosts in (5, 7):
            yield now._replace(runtime=RUNTIME._replace(hosts_wanted=hosts))

    await _show(overviews(), watch=True, json=False)
    said = re.sub(r"\x1b\[[\d;]*m", "", capsys.readouterr().out)
    assert 0 < said.index("a runtime of 5 hosts") < said.index("a runtime of 7 hosts")
