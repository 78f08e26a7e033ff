"""What is counted of a host, a store and a projection, and how it is shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from actors import Aggregate, Command
from actors.customers import ChangeEmail, DeactivateCustomer
from actors.hosting import HostCore
from actors.limits import HostLimits
from actors.registry import AggregateRegistry
from benchmarks.metrics import measure
from cluster.metrics import definitions as m
from cluster.metrics.counting import Counts, Samples, merged, pack_samples, unpack_samples
from cluster.metrics.definitions import METRICS, Metric
from cluster.metrics.exposition import exposition
from cluster.metrics.follower import MeteredSink, follower_samples
from cluster.metrics.host import HostCounts, host_samples
from cluster.metrics.store import MeteredStore
from projections.errors import ReadModelUnavailable
from projections.handler_sink import HandlerState
from projections.host import ProjectionHealth
from projections.progress import Lag
from projections.relay import RelayState
from projections.sampling import AuditState
from projections.sink import Taken
from store import Event, EventrayError, EventRecord, EventStore, StoreRejected, open_store
from store.records import Checkpoint, ShardAppend
from tests.hosts import REGISTRY, FaultyStore, HostUnderTest, once
from tests.unit.test_hosting import ADA, PROMOTE, order


@dataclass
class Metered:
    host: HostUnderTest
    counts: HostCounts

    def numbers(self, metric: Metric) -> dict[tuple[str, ...], Any]:
        return dict(self.counts.counts.samples().get(metric, {}))

    def times(self, metric: Metric, *labels: str) -> float:
        return float(sum(self.numbers(metric)[labels][1:]))


async def running(inner: EventStore, registry: AggregateRegistry = REGISTRY) -> Metered:
    counts, faulty = HostCounts(registry.bindings), FaultyStore(inner)
    generation = await inner.take("a test")
    await inner.assign(generation, dict.fromkeys(range(inner.shards), "host-1"))
    core = HostCore("host-1", counts.around(faulty), registry, HostLimits(), lambda _: None, counts.answered)
    core.start()
    return Metered(HostUnderTest(core, faulty, await core.claim(range(inner.shards)), registry), counts)


@pytest.fixture
async def metered() -> AsyncIterator[Metered]:
    store = await open_store("memory://", shards=4)
    each = await running(store)
    yield each
    await each.host.core.stop()
    await store.close()


async def test_commands_are_counted_by_type_and_outcome(metered: Metered) -> None:
    host = metered.host
    await host.execute(
        host.message(ADA, "k-1"),
        host.message(PROMOTE, "k-2"),
        host.message(PROMOTE, "k-3"),
        host.message(order(1), "k-4"),
        host.message(order(2), "k-5"),
        host.message(DeactivateCustomer(customer_id="c-1"), "k-6"),
        host.message(order(3), "k-7"),
    )
    await host.submit(ADA, "k-1")
    host.store.before = once(StoreRejected("a bad row"))
    await host.submit(ADA, "k-1", command_type="Nonsense")
    await host.submit(ADA, "k-8", patience_ms=0)
    host.epochs = dict.fromkeys(host.epochs, 99)
    await host.submit(ADA, "k-9")
    assert metered.numbers(m.COMMANDS) == {
        ("CreateCustomer", "accepted"): 1,
        ("CreateCustomer", "duplicate"): 1,
        ("CreateCustomer", "failed"): 1,
        ("CreateCustomer", "moved"): 1,
        ("PromoteToVip", "accepted"): 1,
        ("PromoteToVip", "rejected"): 1,
        ("CreateOrder", "accepted"): 2,
        ("CreateOrder", "rejected"): 1,
        ("DeactivateCustomer", "accepted"): 1,
        ("(unknown)", "rejected"): 1,
    }
    errors = {("DomainError",): 2, ("InvalidCommand",): 1, ("CommandTimeout",): 1, ("NotOwner",): 1}
    assert metered.numbers(m.COMMAND_ERRORS) == errors
    assert metered.numbers(m.CALL_COMMANDS)[()][0] == 11
    assert metered.times(m.CALL_COMMANDS) == 5


async def test_the_parts_of_a_commands_time_add_up_to_it(metered: Metered) -> None:
    await metered.host.execute(*(metered.host.message(order(n, f"c-{n}"), f"k-{n}") for n in range(20)))
    parts = metered.numbers(m.PART_SECONDS)
    assert {labels for (labels,) in parts} == {"queue", "decide", "append", "reply"}
    assert parts["decide",][0] > 0
    assert sum(row[0] for row in parts.values()) == pytest.approx(metered.numbers(m.COMMAND_SECONDS)[()][0])
    assert metered.times(m.COMMAND_SECONDS) == metered.times(m.PART_SECONDS, "decide") == 20


async def test_appends_are_counted_with_their_sizes_and_what_they_lost(metered: Metered) -> None:
    host = metered.host
    await host.execute(host.message(ADA, "k-1"), host.message(PROMOTE, "k-2"))
    stored = await host.log()
    size = sum(len(record.data) + len(record.metadata) for record in stored)
    assert metered.numbers(m.APPENDED_EVENTS) == {(): 2}
    assert metered.numbers(m.APPENDED_BYTES) == {(): size}
    assert metered.numbers(m.APPENDS) == {(): metered.times(m.APPEND_EVENTS)}
    assert metered.numbers(m.STORE_SECONDS)["append",][0] > 0
    assert metered.numbers(m.CLAIMED_SHARDS) == {(): 4}
    host.store.before = once(StoreRejected("a bad row"))
    await host.submit(ChangeEmail(customer_id="c-1", email="b@example.com"), "k-3")
    assert metered.numbers(m.STORE_ERRORS) == {("append", "StoreRejected"): 1}
    await host.store.inner.claim("host-1", [stored[0].shard])
    await host.submit(ChangeEmail(customer_id="c-1", email="c@example.com"), "k-4")
    assert metered.numbers(m.FENCED_SHARDS) == {(): 1}
    assert metered.numbers(m.APPENDED_EVENTS) == {(): 3}


class Turn(Command):
    wheel_id: str


class Turned(Event):
    pass


class Wheel(Aggregate, snapshot_every=3):
    turns: int = 0

    def turn(self, command: Turn) -> None:
        self.raise_event(Turned())

    def on_turned(self, event: Turned) -> None:
        self.turns += 1


async def test_loads_are_told_apart_by_where_they_begin() -> None:
    store = await open_store("memory://", shards=4)
    registry, turn = AggregateRegistry([Wheel]), Turn(wheel_id="w")
    first = await running(store, registry)
    await first.host.submit(turn, "k-1")
    assert first.numbers(m.LOADS) == {("nothing",): 1}
    await first.host.submit(turn, "k-2")
    await first.host.core.stop()
    second = await running(store, registry)
    await second.host.submit(turn, "k-3")
    assert second.numbers(m.LOADS) == {("events",): 1}
    assert second.numbers(m.LOAD_EVENTS)[()][0] == 2
    await second.host.core.stop()
    third = await running(store, registry)
    await third.host.submit(turn, "k-4")
    assert third.numbers(m.LOADS) == {("snapshot",): 1}
    assert m.LOAD_EVENTS not in third.counts.counts.samples()
    async with asyncio.timeout(5):
        while not (snapshots := host_samples(third.host.core.health())[m.SNAPSHOTS])["used",]:
            await asyncio.sleep(0.01)
    assert snapshots["ignored_damaged",] == 0
    await third.host.core.stop()
    fourth = await running(store, registry)
    await fourth.host.submit(turn, "k-5")
    assert fourth.numbers(m.LOADS) == {("snapshot",): 1}
    assert fourth.numbers(m.LOAD_EVENTS)[()][0] == 1
    await fourth.host.core.stop()
    await store.close()


class FailingSink:
    name, subscriber, restored_remedy = "customers", "customers@1", ""

    def __init__(self) -> None:
        self.answers: list[Taken | EventrayError] = []
        self.left: set[int] = set()

    async def prepare(self, begin: Mapping[int, Checkpoint]) -> dict[int, Checkpoint]:
        return dict(begin)

    def let_go(self, shards: Collection[int]) -> None:
        self.left = set(shards)

    async def take(self, batch: Sequence[EventRecord]) -> Taken:
        answer = self.answers.pop(0)
        if isinstance(answer, EventrayError):
            raise answer
        return answer

    async def tend(self) -> dict[int, int]:
        return {3: 4}


async def test_what_a_projection_takes_is_counted_and_what_it_has_to_try_again() -> None:
    sink, counts = FailingSink(), Counts()
    around = MeteredSink(sink, counts)
    sink.answers = [Taken(5, {1: 5}, {}), Taken(1, {1: 6, 2: 0}, {2: StoreRejected("")}), ReadModelUnavailable("away")]
    await around.take([])
    await around.take([])
    with pytest.raises(ReadModelUnavailable):
        await around.take([])
    assert (around.name, around.subscriber, await around.tend()) == ("customers", "customers@1", {3: 4})
    around.let_go([1, 2])
    assert sink.left == {1, 2}
    samples = counts.samples()
    assert samples[m.APPLIED_EVENTS] == {("customers",): 6}
    assert samples[m.RETRIES] == {("customers", "StoreRejected"): 1, ("customers", "ReadModelUnavailable"): 1}
    took = samples[m.APPLY_SECONDS]["customers",]
    assert isinstance(took, list)
    assert sum(took[1:]) == 3


def test_what_a_projection_host_says_of_itself_is_told_by_the_names_that_people_know() -> None:
    lag = Lag("customers@2", 4, 10, 0, 0.1, {3: "a bad event"}, "", 7)
    handlers = [HandlerState("mail", "", 5, 4, 3, 2, 1), HandlerState("hook", "no URL", 0, 0, 0, 0, 0)]
    audit = AuditState("customers", audits=2, rows=50, differences=1, last_at=time.time() - 9)
    relay = RelayState("shipping", 1, 2, 30, 4, 5, "", 0.0)
    samples = follower_samples(ProjectionHealth([lag], handlers, [audit], [relay]))
    age = samples.pop(m.AUDIT_AGE_SECONDS)["customers",]
    assert isinstance(age, float)
    assert 9 <= age < 60
    assert samples == {
        m.GAP_READS: {("customers",): 7},
        m.BLOCKED_SHARDS: {("customers",): 1},
        m.HANDLED_EVENTS: {("mail",): 5},
        m.HANDLER_FAILURES: {("mail",): 4},
        m.HANDLER_SKIPPED: {("mail",): 3},
        m.HANDLER_STUCK: {("mail",): 1},
        m.ISSUED_COMMANDS: {
            ("shipping", "acknowledged"): 30,
            ("shipping", "refused"): 4,
            ("shipping", "failed"): 5,
        },
        m.RESTING_KEYS: {("shipping",): 2},
        m.AUDITED_ROWS: {("customers",): 50},
        m.AUDIT_FINDINGS: {("customers",): 1},
    }


async def test_a_metered_store_hands_on_what_it_does_not_measure(metered: Metered) -> None:
    store = MeteredStore(metered.host.store, counts := Counts())
    assert await store.append([ShardAppend(0, metered.host.epochs[0], 0)]) == set()
    assert await store.holding() == await metered.host.store.inner.holding()
    assert counts.samples().keys() == {m.STORE_SECONDS}


# --- how it is shown ---


def every_metric() -> Samples:
    counts = Counts()
    for metric in METRICS.values():
        labels = ("x",) * len(metric.labels)
        if metric.kind == "histogram":
            counts.observe(metric, 1.5, 3, *labels)
        else:
            counts.add(metric, 2.5, *labels)
    return counts.samples()


def test_every_metric_has_a_unit_in_its_name_and_says_what_it_is() -> None:
    for metric in METRICS.values():
        assert metric.name.startswith("eventray_")
        assert metric.name.endswith(f"_{metric.unit}" if metric.unit else ("_up", "_state"))
        assert metric.help[0].isupper() or metric.help[0] == "1"
        assert metric.help.endswith(".")
        assert bool(metric.buckets) == (metric.kind == "histogram")
        assert set(metric.labels) <= {"type", "outcome", "error", "part", "operation", "start", "what"} | {
            "subscriber",
            "state",
            "audit",
        }


@pytest.mark.parametrize(("accept", "parser"), [("", parse), ("application/openmetrics-text", parse_openmetrics)])
def test_what_prometheus_reads_is_what_was_counted(accept: str, parser: Any) -> None:
    sent = unpack_samples(pack_samples(every_metric()))
    body, content_type = exposition({"host-1": sent, "host-2": sent}, accept)
    assert content_type.startswith(accept or "text/plain")
    families = list(parser(body.decode()))
    assert len(families) == len(METRICS)
    found = {(each.name, each.labels["process"]): each for family in families for each in family.samples}
    for metric in METRICS.values():
        sample = found[metric.sample_name, "host-2"]
        assert sample.labels.keys() - {"le"} == {*metric.labels, "process"}
        assert sample.value == (3 if metric.kind == "histogram" else 2.5)
    bucket = [each for family in families for each in family.samples if each.name == f"{m.COMMAND_SECONDS.name}_bucket"]
    below = [each for each in bucket if each.labels["le"] == "1.0"]
    assert [each.value for each in below] == [0, 0]
    assert found[f"{m.COMMAND_SECONDS.name}_sum", "host-1"].value == 4.5


def test_samples_that_are_none_are_refused_and_those_of_a_newer_version_are_left_out() -> None:
    with pytest.raises(ValueError, match="no samples"):
        unpack_samples(b"\x01")
    new = Metric("eventray_of_tomorrow", "gauge", "", "")
    assert unpack_samples(pack_samples(merged([{new: {(): 1.0}}, {m.LOG_EVENTS: {(): 7}}]))) == {m.LOG_EVENTS: {(): 7}}


async def test_counting_takes_less_than_3_percent_of_a_hosts_cpu_time(tmp_path: Path) -> None:
    figures = await measure(2_000, 200, 2, tmp_path)
    assert 0 < figures["meters_share_percent"] < 3, figures
