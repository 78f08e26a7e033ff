"""Figures of several repeats: medians and spreads, as a table for people or as JSON."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

DESCRIPTION_SHOWN = (
    "cpus",
    "processor",
    "system",
    "python",
    "sqlite",
    "server_version",
    "eventsourcing",
    "eventsource-py",
    "file_system",
    "durability",
)


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median and the extremes of what repeats measured."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def spreads(rounds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return the spread of each figure over rounds that all have the same figures."""
    return {name: spread([this_round[name] for this_round in rounds]) for name in rounds[0]}


def percentile(values: Sequence[float], share: float) -> float:
    """Return the least value that this share of all does not exceed."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def print_report(
    figures: Mapping[str, Mapping[str, float]], others: Mapping[str, Any], description: Mapping[str, Any], as_json: bool
) -> None:
    """Print figures with their spread, what else there is, and what all was measured on."""
    if as_json:
        print(json.dumps({"figures": figures, **others, "measured_on": description}))
        return
    console = Console(highlight=False)
    console.print(", ".join(f"{name} {description[name]}" for name in DESCRIPTION_SHOWN if name in description))
    table = Table(box=box.SIMPLE)
    table.add_column("figure")
    for column in ("median", "min", "max"):
        table.add_column(column, justify="right")
    for name, values in figures.items():
        table.add_row(name, *(shown(values[column]) for column in ("median", "min", "max")))
    console.print(table)
    for name, value in others.items():
        if isinstance(value, list) and value:
            console.print(rows_table(name, value))
        elif not isinstance(value, list):
            console.print(f"{name}: {shown(value) if isinstance(value, float) else value}")


def rows_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of rows with one set of columns."""
    table = Table(title=title, box=box.SIMPLE)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*("" if value is None else shown(value) for value in row.values()))
    return table


def shown(value: float) -> str:
    """Return a number as people read it."""
    return f"{value:,.0f}" if abs(value) >= 1000 or isinstance(value, int) else f"{value:,.2f}"
