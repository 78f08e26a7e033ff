"""`eventray dead-letters` and `replay --handler`, as their users meet them; the handler runs in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from actors.customers import CreateCustomer, Customer, CustomerCreated, Order
from cluster.application import Application
from cluster.testing import InProcessRuntime
from projections import Handler, Policy
from store import InvalidValue
from tests.acceptance.commandline import Done, in_process

calls: list[str] = []
poison: set[str] = set()


class Greeter(Handler, policy=Policy(attempts_max=1)):
    def on_created(self, event: CustomerCreated) -> None:
        calls.append(event.customer_id)
        if event.customer_id in poison:
            raise ValueError(f"no greeting for {event.customer_id}")


application = Application(aggregates=[Customer, Order], handlers=[Greeter])


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[Path]:
    """A directory with a store that a runtime serves, on which two keys are parked."""
    calls.clear()
    poison.update({"c-1", "c-2"})
    async with InProcessRuntime.open(f"sqlite:///{tmp_path}/shop.db", app=application, shards=4) as runtime:
        for number in range(4):
            await runtime.submit(CreateCustomer(customer_id=f"c-{number}", name="Ada", email="ada@example.com"))
        await until(lambda: len(calls) == 4)
        yield tmp_path


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


async def typed(shop: Path, *words: str) -> Done:
    return await asyncio.to_thread(in_process, shop, *words, "--store", "sqlite:///shop.db", "--json")


async def parked(shop: Path) -> list[str]:
    return [row["partition_key"] for row in (await typed(shop, "dead-letters", "list")).json]


async def test_they_are_listed_shown_retried_and_discarded(shop: Path) -> None:
    while len(await parked(shop)) < 2:
        await asyncio.sleep(0.1)
    shown = (await typed(shop, "dead-letters", "show", "Greeter", "c-1")).json
    assert (shown["type"], shown["stream"], shown["attempts"]) == ("CustomerCreated", "customer-c-1", 1)
    assert shown["error"] == "ValueError: no greeting for c-1"
    assert "in on_created" in shown["traceback"]
    parked_at, failed_at = (datetime.fromisoformat(shown[time]) for time in ("parked_at", "failed_at"))
    assert timedelta(0) <= datetime.now(UTC) - failed_at <= datetime.now(UTC) - parked_at < timedelta(minutes=2)
    poison.clear()
    assert (await typed(shop, "dead-letters", "retry", "Greeter", "c-1")).json["keys"] == ["c-1"]
    await until(lambda: calls.count("c-1") == 2)
    assert (await typed(shop, "dead-letters", "discard", "Greeter", "--all")).exit_code == 0
    while await parked(shop):
        await asyncio.sleep(0.1)
    assert calls.count("c-2") == 1


async def test_what_is_not_parked_is_refused_and_wrong_usage_told(shop: Path) -> None:
    missing = await typed(shop, "dead-letters", "retry", "Greeter", "c-3")
    assert (missing.exit_code, missing.out) == (1, "")
    assert "Handler Greeter has not parked c-3" in missing.err
    assert (await typed(shop, "dead-letters", "show", "Greeter", "c-3")).exit_code == 1
    assert (await typed(shop, "dead-letters", "retry", "Greeter")).exit_code == 2
    assert (await typed(shop, "replay", "--handler", "Greeter")).exit_code == 2


async def test_a_handler_that_nobody_knows_is_no_healthy_one(shop: Path) -> None:
    """One with parked keys is known whatever the application is, and so is one that has only begun."""
    while len(await parked(shop)) < 2:
        await asyncio.sleep(0.1)
    refused = await typed(shop, "dead-letters", "list", "--handler", "Greter")
    assert (refused.exit_code, refused.out) == (1, "")
    assert "handler = 'Greter': " in refused.err
    assert "Greeter, PromotionNotice, WelcomeMail" in refused.err
    poison.clear()
    assert len((await typed(shop, "dead-letters", "list", "--handler", "Greeter")).json) == 2
    assert (await typed(shop, "dead-letters", "list", "--handler", "WelcomeMail")).json == [], (
        "of the default application"
    )
    assert (await typed(shop, "dead-letters", "retry", "Greeter", "--all")).exit_code == 0
    while await parked(shop):
        await asyncio.sleep(0.1)
    assert (await typed(shop, "dead-letters", "list", "--handler", "Greeter")).json == []


async def test_a_replay_that_names_a_handler_gives_it_all_again_and_no_other_does(shop: Path) -> None:
    app = ["--app", "tests.acceptance.test_dead_letters:application"]
    before = len(calls)
    assert (await typed(shop, "replay", "--handler", "Nobody", "--from", "beginning", *app)).exit_code == 1
    done = await typed(shop, "replay", "--handler", "Greeter", "--from", "beginning", *app)
    assert (done.exit_code, done.json) == (0, {"handler": "Greeter", "from": "beginning", "events": 4}), done
    await until(lambda: len(calls) == before + 4)
    words = ["replay", "--handler", "Greeter", "--from", "beginning", *app, "--store", "sqlite:///shop.db"]
    told = await asyncio.to_thread(in_process, shop, *words)
    assert told.out == "Greeter goes on from beginning: 4 events of all types are still to come\n"


async def test_a_subscription_may_not_have_a_handler_s_name() -> None:
    async with InProcessRuntime.open(app=application, shards=4) as runtime:
        with pytest.raises(InvalidValue, match="a handler of the application has it"):
            await runtime.subscribe(None, print, name="Greeter")
        with pytest.raises(InvalidValue, match="a handler of the application has it"):
            runtime.stream(name="Greeter")
