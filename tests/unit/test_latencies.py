"""Latencies of many drivers, merged: their quantiles are those of all commands together."""

import math
import random

import pytest

from benchmarks.drivers import merged
from benchmarks.latencies import Latencies
from benchmarks.load import Load, workload


def latencies(seconds: list[float]) -> Latencies:
    counted = Latencies()
    for each in seconds:
        counted.add(each)
    return counted


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99, 0.999, 1.0])
def test_quantiles_of_unequal_drivers_are_those_of_all_their_commands(share: float) -> None:
    chance = random.Random(1)
    quick = [chance.lognormvariate(-6, 1) for _ in range(20_000)]
    slow = [chance.lognormvariate(-2, 0.5) for _ in range(500)]
    total = merged([Load(latencies(quick), seconds=2.0), Load(latencies(slow), seconds=3.0)])
    exact = sorted(quick + slow)[math.ceil(share * 20_500) - 1]
    assert total.latencies.quantile_s(share) == pytest.approx(exact, rel=0.01)
    assert (total.accepted, total.seconds) == (20_500, 3.0)


def test_no_latencies_have_no_quantile_and_none_is_too_small() -> None:
    assert math.isnan(Latencies().quantile_s(0.5))
    assert latencies([0.0]).quantile_s(0.5) == pytest.approx(1e-6, rel=0.01)


def test_drivers_meet_other_customers_and_the_same_ones_each_time() -> None:
    first, again, other = (
        [next(commands) for _ in range(100)]
        for commands in (workload(10, 6, "a-"), workload(10, 6, "a-"), workload(10, 6, "b-", seed=2))
    )
    assert first == again
    assert not {command.customer_id for command in first} & {command.customer_id for command in other}  # type: ignore[attr-defined]
