"""The results as a Markdown table, and into the README: what was wanted, and what was seen on each store.

Not here: measuring, plots (`plots.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.suite import ROOT

RESULTS = Path(__file__).parent / "results"
README = ROOT / "README.md"
BEGIN, END = "<!-- benchmarks: begin (make bench writes this) -->", "<!-- benchmarks: end -->"
STORES = ("sqlite", "postgres")

Results = Mapping[str, Mapping[str, Any]]
"""What each run printed, by its name."""


class Row(NamedTuple):
    """A row of the table."""

    what: str
    benchmark: str
    figure: str
    goal: str = ""


ROWS = (
    Row("commands/s, one driver, 1,000 in flight, 2 hosts", "commands", "commands_per_s", "30,000"),
    Row("… / `eventsourcing`, each got and saved", "commands", "over_eventsourcing_each", "15, on PostgreSQL 35"),
    Row(
        "… / `eventsourcing` with its cache, each saved, on PostgreSQL by 16 threads",
        "commands",
        "over_eventsourcing_each_cached",
    ),
    Row("… / `eventsource-py`, 10 at once, each saved", "commands", "over_eventsource_py_each"),
    Row("… / bare driver, one row a transaction", "commands", "over_raw_driver_one_row"),
    Row("`submit_many` of 500 commands, one after another, commands/s", "commands", "submit_many_per_s"),
    Row(
        "… / `eventsourcing` with its cache, 500 saved at once",
        "commands",
        "submit_many_over_eventsourcing_batched",
        "3",
    ),
    Row(
        "the same with 5,000 commands / 5,000 saved at once",
        "commands",
        "submit_many_large_over_eventsourcing_batched",
    ),
    Row(
        "`submit_many` of 500 / bare driver, 500 rows a transaction", "commands", "submit_many_over_raw_driver_batched"
    ),
    Row("a lone command, 1 host, p50, ms", "latency", "lone_command_p50_ms"),
    Row("… / (empty Ray actor call + one-row commit)", "latency", "lone_command_over_call_plus_commit", "at most 1.8"),
    Row("p99 at half of the top rate, open loop, 1 host, ms", "latency", "half_rate_p99_ms", "under 60"),
    Row("from commit to visible, p50 at 5,000 commands/s, ms", "projections", "commit to visible, p50, ms", "20"),
    Row("… p99, ms", "projections", "commit to visible, p99, ms", "200"),
    Row("first command to a customer not in memory, 100 events each, customers/s", "cold", "first_commands_per_s"),
    Row("… / `eventsourcing`: get, change, save", "cold", "over_eventsourcing", "15"),
    Row(
        "… each by its defaults: ours from snapshots / `eventsourcing` without",
        "cold",
        "with_snapshots_over_eventsourcing_without",
        "15",
    ),
    Row("the same from snapshots, customers/s", "cold", "with_snapshots_first_commands_per_s"),
    Row("… / `eventsourcing` from its snapshots", "cold", "with_snapshots_over_eventsourcing"),
    Row("aggregates folded, `get_many`, events/s", "replay", "fold, Repository.get_many, events/s", "250,000"),
    Row("… / `eventsourcing`", "replay", "fold, get_many / eventsourcing", "6"),
    Row("whole log replayed on Ray, 2 cores / 1 core", "replay", "whole log, 2 cores / 1 core", "1.6"),
    Row("read model rebuilt, events/s", "rebuild", "events_per_s", "150,000"),
    Row("… / `eventsourcing`'s projection runner", "rebuild", "times_the_peer"),
    Row(
        "memory of 100,000 live customers in one host, above an idle one, MB", "memory", "most_above_idle_pss_mb", "300"
    ),
    Row("commands/s / one Ray actor for each of 50 customers", "naive", "ours_over_naive.commands_per_s"),
    Row("memory / one Ray actor for each of 50 customers", "naive", "ours_over_naive.pss"),
    Row("CPU of a command, all processes, 1 host on 1 node, us", "scale", "points.0.cpu_us_per_command.all"),
    Row("… 8 hosts on 4 nodes", "scale", "points.3.cpu_us_per_command.all", "as much"),
    Row("commands/s on 10,000,000 events of 1,000,000 streams / on a new store", "grown", "grown / new"),
    Row("… / the bare driver's own slow-down", "grown", "slow-down / raw driver's", "0.8"),
    Row("append of 500, fenced and durable / bare driver", "store", "append / raw driver", "0.5"),
    Row("whole log read, typed and checked / bare driver", "store", "typed read / raw driver", "0.23"),
)


def read_results(directory: Path = RESULTS) -> dict[str, Any]:
    """Return all results that are there, by the name of their run."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))}


def rendered(results: Results) -> str:
    """Return the table and what it was measured on. Rows without a figure are left out."""
    lines = ["| what | wanted | SQLite | PostgreSQL |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        cells = [_cell(results.get(f"{row.benchmark}-{store}"), row.figure) for store in STORES]
        if any(cells):
            lines.append(f"| {row.what} | {row.goal} | {' | '.join(cells)} |")
    if len(lines) == 2:
        return "Not measured yet: `make bench` writes a table here."
    return "\n".join([*lines, "", _measured_on(results)])


def _cell(report: Mapping[str, Any] | None, figure: str) -> str:
    """Return a figure with its spread. One that is not among the figures is named by its way down the report."""
    found: Any = (report or {}).get("figures", {}).get(figure)
    if found is None:
        found = report
        for step in figure.split("."):
            if isinstance(found, Mapping):
                found = found.get(step)
            elif isinstance(found, list):
                found = found[int(step)]
    if isinstance(found, Mapping):
        return f"{_shown(found['median'])} ({_shown(found['min'])} to {_shown(found['max'])})"
    return "" if found is None else _shown(found)


def _shown(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _measured_on(results: Results) -> str:
    """Return in words what the runs have in common; the rest stands in each result."""
    descriptions = [report["measured_on"] for report in results.values() if "measured_on" in report]
    if not descriptions:
        return ""
    merged: dict[str, Any] = {}
    for description in descriptions:
        merged |= description
    durability = sorted({str(each["durability"]) for each in descriptions if "durability" in each})
    versions = [
        f"{label} {merged[key]}"
        for label, key in (
            ("Python", "python"),
            ("Ray", "ray"),
            ("SQLite", "sqlite"),
            ("PostgreSQL", "server_version"),
            ("eventsourcing", "eventsourcing"),
            ("eventsource-py", "eventsource-py"),
        )
        if key in merged
    ]
    machine = f"{merged['cpus']} cores ({merged['processor']}), {merged['system']}"
    return f"Median (least to most). {machine}; {', '.join(versions)}. {'; '.join(durability)}."


def with_table(text: str, table: str) -> str:
    """Return a page with the table between its marks. Raises SystemExit where they are missing."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no place for the table: {BEGIN} ... {END}")
    return f"{before}{BEGIN}\n{table}\n{END}{after}"


def with_pictures(table: str) -> str:
    """Return the table with links to the pictures that are there, as the README has it."""
    links = [f"[{path.stem}](benchmarks/results/{path.name})" for path in sorted(RESULTS.glob("*.png"))]
    return f"{table}\n\nPictures: {', '.join(links)}." if links else table


def write_table() -> None:
    """Write the table beside the results, and into the README. The pictures are drawn before it."""
    table = rendered(read_results())
    (RESULTS / "table.md").write_text(table + "\n")
    README.write_text(with_table(README.read_text(), with_pictures(table)))
