"""The drivers and the judge, with a runtime that nothing is done to: in this process, without Ray, for a moment."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from cluster.testing import InProcessRuntime
from tests.integration.faulty_shop import FAULTS, application
from tests.torture.checker import collect, judge
from tests.torture.driver import Driver, DriverPlan
from tests.torture.journal import Journal
from tests.torture.run import _behind

SECONDS = 3.0


async def test_a_runtime_that_nothing_is_done_to_is_found_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FAULTS, str(tmp_path))
    store = f"sqlite:///{tmp_path}/torture.db"
    (tmp_path / "run.json").write_text(json.dumps({"store": "torture.db"}))
    plan = DriverPlan("1-1", store, "", "", str(tmp_path), "seed", time.monotonic() - 5, workers=8)
    async with InProcessRuntime.open(store, hosts=2, shards=4, app=application(acting=True)) as runtime:
        with Journal(plan.journal) as journal:
            driving = asyncio.create_task(Driver(plan, runtime, journal).run())
            await asyncio.sleep(SECONDS)
            plan.stop_file.touch()
            await driving
        async with asyncio.timeout(20):
            while await _behind(store):
                await asyncio.sleep(0.1)
    evidence = collect(tmp_path)
    assert judge(evidence) == []
    assert sum(sending.receipt is not None for sending in evidence.sendings) > 50
    assert evidence.mails
    assert any("LoyaltyProgramme" in row.command_id for row in evidence.rows)
