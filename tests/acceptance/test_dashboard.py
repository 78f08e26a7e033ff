"""A demo that runs, as a person sees it: in Ray's dashboard, by its logs and its traces.

EVENTRAY_TEST_PICTURES=docs/pictures makes the picture in the docs anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.commandline import eventray
from tests.browser import Page, browsing
from tests.collector import Collector, collecting

pytestmark = pytest.mark.timeout(180)
RUNNING = "/api/v0/tasks?limit=1000&filter_keys=state&filter_predicates=%3D&filter_values=RUNNING"
TOKEN = Path.home() / ".ray" / "auth_token"
WITHIN_S = 60.0
SIZE_MAX_BYTES = 300_000
COLUMN = "[...document.querySelectorAll('th')].find(each => each.innerText.trim() == {name!r}).getBoundingClientRect()"
STORE = ["--store", "sqlite:///shop.db"]


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with collecting() as found:
        yield found


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[str]:
    """The address of the dashboard of a runtime that has run a small demo, and is ended afterwards."""
    directory = tmp_path_factory.mktemp("dashboard")
    settings = {
        "RAY_ADDRESS": "local",
        "EVENTRAY_APP": "cluster.demo:shop",
        "EVENTRAY_INCLUDE_DASHBOARD": "true",
        "EVENTRAY_METRICS_EXPORTER": "true",
        "EVENTRAY_LOG_FORMAT": "json",
        "EVENTRAY_TRACING": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "200",
    }
    begun = eventray(directory, "up", *STORE, "--json", timeout_s=100, stdin="", **settings)
    assert begun.exit_code == 0, begun.err
    settings["RAY_ADDRESS"] = begun.json["address"]
    try:
        done = eventray(directory, "demo", *STORE, "--customers", "20", "--json", timeout_s=100, stdin="", **settings)
        assert (done.exit_code, done.json["matches_input"]) == (0, True), done.err
        yield begun.json["dashboard"]
    finally:
        ended = eventray(directory, "down", *STORE, "--json", timeout_s=100, stdin="", **settings)
    assert ended.json == {"ended": True, "ray_ended": True}


async def opened(page: Page, url: str) -> None:
    """Open the dashboard, with the token that a person would paste."""
    await page.call("Page.enable")
    if TOKEN.exists():
        token = TOKEN.read_text().strip()
        await page.call("Network.setCookie", name="ray-authentication-token", value=token, url=url.partition("/#")[0])
    await page.call("Page.navigate", url=url)


async def keep(picture: bytes, name: str, directory: Path) -> None:
    assert picture.startswith(b"\x89PNG")
    assert 10_000 < len(picture) < SIZE_MAX_BYTES
    target = Path(os.environ.get("EVENTRAY_TEST_PICTURES", directory), name)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(picture)


async def test_a_person_finds_the_actors_by_their_names_and_opens_their_logs(dashboard: str, tmp_path: Path) -> None:
    async with browsing(1500, 1000) as page:
        await opened(page, f"{dashboard}/#/actors")
        await page.shows(
            "Host 1 · shop.db",
            "Coordinator · shop.db",
            "Exporter · shop.db",
            "Projections 1 · CustomerProjection, LoyaltyProgramme",
            "ALIVE",
        )
        await keep(await table(page), "dashboard.png", tmp_path)

        row = "[...document.querySelectorAll('tr')].find(each => each.innerText.includes('Host 1 ·'))"
        host = await page.evaluate(f"[...{row}.querySelectorAll('a')].find(each => each.innerText == 'Log').href")
        text = await log_of(page, host, "shards are served from now on")
        line = next(line for line in text.splitlines() if "shards are served from now on" in line)
        assert logged(line)["actor"] == "host-1-1-1"
        await until_running(page, "Host 1 · shop.db · 64 shards · epoch 1")
        await until_running(page, "Projections 1 · CustomerProjection, LoyaltyProgramme · shop.db · 64 shards")


async def until_running(page: Page, task: str) -> None:
    """Wait until the dashboard says that a task of this name runs."""
    async with asyncio.timeout(WITHIN_S):
        while task not in await page.evaluate(f"fetch('{RUNNING}').then(each => each.json()).then(JSON.stringify)"):
            await asyncio.sleep(0.2)


async def log_of(page: Page, actor: str, said: str) -> str:
    """Open the page of an actor, and there its log, which says this; return the page's text."""
    log = f"/api/v0/logs/file?actor_id={actor.rpartition('/')[2]}&suffix=out&lines=1000"
    async with asyncio.timeout(WITHIN_S):  # Ray's agent on the node, which reads the files, may still be starting
        while said not in await page.evaluate(f"fetch('{log}').then(answer => answer.text())"):
            await asyncio.sleep(0.2)
    await page.call("Page.navigate", url=actor)
    await page.shows("host-1-1-1", "STDOUT")
    await page.evaluate("[...document.querySelectorAll('button')].find(each => each.innerText == 'STDOUT').click()")
    return await page.shows(said)


def logged(line: str) -> dict[str, Any]:
    """Return the object in a line that the page shows, with its number before it perhaps."""
    found: dict[str, Any] = json.loads(line[line.index("{") :])
    return found


async def table(page: Page) -> bytes:
    """Return a picture of the actors, from the column of their classes to that of their uptime."""
    left = await page.evaluate(COLUMN.format(name="Class") + ".left")
    top = await page.evaluate(COLUMN.format(name="Class") + ".top")
    right = await page.evaluate(COLUMN.format(name="Uptime") + ".right")
    bottom = await page.evaluate("document.querySelector('tbody').getBoundingClientRect().bottom")
    height = await page.evaluate("window.innerHeight")
    return await page.picture(x=int(left), y=int(top), width=int(right - left), height=int(min(bottom, height) - top))


@pytest.mark.usefixtures("dashboard")
async def test_spans_leave_the_driver_and_rays_workers_by_opentelemetrys_own_settings(collector: Collector) -> None:
    wanted = {
        ("submit CreateCustomer", "driver"),
        ("execute CreateCustomer", "host-1-1-1"),
        ("append", "host-1-1-1"),
        ("project CustomerProjection", "projections-1-1-1"),
    }
    first = next(span.trace for span in collector.spans if span.name == "submit CreateCustomer")
    deadline = time.monotonic() + WITHIN_S
    while not (found := {(span.name, span.process) for span in collector.spans if span.trace == first}) >= wanted:
        assert time.monotonic() < deadline, found
        await asyncio.sleep(0.1)
