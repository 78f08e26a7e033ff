"""The demo's closing page: for a person with Rich, for a program as JSON. No figures are made here."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.demo.driver import DemoReport
from cluster.demo.purchases import VIP_SPENT_MIN
from store.urls import shown_url

SHOWN_MAX = 10
"""Problems and differences that the page shows; the others are counted."""


def as_json(report: DemoReport) -> dict[str, Any]:
    """Return the page's figures as plain values; money as decimal strings."""
    return {
        "store": shown_url(report.store),
        "complete": report.complete,
        "matches_input": report.succeeded,
        "customers": report.customers,
        "orders": report.orders,
        "total_spent": str(report.total_spent),
        "vips": report.vips,
        "promotions": {
            "acknowledged": report.promotions.acknowledged,
            "refused": report.promotions.refused,
            "failed": report.promotions.failed,
            "waiting": report.promotions.waiting,
        },
        "best_customers": [
            {
                "id": row["id"],
                "name": row["name"],
                "type": row["type"],
                "total_orders": row["total_orders"],
                "total_spent": str(row["total_spent"]),
            }
            for row in report.best_customers
        ],
        "commands": report.tally.summary(),
        "events": report.events,
        "events_replayed_per_s": round(report.events_replayed_per_s, 1),
        "projection_lag_events": report.lag.events,
        "projection_lag_s": round(report.lag.seconds, 4),
        "problems": report.problems,
        "differences": report.differences,
    }


def show(report: DemoReport, console: Console, program: str) -> None:
    """Print the closing page; `program` is how `eventray` is typed here."""
    tally = report.tally
    figures = Table.grid(padding=(0, 3))
    figures.add_column(style="bold")
    figures.add_column(justify="right")
    figures.add_column(style="dim")
    for name, value, remark in (
        ("customers", f"{report.customers:,}", ""),
        ("orders", f"{report.orders:,}", ""),
        ("total spent", dollars(report.total_spent), ""),
        ("VIPs", f"{report.vips:,}", f"with orders of {dollars(VIP_SPENT_MIN)} or more"),
        ("promotions", f"{report.promotions.acknowledged:,}", "by LoyaltyProgramme"),
        ("commands", f"{tally.submitted:,}", f"{tally.accepted:,} accepted"),
        ("commands per second", f"{tally.commands_per_s:,.0f}", f"in {tally.seconds:.2f} s"),
        (
            "events replayed per second",
            f"{report.events_replayed_per_s:,.0f}",
            f"{report.events:,} in {report.replay_s:.2f} s",
        ),
        ("projection lag", f"{report.lag.events:,} events", f"complete in {report.lag.seconds * 1000:,.0f} ms"),
    ):
        figures.add_row(name, value, remark)
    console.print(Panel(Group(figures, Text(), _best(report.best_customers)), title="Eventray demo", expand=False))
    _verdict(report, console)
    _what_next(report, console, program)


def dollars(amount: Decimal) -> str:
    """Return an amount as a person writes it."""
    return f"${amount:,.2f}"


def _best(rows: list[Mapping[str, Any]]) -> RenderableType:
    table = Table(title=f"The {len(rows)} best customers", title_justify="left", title_style="bold")
    table.add_column("customer")
    table.add_column("type")
    table.add_column("orders", justify="right")
    table.add_column("spent", justify="right")
    for row in rows:
        table.add_row(row["id"], row["type"], str(row["total_orders"]), dollars(row["total_spent"]))
    return table


def _verdict(report: DemoReport, console: Console) -> None:
    for name, lines in (("not accepted", report.problems), ("different", report.differences)):
        for line in lines[:SHOWN_MAX]:
            console.print(f"{name}: {line}", style="red", markup=False, highlight=False, soft_wrap=True)
        if len(lines) > SHOWN_MAX:
            console.print(f"{name}: {len(lines) - SHOWN_MAX:,} more", style="red")
    if report.tally.duplicates:
        console.print(_duplicates(report), soft_wrap=True)
    if report.succeeded:
        console.print(
            f"[green]Checked:[/green] each of the {report.customers:,} customers is the same in the input, "
            "in the read model and in a fold of the log.",
            soft_wrap=True,
        )


def _duplicates(report: DemoReport) -> str:
    tally = report.tally
    if tally.duplicates == tally.submitted:
        return f"All {tally.duplicates:,} commands were duplicates: an earlier run had done them. Nothing changed."
    return f"{tally.duplicates:,} commands were duplicates: an earlier run had done them."


def _what_next(report: DemoReport, console: Console, program: str) -> None:
    best = report.best_customers[0]["id"] if report.best_customers else "00004"
    store = shown_url(report.store)
    console.print(f"\nThe store is {store}. Try next:", soft_wrap=True)
    for command in (
        f"{program} query CustomerProjection {best} --store {store}",
        f"{program} events customer-{best} --store {store}",
        f"{program} show customer-{best} --version 1 --store {store}",
        f"{program} status --app cluster.demo:shop --store {store}",
    ):
        console.print(f"  {command}", style="cyan", markup=False, highlight=False, soft_wrap=True)
