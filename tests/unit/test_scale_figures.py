"""What a command costs, and what a larger cluster would come to: the reading and the arithmetic, without Ray."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from ray.core.generated.common_pb2 import ACTOR_CREATION_TASK, ACTOR_TASK  # type: ignore[attr-defined]
from ray.core.generated.gcs_pb2 import TaskEvents  # type: ignore[attr-defined]

from benchmarks import processes
from benchmarks.accounting import Census, PythonThreads, Server, by_role, python_threads
from benchmarks.ceilings import Costs, Line, ceiling, costs_of, line_through
from benchmarks.counting import RayCall, Transactions, calls_between, calls_in, transactions_in
from benchmarks.processes import Thread, cpu_s_between, cpu_s_of, descendants_of, memory_mb_of, parent_of, program_of
from benchmarks.scaling import Window, figures_of
from cluster.metrics.counting import Counts
from cluster.metrics.definitions import APPENDED_EVENTS, APPLY_SECONDS, STORE_SECONDS

GONE = 2**30


def test_a_thread_that_works_is_told_from_one_that_waits() -> None:
    over, begun = threading.Event(), threading.Event()

    def work() -> None:
        end_s = time.thread_time() + 0.1
        while time.thread_time() < end_s:
            pass
        begun.set()
        over.wait()

    before = cpu_s_of(os.getpid())
    worker = threading.Thread(target=work, name="eventray-store-write_0")
    worker.start()
    begun.wait()
    try:
        census = Census({os.getpid(): "host"}, [python_threads(None)], None)
        cost_s = census.by_label(cpu_s_between(before, cpu_s_of(os.getpid())))
    finally:
        over.set()
        worker.join()
    assert 0.1 <= cost_s["store/eventray-store-write of host"] < 0.2
    assert by_role(cost_s)["store"] == cost_s["store/eventray-store-write of host"]


def test_what_a_thread_has_had_is_since_the_first_reading_or_since_it_began() -> None:
    before = {Thread(1, 1): 2.0, Thread(1, 2): 5.0}
    assert cpu_s_between(before, {Thread(1, 1): 2.5, Thread(1, 3): 0.25}) == {Thread(1, 1): 0.5, Thread(1, 3): 0.25}


def test_processes_are_found_whatever_their_names_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for pid, parent, name in ((10, 1, "sh"), (11, 10, "a) S 99 (b"), (12, 11, "raylet"), (13, 1, "other")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} 0 0")
        (tmp_path / str(pid) / "cmdline").write_bytes(f"/usr/bin/{name}\0--x\0".encode())
    (tmp_path / "self").mkdir()
    monkeypatch.setattr(processes, "PROC", tmp_path)
    assert sorted(descendants_of(10)) == [11, 12]
    assert (parent_of(12), parent_of(14)) == (11, 0)
    assert (program_of(12), program_of(14)) == ("raylet", "")
    assert cpu_s_of(14) == {}


def test_memory_is_read_in_millions_of_bytes() -> None:
    memory = memory_mb_of(os.getpid())
    assert 5 < memory["pss"] <= memory["rss"] < 4_000


def test_threads_count_for_what_they_do_and_processes_that_are_nobodys_for_ray() -> None:
    roles = {10: "driver", 20: "host", 30: "projection"}
    threads = [
        PythonThreads(10, 10, {10: "MainThread"}),
        PythonThreads(20, 21, {20: "MainThread", 21: "loop", 22: "eventray-store-write_0", 23: "asyncio_0"}),
        PythonThreads(30, 31, {31: "loop", 32: "eventray-read-models-write_0", 33: "eventray-store-read_0"}),
    ]
    census = Census(roles, threads, Server(GONE, frozenset(), 0))
    had = {Thread(10, 10): 1.0, Thread(10, 15): 2.0, Thread(20, 21): 4.0, Thread(20, 22): 8.0, Thread(20, 23): 16.0}
    had |= {Thread(30, 31): 32.0, Thread(30, 32): 64.0, Thread(30, 33): 128.0, Thread(GONE - 1, 1): 256.0}
    had |= {Thread(GONE, 1): 512.0}
    assert census.by_label(had) == {
        "driver/loop": 1.0,
        "driver/other": 2.0,
        "host/loop": 4.0,
        "store/eventray-store-write of host": 8.0,
        "host/other": 16.0,
        "projection/loop": 32.0,
        "read_models/eventray-read-models-write of projection": 64.0,
        "store/eventray-store-read of projection": 128.0,
        "ray/other": 256.0,
        "store/other": 512.0,
    }
    assert by_role(census.by_label(had))["host"] == 20.0
    assert sorted(census.actors()) == [20, 30]


def task_event(method: str, began_s: float, kind: int = ACTOR_TASK) -> Any:
    event = TaskEvents()
    event.task_info.type = kind
    event.task_info.func_or_class_name, event.task_info.name = method, "for people"
    event.state_updates.state_ts_ns[8] = int((began_s + 1) * 1e9)
    event.state_updates.state_ts_ns[1] = int(began_s * 1e9)
    return event


def test_ray_calls_are_those_of_actors_methods_within_a_span() -> None:
    told = [
        task_event("HostProcess.execute", 10.0),
        task_event("HostProcess.execute", 11.0),
        task_event("HostProcess.execute", 12.0),
        task_event("HostProcess.health", 10.5),
        task_event("HostProcess.__init__", 10.5, ACTOR_CREATION_TASK),
        TaskEvents(),
    ]
    calls = calls_in(told)
    assert len(calls) == 4
    assert calls_between(calls, 10.0, 12.0) == Counter({"HostProcess.execute": 2, "HostProcess.health": 1})


def test_transactions_are_added_up_over_processes() -> None:
    host, follower = Counts(), Counts()
    host.observe(STORE_SECONDS, 0.25, 3, "append")
    host.observe(STORE_SECONDS, 0.5, 2, "read_histories")
    host.add(APPENDED_EVENTS, 40)
    follower.observe(STORE_SECONDS, 0.5, 1, "read_histories")
    follower.observe(APPLY_SECONDS, 0.5, 4, "customers")
    before = transactions_in([host.samples(), follower.samples()])
    assert before == Transactions(Counter(append=3, read_histories=3, apply=4), 0.75, 40)
    host.observe(STORE_SECONDS, 0.25, 1, "append")
    after = transactions_in([host.samples(), follower.samples()])
    assert after.since(before) == Transactions(Counter(append=1), 0.25, 0)


def test_a_commands_cost_is_what_a_load_takes_beyond_a_rest() -> None:
    def window(began_s: float, host_s: float, ray_s: float, appends: int) -> Window:
        cpu_s = {"host/loop": host_s, "host/other": 0.1, "ray/raylet": ray_s}
        done = Transactions(Counter(append=appends), appends * 0.01, appends * 50)
        return Window(began_s, began_s + 2, cpu_s, done, appends * 5_000)

    rests = [window(began_s, host_s, 0.2, 0) for began_s, host_s in ((0, 0.02), (4, 0.04), (8, 9.0))]
    loads = [window(2, 0.54, 0.1, 20), window(6, 0.74, 0.2, 25)]
    calls = [RayCall("HostProcess.execute", at_s) for at_s in (2.0, 3.0, 6.0, 7.0, 7.5, 7.9)]
    calls += [RayCall("HostProcess.health", at_s) for at_s in (0.5, 2.5, 4.5, 6.5, 8.5)]
    figures = figures_of(loads, rests, calls, commands=1_000)
    assert figures["cpu_us_per_command"]["host"] == pytest.approx({"median": 600, "min": 500, "max": 700})
    assert figures["cpu_us_per_command"]["ray"] == {"median": 0, "min": 0, "max": 0}, "never below nothing"
    assert figures["cpu_us_per_command"]["all"]["median"] == pytest.approx(600)
    assert figures["cpu_us_per_command_by_thread"]["host/loop"] == pytest.approx(600)
    assert figures["standing_cpu_ms_per_s"]["host"] == pytest.approx(70), "one restless rest is not the median"
    assert figures["ray_calls_per_1000"] == {"HostProcess.execute": 3, "HostProcess.health": 1}
    assert figures["standing_ray_calls_per_s"] == {"HostProcess.health": 0.5}
    assert figures["transactions_per_1000"] == {"append": 22.5}
    assert figures["commands_per_append"] == 45
    assert figures["append_us_per_command"] == pytest.approx(225)
    assert figures["wal_bytes_per_command"] == pytest.approx(112.5)


def test_a_line_is_the_nearest_and_never_falls() -> None:
    assert line_through([(1, 5), (2, 7), (3, 9)]) == pytest.approx(Line(3, 2))
    assert line_through([(1, 9), (2, 6)]) == Line(7.5, 0)
    assert line_through([(4, 6)]) == Line(6, 0)


COSTS = Costs(
    driver=Line(25, 500),
    host=Line(20, 500),
    filling=0.25,
    store=Line(5, 1_000),
    appends_per_command=1 / 250,
    projection_us=10,
    read_models_us=6,
    coordinator=Line(10, 2),
    control_store=Line(5, 0.5),
    sessions=Line(10, 3),
    wal_bytes=300,
    writer_us=None,
)


def test_what_ten_hosts_would_come_to() -> None:
    ten = ceiling(COSTS, 10, 2_000)
    assert ten.commands_per_call == 50
    assert ten.hosts_per_s == pytest.approx(10 * 1e6 / 30)
    assert ten.drivers == pytest.approx(10 * 35 / 30)
    assert ten.database_cores == pytest.approx(10 * 15 / 30)
    assert ten.database_per_s == pytest.approx(16 * 1e6 / 15)
    more_to_sync = COSTS._replace(wal_bytes=1_000)
    assert ceiling(more_to_sync, 10, 2_000).database_per_s == pytest.approx(500e6 / 1_000), "the disk, not the cores"
    assert ten.commits_per_s == pytest.approx(ten.hosts_per_s / 250)
    assert ten.wal_mb_per_s == pytest.approx(10 / 30 * 300)
    assert ten.sessions == 40
    assert (ten.coordinator_share, ten.control_store_share) == pytest.approx((0.03, 0.01))
    assert ten.first == "hosts"


def test_what_gives_out_first() -> None:
    assert ceiling(COSTS, 100, 2_000).first == "calls", "with five commands in each, calls cost the most"
    assert ceiling(COSTS, 100, 20_000).first == "database"
    assert ceiling(COSTS._replace(coordinator=Line(10, 5)), 1_000, 2_000).first == "coordinator"
    assert ceiling(COSTS._replace(control_store=Line(0, 20)), 1_000, 2_000).first == "Ray's control store"
    one_writer = ceiling(COSTS._replace(writer_us=30.0), 10, 2_000)
    assert one_writer.first == "database"
    assert one_writer.database_per_s == pytest.approx(1e6 / 30)


def point(hosts: int, per_call: float, per_append: float, host_us: float) -> dict[str, Any]:
    cpu = {role: {"median": 10.0} for role in ("driver", "store", "projection", "read_models")}
    return {
        "hosts": hosts,
        "in_flight": 4 * per_call * hosts,
        "commands_per_call": per_call,
        "commands_per_append": per_append,
        "append_us_per_command": 25.0,
        "wal_bytes_per_command": 0.0,
        "cpu_us_per_command": cpu | {"host": {"median": host_us}},
        "standing_cpu_ms_per_s": {"coordinator": 10.0 + 2 * hosts},
        "standing_cpu_ms_per_s_by_thread": {"ray/gcs_server": 5.0},
        "sessions": 4 + 3 * hosts,
    }


def test_costs_are_fitted_over_all_sizes_and_the_small_calls() -> None:
    points = [point(1, 200, 250, 22.5), point(8, 100, 200, 25.0)]
    costs = costs_of(points, point(1, 4, 4, 145.0), sqlite=False)
    assert costs.host == pytest.approx(Line(20, 500))
    assert costs.driver == Line(10, 0)
    assert costs.filling == 0.25
    assert costs.coordinator == pytest.approx(Line(10, 2))
    assert costs.sessions == pytest.approx(Line(4, 3))
    assert costs.appends_per_command == 1 / 250
    assert costs.writer_us is None
    assert costs_of(points, points[0], sqlite=True).writer_us == 25.0
