"""The benchmarks of scaling, memory and the naive form run once, small and on one runtime, so that they can't rot."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from actors.customers import ChangeEmail, CreateCustomer
from benchmarks import memory
from benchmarks.memory import measure_growth
from benchmarks.naive import measure_naive
from benchmarks.scale import report
from benchmarks.scaling import Plan, Size, measure_size
from cluster import Runtime, Settings


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("ray_address")
async def test_what_a_command_costs_and_what_a_customer_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path}/ours.db"
    async with Runtime.open(url, settings=Settings(metrics_exporter=False)) as runtime:
        point = await measure_size(runtime, url, Size(1, 1), Plan(300, 30, 1, 0.3))
        monkeypatch.setattr(memory, "SETTLING_S", 0.2)
        commands = [CreateCustomer(customer_id=f"m-{n}", name="Ada", email="ada@example.com") for n in range(2_000)]
        first = ChangeEmail(customer_id="1-30-0-c-0", email="ada@example.com")
        growth = await measure_growth(runtime, url, 2_000, commands, first)
    assert point["processes"].items() >= {"driver": 1, "host": 1, "projection": 1, "coordinator": 1}.items()
    cpu_us = {role: each["median"] for role, each in point["cpu_us_per_command"].items()}
    for role in ("driver", "host", "store", "projection", "read_models"):
        assert 1 < cpu_us[role] < 10_000, role
    executed = point["ray_calls_per_1000"]["HostProcess.execute"]
    assert executed == pytest.approx(1000 / point["commands_per_call"]), "no call but the host's is counted as one"
    assert 1 < executed <= 1000
    assert 1 < point["transactions_per_1000"]["append"] <= 1000
    arguments = argparse.Namespace(store="sqlite", commands=300, in_flight=30, repeats=1, rest=0.3)
    measured = {"points": [point], "small_calls": point}
    assert [each["hosts"] for each in report(arguments, measured)["ceilings"]] == [10, 10, 100, 100, 1_000, 1_000]
    assert growth["idle_pss_mb"] > 10
    assert growth["pss_mb"] == pytest.approx(growth["idle_pss_mb"] + growth["above_idle_pss_mb"])
    naive = await measure_naive(
        f"sqlite:///{tmp_path}/naive.db", argparse.Namespace(customers=2, in_flight=4, seconds=0.3, repeats=1)
    )
    assert (naive["processes"], naive["commands_per_s"]["median"] > 0, naive["pss_mb"] > 20) == (2, True, True)
    assert naive["events"] > 2
