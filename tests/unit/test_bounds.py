"""The bounds of the settings, as the users of a runtime meet them."""

from __future__ import annotations

import pytest

from actors import Aggregate, Command
from actors.errors import InvalidCommand
from cluster.application import Application
from cluster.settings import Settings
from cluster.testing import InProcessRuntime
from store import Event, InvalidValue


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
