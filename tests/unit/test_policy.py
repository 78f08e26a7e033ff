"""How a handler is to be retried: waits that double up to a bound, each a bit longer by chance."""

from __future__ import annotations

from typing import Any

import pytest

from projections import Policy
from store import InvalidValue


def test_waits_double_up_to_a_bound_and_differ_by_chance() -> None:
    policy = Policy(wait_first_s=0.5, wait_max_s=60)
    for attempts, least in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (50, 60.0), (10**6, 60.0)]:
        waits = {policy.wait_s(attempts) for _ in range(20)}
        assert least <= min(waits) <= max(waits) <= least + 0.5
        assert len(waits) > 1


@pytest.mark.parametrize(
    ("values", "named"),
    [({"attempts_max": 0}, "attempts_max"), ({"timeout_s": -1}, "timeout_s"), ({"then": "stop"}, "then")],
)
def test_what_can_not_be_meant_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        Policy(**values)
