"""Whatever hosts do, every command ends once, and each key's commands are decided in the order of submission."""

from __future__ import annotations

import asyncio

from hypothesis import event, given, settings
from hypothesis import strategies as st

from actors.wire import Receipt
from cluster.client import CommandClient
from cluster.limits import ClientLimits
from store.identity import shard_of
from tests.clusters import FakeCluster, Fate
from tests.virtual_time import run

SHARDS = 8
FATES = st.sampled_from(list(Fate))
GAPS_S = st.sampled_from([0.0] * 8 + [0.001, 0.01, 0.3])
SUBMISSIONS = st.lists(st.tuples(st.integers(0, 11), GAPS_S), min_size=10, max_size=40)
LIMITS = st.builds(
    ClientLimits,
    batch_size_max=st.integers(2, 9),
    calls_max=st.sampled_from([1, 2, 3]),
    large_call=st.integers(1, 9),
    patience_s=st.sampled_from([0.001, 0.05, 1.0]),
    suspect_after=st.integers(1, 3),
    suspects_size_max=st.integers(1, 3),
    alone_after=st.integers(2, 5),
    lost_hosts_max=st.just(600),
    deadline_s=st.just(600),
)


async def _submit_all(
    cluster: FakeCluster, submissions: list[tuple[int, float]], limits: ClientLimits
) -> list[Receipt]:
    client = CommandClient(cluster, cluster, SHARDS, limits)
    futures = []
    for index, (key, gap_s) in enumerate(submissions):
        futures.append(client.submit(f"key-{key}", "Note", str(index)))
        if gap_s:
            await asyncio.sleep(gap_s)
    receipts = await asyncio.gather(*futures)
    assert client.in_flight == 0
    await client.close()
    return receipts


@settings(max_examples=100, deadline=None)
@given(script=st.lists(FATES, max_size=25), submissions=SUBMISSIONS, routes_fail=st.integers(0, 3), limits=LIMITS)
def test_order_survives_all_that_hosts_do(
    script: list[Fate], submissions: list[tuple[int, float]], routes_fail: int, limits: ClientLimits
) -> None:
    cluster = FakeCluster(SHARDS, ["a", "b"], script)
    cluster.routes_fail = routes_fail

    receipts = run(_submit_all(cluster, submissions, limits))

    event(f"calls to one host at a time: {cluster.under_way_most}")
    assert cluster.under_way_most <= limits.calls_max
    decided = [(command.command_id, int(command.data)) for command in cluster.decided]
    assert sorted(index for _, index in decided) == list(range(len(submissions)))
    assert {receipt.command_id for receipt in receipts} == {command_id for command_id, _ in decided}
    for shard in range(SHARDS):
        of_shard = [i for i, (key, _) in enumerate(submissions) if shard_of(f"key-{key}", SHARDS) == shard]
        assert [index for _, index in decided if index in of_shard] == of_shard
    numbers = [call.number for _, call in cluster.calls]
    assert numbers == sorted(set(numbers))
