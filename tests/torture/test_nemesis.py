"""Whom the nemesis strikes where few are left, told by a cluster that only pretends."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.faulty_shop import FAULTS, append_stop_flag
from tests.torture import nemesis as module
from tests.torture.ground import HOST, Actor
from tests.torture.journal import Journal, read_journal
from tests.torture.nemesis import Nemesis
from tests.torture.schedule import Fault, Strike


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Two raylets and a host, none of which does anything."""
    started = [subprocess.Popen(["sleep", "60"]) for _ in range(3)]
    yield started
    for each in started:
        each.kill()
        each.wait()


class Ground:
    """Two nodes with a host each; the first one's never stores anything."""

    def __init__(self, raylets: list[subprocess.Popen[bytes]]) -> None:
        self.there = [
            SimpleNamespace(node_id=name, all_processes={"raylet": [SimpleNamespace(process=raylet)]})
            for name, raylet in zip("ab", raylets, strict=True)
        ]
        self.ended: list[str] = []

    def nodes(self) -> list[Any]:
        return self.there

    def actors(self) -> list[Actor]:
        return [Actor(f"host-{node.node_id}", HOST, 0, node.node_id) for node in self.there]

    async def end_node(self, node: Any) -> None:
        self.ended.append(node.node_id)

    async def scale(self, _hosts: int, _within_s: float) -> str:
        return ""


async def test_a_zombie_is_looked_for_until_a_host_stores_something_and_its_node_is_left_to_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setenv(FAULTS, str(tmp_path))
    for name in ("AT_ONE_NODE_S", "ZOMBIE_ALONE_S", "NODE_AWAY_S", "FIND_WITHIN_S"):
        monkeypatch.setattr(module, name, 0.1)
    *raylets, host = processes
    ground: Any = Ground(raylets)
    owners: dict[int, str] = {}
    free_meanwhile: set[str] = set()

    async def assigned() -> dict[int, str]:
        return owners

    async def live() -> None:
        """Nobody serves a shard for a while; then the host does that stores nothing, then the other one too."""
        await asyncio.sleep(0.3)
        owners[0] = "host-a"
        while True:
            await asyncio.sleep(0.01)
            with suppress(FileNotFoundError):
                if append_stop_flag().read_text() == "a":
                    free_meanwhile.update(node.node_id for node in nemesis._nodes())
                    owners[1] = "host-b"
                if append_stop_flag().read_text() == "b":
                    append_stop_flag().rename(append_stop_flag().with_suffix(f".{host.pid}"))

    with Journal(tmp_path / "faults.jsonl") as journal:
        nemesis = Nemesis(ground, journal, assigned)
        living, began_s = asyncio.create_task(live()), time.monotonic()
        await nemesis.run([Strike(0.0, Fault.APPEND_STOPPED, 0.0, 0.99)])
        living.cancel()
    assert (nemesis.counts, nemesis.missed) == ({Fault.APPEND_STOPPED: 1}, {})
    assert (nemesis.returned, ground.ended) == (1, ["b"])
    assert free_meanwhile == {"b"}, "while its host is waited for, no other fault strikes the node"
    assert [node.node_id for node in nemesis._nodes()] == ["a"], "one that was given up may be struck"
    (line,) = read_journal(tmp_path / "faults.jsonl")
    assert line["shards"] == [1]
    assert line["from_s"] - began_s > 0.4, "it began when the host stopped, not when it was first looked for"
