"""What is said of a runtime's health, by whom, and within which time."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from structlog.testing import capture_logs

from actors.health import HostHealth
from cluster.metrics import definitions as m
from cluster.metrics import gathering, looking
from cluster.metrics.announcing import target_of
from cluster.metrics.counting import pack_samples
from cluster.metrics.exporter import reached_at
from cluster.metrics.gathering import STARTING, Gatherer
from cluster.metrics.judging import Followers, Limits, State, Verdict, judged, unready
from cluster.metrics.looking import Looker
from cluster.metrics.monitor import Monitor
from cluster.metrics.serving import MetricsAddressUnusable, MetricsPortTaken, MetricsServer
from cluster.metrics.watching import Progress, Seen, Standing, Stood, Watch
from cluster.spreading import Node
from cluster.status import ProcessStatus, RuntimeStatus
from cluster.transport import HostGone
from projections.customers import CustomerProjection
from projections.handler_sink import HandlerState
from projections.host import ProjectionHealth
from projections.progress import Lag
from projections.read_models import ReadModels
from projections.relay import RelayState
from store import open_store
from store.memory import MemoryStore
from store.records import Advance, AuditResult, Checkpoint, ParkedKey, ShardAppend
from tests.contract.rows import own, rows

FRESH_S = 6.0
LIMITS = Limits(lagging_after_s=5.0, stuck_after_s=10.0)

# --- watching ---


NOT_LONG = Stood(0.0, 0)


def watched(*looks: tuple[float, dict[int, int], dict[int, int]]) -> Watch:
    """Return a watch that has looked, each time within no time."""
    watch = Watch()
    for at_s, heads, positions in looks:
        watch.look(at_s, at_s, heads, positions)
    return watch


def test_who_has_all_that_was_there_a_look_ago_has_no_lag_whatever_came_since() -> None:
    watch = watched((0.0, {0: 5, 1: 0}, {0: 3}), (2.0, {0: 9, 1: 2}, {0: 7}))
    assert watch.progress(2.5, FRESH_S) == Progress(
        4, 0.0, 7, [Standing(0, 7, 9, NOT_LONG), Standing(1, 0, 2, NOT_LONG)], NOT_LONG
    )


def test_a_lag_in_seconds_is_how_long_ago_the_log_was_as_far() -> None:
    watch = watched(
        (0.0, {0: 5}, {0: 5}),
        (2.0, {0: 9}, {0: 5}),
        (4.0, {0: 9}, {0: 6}),
        (6.0, {0: 9}, {0: 7}),
        (8.0, {0: 12}, {0: 8}),
    )
    assert watch.progress(8.0, FRESH_S).lag_s == 8.0
    watch.look(10.0, 10.0, {0: 15}, {0: 9})
    assert watch.progress(10.0, FRESH_S).lag_s == 4.0
    watch.look(12.0, 12.0, {0: 15}, {0: 15})
    assert watch.progress(12.0, FRESH_S).lag_s == 0.0


def test_a_checkpoint_that_stands_is_noticed_in_the_one_shard_where_it_does() -> None:
    watch = watched(*((at, {0: int(at) + 9, 1: 5}, {0: int(at) + 8, 1: 2}) for at in (0.0, 2.0, 4.0, 6.0)))
    progress = watch.progress(7.0, FRESH_S)
    assert progress.standing == [Standing(1, 2, 5, Stood(6.0, 3)), Standing(0, 14, 15, NOT_LONG)]
    assert (progress.lag_s, progress.still) == (7.0, NOT_LONG)
    watch.look(8.0, 8.0, {0: 17, 1: 5}, {0: 16, 1: 3})
    assert watch.progress(8.0, FRESH_S).standing == [Standing(0, 16, 17, NOT_LONG), Standing(1, 3, 5, NOT_LONG)]


def test_a_shard_that_stands_is_a_lag_from_the_next_look_on() -> None:
    watch = watched((0.0, {0: 5}, {0: 5}), (2.0, {0: 6}, {0: 5}))
    assert watch.progress(3.0, FRESH_S).lag_s == 0.0
    watch.look(4.0, 4.0, {0: 6}, {0: 5})
    assert watch.progress(4.5, FRESH_S).lag_s == 4.5


def test_a_look_that_is_late_makes_nobody_stand_who_was_found_behind_once() -> None:
    """Under load each has just not taken the last events, at any moment."""
    watch = watched((0.0, {0: 5}, {0: 5}), (2.0, {0: 9}, {0: 7}))
    late = watch.progress(7.9, FRESH_S)
    assert (late.standing, late.still, late.lag_s) == ([Standing(0, 7, 9, NOT_LONG)], NOT_LONG, 0.0)
    watch.look(8.0, 8.1, {0: 20}, {0: 19})
    assert watch.progress(8.1, FRESH_S).standing == [Standing(0, 19, 20, NOT_LONG)]


def test_a_slow_look_counts_as_no_time_that_a_shard_has_stood() -> None:
    """A checkpoint that was read at the end of one look, and at the beginning of the next, stood in between."""
    watch = Watch()
    watch.look(0.0, 3.0, {0: 5}, {0: 2})
    watch.look(5.0, 9.0, {0: 9}, {0: 2})
    assert watch.progress(9.0, FRESH_S).standing == [Standing(0, 2, 9, Stood(2.0, 1))]
    assert watch.progress(9.0, FRESH_S).still == Stood(2.0, 1)


def test_a_log_that_stands_still_makes_nobody_stuck() -> None:
    watch = watched(*((at, {0: 5}, {0: 5}) for at in (0.0, 20.0, 40.0)))
    assert watch.progress(40.0, FRESH_S) == Progress(0, 0.0, 5, [], Stood(40.0, 2))


def test_where_nothing_can_be_read_any_more_the_lag_grows_and_never_reads_zero() -> None:
    watch = watched((0.0, {0: 5}, {0: 5}))
    lags = [watch.progress(at, FRESH_S).lag_s for at in (1.0, 10.0, 60.0)]
    assert lags == [0.0, 10.0, 60.0]


def test_what_is_remembered_of_a_subscriber_that_never_comes_up_is_bounded_and_its_lag_true() -> None:
    watch = watched(*((float(at), {0: 5 + at}, {0: 0}) for at in range(5_000)))
    assert len(watch._marks) <= 200
    assert watch.progress(4_999.0, FRESH_S).lag_s == 4_999.0


# --- looking ---


async def test_a_look_sees_what_sql_has_of_projections_handlers_and_parked_keys(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/shop.db"
    store, read_models = await open_store(url, shards=2), ReadModels(url)
    looker = Looker(store, read_models, [CustomerProjection], ["mail"], time.monotonic)
    assert (await looker.look()).seen == {"CustomerProjection": Seen({}), "mail": Seen({})}
    claims = await own(store, "h-1", [0, 1])
    records = rows(0, "customer-a", 3)
    await store.append([ShardAppend(0, claims[0].epoch, 0, records)])
    await read_models.prepare(CustomerProjection, [0, 1])
    await store.keep_checkpoints("mail", dict.fromkeys([0, 1], Checkpoint(0, None)))
    parked = ParkedKey("mail", "a", 0, 2, records[1].event_id, 5, "no", "", 7_000_000, 8_000_000)
    await store.advance("mail", [Advance(0, 0, 2, records[1].event_id)], [parked], {})
    look = await looker.look()
    assert look.heads == {0: 3, 1: 0}
    assert look.seen == {
        "CustomerProjection": Seen({0: 0, 1: 0}, records[0].recorded_at / 1e6),
        "mail": Seen({0: 2, 1: 0}, records[2].recorded_at / 1e6, parked=1, oldest_parked_at_s=7.0),
    }
    await store.keep_audit(result := AuditResult("store", 5_000_000, 3, 1))
    assert list((await looker.look()).audits) == [result]
    await read_models.begin_rebuild(CustomerProjection, [0, 1])
    assert (await looker.look()).seen["CustomerProjection"].rebuilt == 0.0
    await read_models.close()
    await store.close()


async def test_of_many_shards_that_are_behind_the_one_that_stands_has_the_oldest_event(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(looking, "OLDEST_READ_MAX", 1)
    store = await open_store("memory://", shards=3)
    claims = await own(store, "h-1", [0, 1, 2])
    records = {shard: rows(shard, f"customer-{shard}", 9) for shard in range(3)}
    records[1] = [record._replace(recorded_at=5_000_000) for record in records[1][:2]]
    await store.append([ShardAppend(shard, claims[shard].epoch, 0, records[shard]) for shard in range(3)])
    await store.keep_checkpoints("mail", dict.fromkeys(range(3), Checkpoint(0, None)))
    looker = Looker(store, ReadModels(f"sqlite:///{tmp_path}/shop.db"), [], ["mail"], time.monotonic)
    assert (await looker.look()).seen["mail"].oldest_at_s == records[0][0].recorded_at / 1e6
    await store.move_checkpoints("mail", [Advance(shard, 0, 2, records[shard][1].event_id) for shard in (0, 2)])
    assert (await looker.look()).seen["mail"].oldest_at_s == 5.0
    await store.close()


# --- judging ---


def lag(name: str, blocked: dict[int, str] | None = None, failure: str = "") -> Lag:
    return Lag(f"{name}@1", 4, 10, 0, 0.1, blocked or {}, failure, 0)


def told(*lags: Lag) -> Followers:
    return Followers({"projections-1": ProjectionHealth(list(lags), [], [], [])}, {})


def verdict(seen: Seen, progress: Progress, followers: Followers | None = None, off: str = "") -> Verdict:
    return judged("p", "projection", seen, progress, followers or told(lag("p")), off, LIMITS)


WELL = Progress(0, 0.0, 7, [], NOT_LONG)
LONG = Stood(12.0, 6)
STANDING = Progress(5, 12.0, 7, [Standing(2, 7, 12, LONG)], LONG)


def test_each_state_has_its_reason() -> None:
    assert verdict(Seen({}), WELL) == Verdict("p", "projection", State.OK, "", 0, 0.0)
    late = verdict(Seen({}), Progress(50, 8.0, 7, [Standing(0, 7, 57, Stood(1.0, 1))], NOT_LONG))
    assert (late.state, late.why) == (State.LAGGING, "it is 50 events and 8 s behind the log")
    stuck = verdict(Seen({}), STANDING, told(lag("other", {2: "not mine"}), lag("p", {2: "a bad event"})))
    assert stuck.state == State.STUCK
    assert stuck.why == "in shard 2 it stands at 7 of 12 for 12 s: a bad event"
    hung = verdict(Seen({}), STANDING)
    assert (hung.state, "does not say why" in hung.why) == (State.STUCK, True)
    parked = verdict(Seen({}, parked=2), WELL)
    assert (parked.state, parked.parked) == (State.PARKED, 2)
    assert "dead-letters" in parked.why
    off = verdict(Seen({}), STANDING, off="no MAIL_FROM")
    assert (off.state, off.why) == (State.OFF, "no MAIL_FROM")


@pytest.mark.parametrize(("failing_s", "state"), [(9.0, State.OK), (12.0, State.STUCK)])
def test_a_process_manager_that_sends_nothing_is_stuck_though_it_takes_all_events(
    failing_s: float, state: State
) -> None:
    relays = [RelayState(name, 0, 0, 7, 0, 0, "no table", failing_s) for name in ("other", "p")]
    health = ProjectionHealth([lag("p")], [], [], relays)
    found = verdict(Seen({}), WELL, Followers({"projections-1": health}, {}))
    assert found.state == state
    assert found.why == ("" if state == State.OK else "it has sent no command for 12 s: no table")


def test_a_shard_that_waits_for_its_turn_while_others_go_on_is_no_reason_to_wake_somebody_at_once() -> None:
    """A slow handler has more to do than it does: each of its shards waits, and none has trouble to tell of."""
    waiting = STANDING._replace(still=NOT_LONG)
    assert verdict(Seen({}), waiting).state == State.LAGGING
    assert verdict(Seen({}), waiting, told(lag("p", {3: "another's trouble"}))).state == State.LAGGING
    assert verdict(Seen({}), waiting, told(lag("p", {2: "a bad event"}))).state == State.STUCK
    assert verdict(Seen({}), waiting, told(lag("p", failure="no database"))).state == State.STUCK
    silent = waiting._replace(standing=[Standing(2, 7, 12, Stood(60.0, 30))])
    assert (verdict(Seen({}), silent).state, "does not say why" in verdict(Seen({}), silent).why) == (State.STUCK, True)


def test_of_many_shards_that_stand_the_one_with_trouble_is_named() -> None:
    standing = [Standing(1, 3, 9, Stood(30.0, 15)), Standing(2, 7, 12, LONG)]
    stuck = verdict(Seen({}), STANDING._replace(standing=standing), told(lag("p", {2: "a bad event"})))
    assert stuck.why == "in shard 2 it stands at 7 of 12 for 12 s: a bad event"


def test_few_looks_on_a_machine_that_lets_nobody_have_its_turn_make_nobody_stuck() -> None:
    """Whoever looks late is starved with those whom it watches."""
    few = Stood(12.0, 3)
    starved = STANDING._replace(standing=[Standing(2, 7, 12, few)], still=few)
    assert verdict(Seen({}), starved).state == State.LAGGING


def test_who_is_not_followed_is_down_and_why_is_told() -> None:
    down = verdict(Seen({}), WELL, Followers({}, {"projections-1": "no answer within 2 s"}))
    assert (down.state, down.why) == (State.DOWN, "projections-1: no answer within 2 s")
    assert verdict(Seen({}), WELL, Followers({}, {})).why == "no projection host serves"
    assert "no projection host follows it" in verdict(Seen({}), WELL, told(lag("other"))).why
    unreadable = verdict(Seen({}, trouble="the file is gone"), WELL)
    assert (unreadable.state, unreadable.why) == (State.DOWN, "the file is gone")


# --- asking ---

HEALTH = HostHealth({}, {}, 0, 0, 0.0, 0.0, 0, 0, 0)
COUNTED = pack_samples({m.LIVE_AGGREGATES: {(): 3}})


def process(title: str, state: str = "serving") -> ProcessStatus:
    return ProcessStatus(title, f"{title}-1-1", "node", state, {}, HEALTH, "")


def status_of(*hosts: ProcessStatus, wanted: int | None = None) -> RuntimeStatus:
    nodes, followers = [Node("node", "127.0.0.1")], [process("projections-1")]
    many = len(hosts) if wanted is None else wanted
    return RuntimeStatus("id", 1, True, many, nodes, list(hosts), followers, [], [], 0, True)


class FakeRuntime:
    """Processes that answer by a script; `hung` ones never do."""

    def __init__(self) -> None:
        self.hung: set[str] = set()
        self.gone: set[str] = set()
        self.calls: list[tuple[str, str]] = []
        self.status: RuntimeStatus = status_of(process("host-1"), process("host-2"))

    async def ask(self, name: str, method: str) -> Any:
        self.calls.append((name, method))
        if name in self.gone:
            raise HostGone(name, "its process has died")
        if name in self.hung:
            await asyncio.Event().wait()
        health = ProjectionHealth([lag("CustomerProjection")], [HandlerState("mail", "", 0, 0, 0, 0, 0)], [], [])
        return {"status": self.status, "metrics": COUNTED, "health": health}[method]


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gathering, "COORDINATOR_WITHIN_S", 0.1)
    monkeypatch.setattr(gathering, "PROCESS_WITHIN_S", 0.1)


@pytest.mark.usefixtures("short")
async def test_a_process_that_hangs_is_shown_as_down_in_time_and_is_asked_once_at_a_time() -> None:
    runtime = FakeRuntime()
    gatherer = Gatherer(runtime.ask, "coordinator")
    runtime.hung = {"host-2-1-1"}
    for _ in range(3):
        began_s = time.monotonic()
        gathered = await gatherer.gather()
        assert time.monotonic() - began_s < 2
        assert gathered.down == {"host-2": "no answer within 0.1 s"}
        assert gathered.samples.keys() == {"coordinator", "host-1", "projections-1"}
    assert runtime.calls.count(("host-2-1-1", "metrics")) == 1
    assert runtime.calls.count(("host-1-1-1", "metrics")) == 3
    runtime.status = status_of(process("host-1"))
    assert (await gatherer.gather()).down == {}
    assert ("host-2-1-1", "metrics") not in gatherer._calls
    gatherer.close()


@pytest.mark.usefixtures("short")
async def test_those_who_come_together_share_one_round() -> None:
    runtime = FakeRuntime()
    gatherer = Gatherer(runtime.ask, "coordinator")
    answers = await asyncio.gather(*(gatherer.gather() for _ in range(20)))
    assert len({id(answer) for answer in answers}) == 1
    assert runtime.calls.count(("coordinator", "status")) == 1


@pytest.mark.usefixtures("short")
async def test_while_the_coordinator_is_away_those_that_it_named_are_still_asked() -> None:
    runtime = FakeRuntime()
    gatherer = Gatherer(runtime.ask, "coordinator")
    await gatherer.gather()
    runtime.gone = {"coordinator"}
    gathered = await gatherer.gather()
    assert gathered.status is None
    assert gathered.down == {"coordinator": "its process has died"}
    assert gathered.samples.keys() == {"host-1", "host-2", "projections-1"}
    assert unready(gathered.status, gathered.why_none, gathered.down) == ["its process has died"]


def test_what_keeps_a_runtime_from_serving_is_told() -> None:
    assert unready(status_of(process("host-1")), "", {}) == []
    short_of = status_of(process("host-1"), process("host-2", "starting"))._replace(free=[1, 2])
    assert unready(short_of, "", {"host-2": "it is starting"}) == [
        "host-2: it is starting",
        "1 of 2 hosts serve",
        "nobody serves 2 shards",
    ]


# --- HTTP ---


class Scene:
    """A monitor on a memory store, and its server."""

    def __init__(self, store: MemoryStore, url: str, monitor: Monitor, runtime: FakeRuntime) -> None:
        self.store, self.url, self.monitor, self.runtime = store, url, monitor, runtime

    async def get(self, path: str) -> tuple[int, Any]:
        async with aiohttp.ClientSession() as session, session.get(self.url + path) as answer:
            return answer.status, await (answer.json() if "health" in path or path == "/sd" else answer.text())


@pytest.fixture
async def scene(short: None, tmp_path: Path) -> AsyncIterator[Scene]:
    store = await open_store("memory://", shards=2)
    assert isinstance(store, MemoryStore)
    read_models = ReadModels(f"sqlite:///{tmp_path}/shop.db")
    await read_models.prepare(CustomerProjection, [0, 1])
    runtime = FakeRuntime()
    looker = Looker(store, read_models, [CustomerProjection], ["mail"], time.monotonic)
    gatherer = Gatherer(runtime.ask, "coordinator")
    kinds = {"CustomerProjection": "projection", "mail": "handler"}
    monitor = Monitor(looker, gatherer, kinds, {"mail": "no MAIL_FROM"}, LIMITS)

    async def targets() -> list[dict[str, Any]]:
        return [{"targets": ["127.0.0.1:1"], "labels": {"job": "ray"}}]

    server = MetricsServer(monitor, targets)
    yield Scene(store, await server.start("127.0.0.1", 0), monitor, runtime)
    await server.close()
    gatherer.close()
    await read_models.close()
    await store.close()


async def test_a_runtime_in_health_answers_200_and_shows_all_its_processes(scene: Scene) -> None:
    await scene.monitor.look()
    assert await scene.get("/health/live") == (200, {"live": True})
    assert await scene.get("/health/ready") == (200, {"ready": True, "why": []})
    status, processing = await scene.get("/health/processing")
    states = {each["name"]: (each["state"], each["why"]) for each in processing["subscribers"]}
    assert (status, states) == (200, {"CustomerProjection": ("ok", ""), "mail": ("off", "no MAIL_FROM")})
    status, text = await scene.get("/metrics")
    assert status == 200
    for line in (
        'eventray_process_up{process="host-2"} 1.0',
        'eventray_live_aggregates{process="host-2"} 3.0',
        'eventray_subscriber_state{process="exporter",state="ok",subscriber="CustomerProjection"} 1.0',
        'eventray_lag_seconds{process="exporter",subscriber="CustomerProjection"} 0.0',
        'eventray_wanted_hosts{process="exporter"} 2.0',
    ):
        assert line in text
    assert await scene.get("/sd") == (200, [{"targets": ["127.0.0.1:1"], "labels": {"job": "ray"}}])


async def test_before_the_runtime_is_up_that_is_what_is_said(scene: Scene) -> None:
    scene.runtime.hung = {"coordinator"}
    assert await scene.get("/health/live") == (200, {"live": True})
    assert await scene.get("/health/ready") == (503, {"ready": False, "why": [STARTING]})
    status, processing = await scene.get("/health/processing")
    assert status == 503
    assert processing["subscribers"][0]["state"] == "down"
    status, text = await scene.get("/metrics")
    assert status == 200
    assert 'eventray_runtime_up{process="exporter"} 0.0' in text


async def test_while_a_host_fails_over_it_is_down_and_all_else_is_shown(scene: Scene) -> None:
    await scene.monitor.look()
    scene.runtime.hung = {"host-1-1-1"}
    scene.runtime.gone = {"projections-1-1-1"}
    status, text = await scene.get("/metrics")
    assert status == 200
    assert 'eventray_process_up{process="host-1"} 0.0' in text
    assert 'eventray_process_up{process="host-2"} 1.0' in text
    status, ready = await scene.get("/health/ready")
    assert (status, ready["why"]) == (
        503,
        ["host-1: no answer within 0.1 s", "projections-1: its process has died"],
    )
    status, processing = await scene.get("/health/processing")
    assert (status, processing["need_somebody"]) == (503, ["CustomerProjection"])
    assert processing["subscribers"][0]["why"] == "projections-1: its process has died"


async def test_who_comes_to_need_somebody_is_in_the_log_once_each_time(scene: Scene) -> None:
    await scene.monitor.look()
    with capture_logs() as lines:
        for gone in ({"projections-1-1-1"}, {"projections-1-1-1"}, set[str](), {"projections-1-1-1"}):
            scene.runtime.gone = gone
            await scene.get("/health/processing")
    said = [(each["event"], each["subscriber"], each["state"]) for each in lines if each["log_level"] == "warning"]
    assert said == 2 * [("a subscriber needs somebody", "CustomerProjection", "down")]
    assert "its process has died" in lines[0]["reason"]


@pytest.mark.parametrize(("stuck_after_s", "every_s"), [(10.0, 2.0), (2.0, 0.5)])
def test_whoever_is_stuck_was_looked_at_several_times(stuck_after_s: float, every_s: float) -> None:
    limits = LIMITS._replace(stuck_after_s=stuck_after_s)
    assert Monitor(cast("Any", None), cast("Any", None), {}, {}, limits).look_every_s == every_s


async def test_a_store_that_can_not_be_read_is_no_health(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    await scene.monitor.look()
    now_s = time.monotonic()
    monkeypatch.setattr("cluster.metrics.monitor.time.monotonic", lambda: now_s + 30.0)
    status, processing = await scene.get("/health/processing")
    assert status == 503
    shown = processing["subscribers"][0]
    assert (shown["state"], shown["lag_seconds"] >= 30) == ("down", True)
    assert "the store can't be read" in shown["why"]


@pytest.mark.parametrize(
    ("listens_at", "node", "found_at"),
    [
        ("http://127.0.0.1:9464", "10.0.0.7", "http://127.0.0.1:9464"),
        ("http://0.0.0.0:9464", "10.0.0.7", "http://10.0.0.7:9464"),
        ("http://[::]:9464", "fd00::7", "http://[fd00::7]:9464"),
    ],
)
def test_one_that_listens_everywhere_is_announced_by_the_address_of_its_node(
    listens_at: str, node: str, found_at: str
) -> None:
    assert reached_at(listens_at, node) == found_at
    assert target_of(found_at, "n")["targets"] == [found_at.removeprefix("http://")]


async def test_a_port_that_is_taken_and_an_address_of_another_machine_are_told_with_what_to_do(scene: Scene) -> None:
    async def none() -> list[dict[str, Any]]:
        return []

    other = MetricsServer(scene.monitor, none)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(MetricsPortTaken, match=f"{port} is taken by another process: set EVENTRAY_METRICS_PORT"):
            await other.start("127.0.0.1", port)
    with pytest.raises(MetricsAddressUnusable, match="Set EVENTRAY_METRICS_ADDRESS"):
        await other.start("192.0.2.1", 0)
    assert (await other.start("127.0.0.1", port)).endswith(f":{port}")
    await other.close()
    await other.close()
