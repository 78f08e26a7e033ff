"""How a handler is to be retried: waits that double up to a bound, each a bit longer by chance."""

from __future__ import annotations

from typing import Any

import pytest

from actors.customers import OrderCreated
from projections import Handler, Policy
from projections.errors import RetryLater
from projections.handler_sink import HandlerSink
from store import InvalidValue, open_store
from store.records import Checkpoint
from tests.logs import EVENTS, Log, ordered


def test_waits_double_up_to_a_bound_and_differ_by_chance() -> None:
    policy = Policy(wait_first_s=0.5, wait_max_s=60)
    for attempts, least in [(1, 0.5), (2, 1.0), (3, 2.0), (7, 32.0), (8, 60.0), (50, 60.0), (10**6, 60.0)]:
        waits = {policy.wait_s(attempts) for _ in range(20)}
        assert least <= min(waits) <= max(waits) <= least + 0.5
        assert len(waits) > 1


async def test_what_fails_is_tried_again_after_the_policys_waits_or_later_where_it_says_so() -> None:
    class Failing(Handler, policy=Policy(attempts_max=5, wait_first_s=2.0, wait_max_s=8.0)):
        def on_ordered(self, event: OrderCreated) -> None:
            raise errors.pop()

    store = await open_store("memory://", shards=1)
    records = await (await Log.on(store)).write(ordered("a", "1"))
    sink = HandlerSink(store, Failing(), EVENTS)
    await sink.prepare({0: Checkpoint(0, None)})
    errors: list[Exception] = [RetryLater("busy", 99.0), *(ValueError("no") for _ in range(3))]
    for least in (2.0, 4.0, 8.0):
        taken = await sink.take(records)
        assert taken.positions == {0: 0}
        assert least <= taken.again_in_s[0] <= least + 2.0
    assert (await sink.take(records)).again_in_s == {0: 99.0}
    sink.close()
    await store.close()


@pytest.mark.parametrize(
    ("values", "named"),
    [({"attempts_max": 0}, "attempts_max"), ({"timeout_s": -1}, "timeout_s"), ({"then": "stop"}, "then")],
)
def test_what_can_not_be_meant_is_named(values: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidValue, match=named):
        Policy(**values)
