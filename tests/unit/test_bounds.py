"""The bounds of the settings, as the users of a runtime meet them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from actors import Aggregate, Command
from actors.errors import InvalidCommand, Overloaded
from cluster.application import Application
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from store import Event, InvalidValue
from store.records import ShardAppend


class Write(Command):
    note_id: str
    text: str


class Written(Event):
    text: str


class Note(Aggregate):
    def write(self, command: Write) -> None:
        self.raise_event(Written(text=command.text * 2))

    def on_written(self, event: Written) -> None:
        """The note keeps nothing."""


APPLICATION = Application([Note])


async def test_the_size_of_commands_and_events_is_bounded_by_a_setting_that_errors_name() -> None:
    settings = Settings(payload_size_max_bytes=2048)
    async with InProcessRuntime.open(app=APPLICATION, settings=settings) as runtime:
        with pytest.raises(InvalidCommand, match=r"a command of at most 2048 bytes .*payload_size_max_bytes"):
            await runtime.submit(Write(note_id="n", text="x" * 3000))
        with pytest.raises(InvalidValue, match=r"an event of at most 2048 bytes .*payload_size_max_bytes"):
            await runtime.submit(Write(note_id="n", text="x" * 1500))
        assert (await runtime.submit(Write(note_id="n", text="x" * 900))).version == 1
    async with InProcessRuntime.open(app=APPLICATION, settings=Settings(payload_size_max_bytes=4 * 2**20)) as runtime:
        assert (await runtime.submit(Write(note_id="n", text="x" * 2**20))).version == 1


async def test_who_waits_for_bytes_of_room_in_the_client_is_told_at_the_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = Settings(client_in_flight_bytes_max=1, close_timeout_s=1)
    async with InProcessRuntime.open(app=APPLICATION, settings=settings) as runtime:
        store: Any = runtime._ports.store
        append, begun, going_on = store.append, asyncio.Event(), asyncio.Event()

        async def slowly(appends: Sequence[ShardAppend]) -> set[int]:
            begun.set()
            await going_on.wait()
            fenced: set[int] = await append(appends)
            return fenced

        monkeypatch.setattr(store, "append", slowly)
        first = asyncio.create_task(runtime.submit(Write(note_id="n", text="1")))
        try:
            async with asyncio.timeout(5):
                await begun.wait()
                with pytest.raises(Overloaded):
                    await runtime.submit(Write(note_id="n", text="2"), timeout_s=0.1)
        finally:
            going_on.set()
        assert (await first).version == 1
