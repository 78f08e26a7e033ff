"""How the shards of a store are shared out among the tasks that go through all of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster.replaying import TASK_EVENTS, TASKS_A_CPU, portions_of


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=100), st.floats(0, 64))
def test_each_shard_is_in_one_portion_and_the_long_ones_come_first(sizes: list[int], cpus: float) -> None:
    heads = dict(enumerate(sizes))
    portions = portions_of(heads, cpus)
    assert sorted(shard for portion in portions for shard in portion) == list(heads)
    assert all(portions)
    loads = [sum(heads[shard] + 1 for shard in portion) for portion in portions]
    assert loads == sorted(loads, reverse=True)


def test_a_small_store_takes_a_few_tasks_a_core_of_about_as_many_events_each() -> None:
    portions = portions_of(dict.fromkeys(range(64), 1_000), 2)
    assert [len(portion) for portion in portions] == [8] * 2 * TASKS_A_CPU
    uneven = portions_of({0: 9_000, 1: 1_000, 2: 1_000, 3: 1_000, **dict.fromkeys(range(4, 8), 0)}, 0.5)
    assert uneven == [[0], [1, 2, 3, 4, 5, 6, 7]]


def test_a_large_store_takes_more_so_that_none_takes_long() -> None:
    portions = portions_of(dict.fromkeys(range(64), TASK_EVENTS // 2), 1)
    assert [len(portion) for portion in portions] == [2] * 32
    assert len(portions_of(dict.fromkeys(range(64), 10 * TASK_EVENTS), 1)) == 64
