"""The results as pictures: throughput and percentiles over concurrency, cost over the log's length, scaling.

Each picture is written if its results are there. Not here: measuring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from benchmarks.table import Results

NAMES = {"sqlite": "SQLite", "postgres": "PostgreSQL"}
COLORS = {"sqlite": "tab:blue", "postgres": "tab:orange"}
SIZE_INCHES = (7.5, 4.5)
DPI = 100
PEERS = {
    "eventsourcing_each_cached_per_s": "eventsourcing with its cache, each saved",
    "eventsource_py_each_per_s": "eventsource-py, 10 at once, each saved",
    "raw_driver_one_row_per_s": "bare driver, one row a transaction",
}
PEER_STYLES = ("--", ":", "-.")


def write_plots(results: Results, directory: Path) -> list[Path]:
    """Draw all pictures that the results allow; return their paths."""
    mpl.use("Agg")
    drawn = {
        "throughput": _throughput(results),
        "latency": _latency(results),
        "growth": _growth(results),
        "scaling": _scaling(results),
    }
    paths = []
    for name, figure in drawn.items():
        if figure is not None:
            path = directory / f"{name}.png"
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
            paths.append(path)
    return paths


def _curves(results: Results) -> dict[str, Sequence[Mapping[str, float]]]:
    return {store: results[f"latency-{store}"]["curve"] for store in NAMES if f"latency-{store}" in results}


def _throughput(results: Results) -> Figure | None:
    curves = _curves(results)
    if not curves:
        return None
    figure, axes = _axes(f"Durable commands in a second, one driver{_on(results)}")
    for store, rows in curves.items():
        in_flight = [row["in flight"] for row in rows]
        axes.plot(in_flight, [row["commands/s"] for row in rows], "o-", color=COLORS[store], label=NAMES[store])
        least, most = ([row[f"{which} commands/s"] for row in rows] for which in ("least", "most"))
        axes.fill_between(in_flight, least, most, color=COLORS[store], alpha=0.2, linewidth=0)
        peers = results.get(f"commands-{store}", {"figures": {}})["figures"]
        for (key, label), style in zip(PEERS.items(), PEER_STYLES, strict=True):
            if key in peers:
                rate = peers[key]["median"]
                axes.axhline(rate, color=COLORS[store], linestyle=style, linewidth=1, label=f"{NAMES[store]}: {label}")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("commands in flight")
    axes.set_ylabel("commands/s (logarithmic)")
    return _finished(figure, axes)


def _latency(results: Results) -> Figure | None:
    curves = _curves(results)
    if not curves:
        return None
    figure, axes = _axes(f"Latency of a durable command, one driver{_on(results)}")
    for store, rows in curves.items():
        for quantile, style in (("p50", "o-"), ("p99", "^--")):
            axes.plot(
                [row["in flight"] for row in rows],
                [row[f"{quantile} ms"] for row in rows],
                style,
                color=COLORS[store],
                label=f"{NAMES[store]} {quantile}",
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("commands in flight (as many as are awaited at once)")
    axes.set_ylabel("ms (logarithmic)")
    return _finished(figure, axes)


def _growth(results: Results) -> Figure | None:
    if "growth-sqlite" not in results:
        return None
    rows = results["growth-sqlite"]["growth"]
    figure, axes = _axes(f"Appending to a growing log, SQLite, 500 events a transaction{_on(results)}")
    events = [row["events"] for row in rows]
    axes.plot(events, [row["append/s"] for row in rows], "o-", color=COLORS["sqlite"], label="store, fenced, durable")
    axes.plot(events, [row["raw append/s"] for row in rows], "s--", color="tab:gray", label="bare driver, durable")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1e6:g}"))
    axes.set_xlabel("million events in the log")
    axes.set_ylabel("events/s")
    return _finished(figure, axes)


def _scaling(results: Results) -> Figure | None:
    """Stacked: what each part of the system spends on a command."""
    if "scale-sqlite" not in results:
        return None
    points = results["scale-sqlite"]["points"]
    figure, axes = _axes(f"CPU time of a command as hosts are added, SQLite{_on(results)}")
    roles = [role for role in points[0]["cpu_us_per_command"] if role != "all"]
    below = [0.0] * len(points)
    for role in roles:
        spent = [point["cpu_us_per_command"].get(role, {"median": 0.0})["median"] for point in points]
        axes.bar(range(len(points)), spent, bottom=below, width=0.6, label=role.replace("_", " "))
        below = [former + more for former, more in zip(below, spent, strict=True)]
    axes.set_xticks(range(len(points)), [f"{point['hosts']} on {point['nodes']}" for point in points])
    axes.set_xlabel("hosts on local nodes, 500 commands in flight for each host")
    axes.set_ylabel("CPU us for a command")
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), reverse=True)
    return figure


def _on(results: Results) -> str:
    cores = {report["measured_on"]["cpus"] for report in results.values() if "measured_on" in report}
    return f" ({cores.pop()} shared cores)" if len(cores) == 1 else ""


def _axes(title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=SIZE_INCHES, layout="constrained")
    axes: Any = figure.add_subplot()
    axes.set_title(title)
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.set_axisbelow(True)
    return figure, axes


def _finished(figure: Figure, axes: Axes) -> Figure:
    for axis in (axes.xaxis, axes.yaxis):
        if axis.get_scale() == "log":
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axes.legend(fontsize=8)
    return figure
