"""What a larger cluster would come to, by arithmetic from what was measured on a small one. Pure; see docs/scaling.md.

A cost is fitted by a line: so much for each command, and so much for each call (or transaction) that it takes a part
of. What is assumed: each host and each driver has a core of its own, and the database one machine. Not here:
measuring (`scaling.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

CALL_COMMANDS_MAX = 1_000
DATABASE_CORES = 16
WAL_MB_PER_S = 500
"""What the database's disk takes."""
CALLS_SHARE_MAX = 0.5
SECOND_US, CORE_MS = 1e6, 1000.0


class Line(NamedTuple):
    """A cost that grows evenly."""

    fixed: float
    each: float

    def at(self, number: float) -> float:
        return self.fixed + self.each * number


class Costs(NamedTuple):
    """What was measured, as lines. CPU of a command in microseconds, standing CPU in ms for each second."""

    driver: Line
    """Over calls for each command."""
    host: Line
    """Over calls for each command. The commits that go with them are in it."""
    filling: float
    """The share of what a driver has in flight for a host that is in one call; the rest waits, or is being answered."""
    store: Line
    """Over appends for each command."""
    appends_per_command: float
    """At the most that was in flight."""
    projection_us: float
    read_models_us: float
    coordinator: Line
    """Over hosts."""
    control_store: Line
    """Ray's; over hosts."""
    sessions: Line
    """PostgreSQL's; over hosts."""
    wal_bytes: float
    writer_us: float | None
    """How long one command holds the file's one writer; None where there are as many writers as hosts."""


class Ceiling(NamedTuple):
    """What so many hosts would come to."""

    hosts: int
    in_flight: int
    """Of each driver."""
    commands_per_call: float
    hosts_per_s: float
    """Commands that the hosts could decide."""
    drivers: float
    """That would be needed for so many."""
    projection_hosts: float
    database_cores: float
    commits_per_s: float
    """Of hosts; not of read models, which don't wait for the disk."""
    wal_mb_per_s: float
    database_per_s: float
    """Commands that the database could store."""
    calls_share: float
    """Of the CPU of hosts and drivers, what is for calls (and for the commit and the read that go with one), not for
    commands."""
    coordinator_share: float
    """Of one core."""
    control_store_share: float
    sessions: float
    first: str
    """What is furthest beyond what it can do: `calls`, where more than half of the time goes to calls that carry too
    little; `database`, `coordinator`, `Ray's control store`; `hosts`, where nothing is, and more of them do more."""


def costs_of(points: Sequence[Mapping[str, Any]], small_calls: Mapping[str, Any], sqlite: bool) -> Costs:
    """Return the costs that a report's points, and one with small calls, come to."""

    def cpu(point: Mapping[str, Any], role: str) -> float:
        return float(point["cpu_us_per_command"][role]["median"])

    def over(role: str, per: str) -> Line:
        return line_through([(1 / point[per], cpu(point, role)) for point in (*points, small_calls)])

    def standing(label: str) -> Line:
        return line_through([(p["hosts"], p["standing_cpu_ms_per_s_by_thread"].get(label, 0.0)) for p in points])

    def whole(role: str) -> Line:
        return line_through([(point["hosts"], point["standing_cpu_ms_per_s"][role]) for point in points])

    return Costs(
        driver=over("driver", "commands_per_call"),
        host=over("host", "commands_per_call"),
        filling=median(p["commands_per_call"] * p["hosts"] / p["in_flight"] for p in (*points, small_calls)),
        store=over("store", "commands_per_append"),
        appends_per_command=min(1 / point["commands_per_append"] for point in points),
        projection_us=median(cpu(point, "projection") for point in points),
        read_models_us=median(cpu(point, "read_models") for point in points),
        coordinator=whole("coordinator"),
        control_store=standing("ray/gcs_server"),
        sessions=line_through([(point["hosts"], point.get("sessions", 0)) for point in points]),
        wal_bytes=median(point["wal_bytes_per_command"] for point in points),
        writer_us=points[0]["append_us_per_command"] if sqlite else None,
    )


def line_through(pairs: Sequence[tuple[float, float]]) -> Line:
    """Return the line with the least squares; a level one where it would fall, or where all is at one place."""
    mean_x = sum(x for x, _ in pairs) / len(pairs)
    mean_y = sum(y for _, y in pairs) / len(pairs)
    spread = sum((x - mean_x) ** 2 for x, _ in pairs)
    each = sum((x - mean_x) * (y - mean_y) for x, y in pairs) / spread if spread else 0.0
    return Line(max(0.0, mean_y - each * mean_x), each) if each > 0 else Line(mean_y, 0.0)


def ceiling(costs: Costs, hosts: int, in_flight: int, cores: int = DATABASE_CORES) -> Ceiling:
    """Return what so many hosts would come to, with as many drivers as they need, `in_flight` commands of each.

    Each driver sends to all hosts, so the more there are the fewer commands are in a call.
    """
    calls = min(1.0, max(1 / CALL_COMMANDS_MAX, hosts / (in_flight * costs.filling)))
    host_us, driver_us = costs.host.at(calls), costs.driver.at(calls)
    rate = hosts * SECOND_US / host_us
    stored_us = costs.store.at(costs.appends_per_command) + costs.read_models_us
    if costs.writer_us is None:
        at_database = min(cores * SECOND_US / stored_us, WAL_MB_PER_S * 1e6 / costs.wal_bytes)
    else:
        at_database = SECOND_US / costs.writer_us
    calls_share = (costs.host.each + costs.driver.each) * calls / (host_us + driver_us)
    loads = {
        "calls": calls_share / CALLS_SHARE_MAX,
        "database": rate / at_database,
        "coordinator": costs.coordinator.at(hosts) / CORE_MS,
        "Ray's control store": costs.control_store.at(hosts) / CORE_MS,
    }
    worst = max(loads, key=lambda name: loads[name])
    return Ceiling(
        hosts=hosts,
        in_flight=in_flight,
        commands_per_call=1 / calls,
        hosts_per_s=rate,
        drivers=rate * driver_us / SECOND_US,
        projection_hosts=rate * costs.projection_us / SECOND_US,
        database_cores=rate * stored_us / SECOND_US,
        commits_per_s=rate * costs.appends_per_command,
        wal_mb_per_s=rate * costs.wal_bytes / 1e6,
        database_per_s=at_database,
        calls_share=calls_share,
        coordinator_share=loads["coordinator"],
        control_store_share=loads["Ray's control store"],
        sessions=costs.sessions.at(hosts),
        first=worst if loads[worst] > 1 else "hosts",
    )
