"""Waiting until all processes of a runtime serve."""

from __future__ import annotations

import asyncio

import pytest

from cluster.starting import until_all_serve
from cluster.status import ProcessStatus, RuntimeStatus
from tests.virtual_time import run


def status(exporter: ProcessStatus | None) -> RuntimeStatus:
    host = ProcessStatus("host 1", "host-1", None, "serving", {}, None, "")
    return RuntimeStatus("id", 1, True, 1, [], [host], [], [], [], 0, True, exporter=exporter)


def exporter(state: str, failure: str = "") -> ProcessStatus:
    return ProcessStatus("exporter", None, None, state, {}, None, failure)


async def waited(looks: list[ProcessStatus | None], timeout_s: float = 10.0) -> float:
    """Return how long it waits where each look sees the next of these, and then the last one for ever."""
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def look() -> RuntimeStatus:
        return status(looks.pop(0) if len(looks) > 1 else looks[0])

    await until_all_serve(look, timeout_s)
    return loop.time() - began


@pytest.mark.parametrize(
    ("looks", "least_s", "most_s"),
    [
        ([None], 0.0, 0.0),
        ([exporter("serving")], 0.0, 0.0),
        ([exporter("starting", "port 9464 is taken")], 0.0, 0.0),
        ([exporter("starting")] * 3 + [exporter("serving")], 0.3, 0.31),
        ([exporter("starting")], 10.0, 10.1),
    ],
)
def test_it_waits_for_processes_that_begin_and_not_for_ever(
    looks: list[ProcessStatus | None], least_s: float, most_s: float
) -> None:
    assert least_s <= run(waited(list(looks))) <= most_s
