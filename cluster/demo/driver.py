"""The demo's run: submit, wait for what follows from it and for the read model, read all back, fold the log, compare.

Not here: how it looks (`page.py`), and the command line around it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from actors.wire import Receipt
from cluster import ray_session
from cluster.demo import shop
from cluster.demo.checking import differences, fold_log
from cluster.demo.purchases import CustomerFacts, Purchase, Step, expected, steps
from cluster.driving import Outcome, drive
from cluster.lag import Lag, catch_up
from cluster.runtime import Runtime
from cluster.settings import read_settings
from cluster.starting import until_all_serve
from cluster.tally import Tally
from projections.customers import CustomerProjection, LoyaltyProgramme
from projections.outbox import Outbox
from projections.outbox_sql import NOTHING_SENT, OutboxState
from projections.read_models import ReadModels
from store.opening import open_store

IN_FLIGHT_MAX = 1_000
READS_IN_FLIGHT_MAX = 100
BEST_CUSTOMERS = 10
NO_LAG = Lag(0, 0.0)
SETTLED_WITHIN_S = 60.0


class Watcher(Protocol):
    """Who hears how far a phase has come."""

    def phase(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a phase; the returned function hears how many more are done. `total` None: not known."""
        ...


@dataclass(slots=True)
class DemoReport:
    """What came out. Money in dollars, durations in seconds."""

    store: str
    complete: bool = False
    """False after Ctrl-C: nothing was compared."""
    tally: Tally = field(default_factory=Tally)
    problems: list[str] = field(default_factory=list)
    """What became of commands that were neither accepted nor duplicates."""
    differences: list[str] = field(default_factory=list)
    """Where the read model or the log says other than the input."""
    customers: int = 0
    orders: int = 0
    total_spent: Decimal = Decimal(0)
    vips: int = 0
    best_customers: list[Mapping[str, Any]] = field(default_factory=list)
    lag: Lag = NO_LAG
    """Of the read model, at the last answer."""
    promotions: OutboxState = NOTHING_SENT
    """The loyalty programme's commands, of earlier runs too."""
    events: int = 0
    replay_s: float = 0.0

    @property
    def events_replayed_per_s(self) -> float:
        return self.events / self.replay_s if self.replay_s else 0.0

    @property
    def succeeded(self) -> bool:
        return self.complete and not self.problems and not self.differences


async def run_demo(url: str, purchases: Iterable[Purchase], watcher: Watcher) -> DemoReport:
    """Drive the purchases into the store, and return what it and the read model hold afterwards."""
    report = DemoReport(url)
    purchases = list(purchases)
    facts = expected(purchases)
    watcher.phase("Starting Ray", None)
    async with Runtime.open(url, app=shop) as runtime:
        await until_all_serve(runtime.status)
        last_receipts = await _submit(runtime, list(steps(purchases)), report, watcher)
        if not report.complete:
            return report
        await _settle(runtime, next(iter(facts)), last_receipts, report, watcher)
        rows = await _read_back(runtime, facts, watcher)
    reader = await open_store(url, create=False)
    try:
        on_events = watcher.phase("Replaying the log", sum((await reader.heads()).values()))
        started = time.perf_counter()
        fold = await fold_log(reader, on_events)
        report.events, report.replay_s = fold.events, time.perf_counter() - started
    finally:
        await reader.close()
    report.differences = differences(facts, rows, fold)
    _sum_up([row for row in rows.values() if row is not None], report)
    return report


async def run_with_dashboard(
    url: str,
    purchases: Iterable[Purchase],
    watcher: Watcher,
    told: Callable[[str | None], None],
    shown: Callable[[DemoReport], None],
) -> DemoReport:
    """Run the demo beside Ray's dashboard, and stay until cancelled (Ctrl-C), so that one can look around.

    `told` hears where the dashboard is (None: the Ray that was joined has none), `shown` what came out.
    """
    watcher.phase("Starting Ray with its dashboard", None)
    async with Runtime.open(url, app=shop, settings=read_settings(include_dashboard=True)):
        told(await asyncio.to_thread(ray_session.dashboard_url))
        report = await run_demo(url, purchases, watcher)
        shown(report)
        if report.complete:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
    return report


async def _submit(runtime: Runtime, todo: list[Step], report: DemoReport, watcher: Watcher) -> dict[int, Receipt]:
    """Submit all; return the receipt of the highest position by shard."""
    advance = watcher.phase("Submitting commands", len(todo))
    last_receipts: dict[int, Receipt] = {}

    async def in_order() -> AsyncIterator[Step]:
        for step in todo:
            yield step

    async def submit(step: Step) -> Receipt:
        return await runtime.submit(step.command, command_id=step.command_id, occurred_at=step.occurred_at)

    def on_outcome(step: Step, outcome: Outcome) -> None:
        advance(1)
        report.tally.count(outcome)
        if not isinstance(outcome, Receipt):
            report.problems.append(f"{step.command_id}: {outcome}")
        elif (last := last_receipts.get(outcome.shard)) is None or last.position < outcome.position:
            last_receipts[outcome.shard] = outcome

    report.tally.start()
    report.complete = await drive(submit, in_order(), IN_FLIGHT_MAX, on_outcome)
    report.tally.stop()
    return last_receipts


async def _settle(
    runtime: Runtime, customer_id: str, last_receipts: Mapping[int, Receipt], report: DemoReport, watcher: Watcher
) -> None:
    """Wait until the read model shows what was submitted, and then all that the loyalty programme has made of it."""
    report.lag = await catch_up(runtime, report.store, CustomerProjection, customer_id, last_receipts)
    watcher.phase("Promoting the best customers", None)
    await runtime.catch_up(LoyaltyProgramme, timeout_s=SETTLED_WITHIN_S)
    await runtime.catch_up(CustomerProjection, timeout_s=SETTLED_WITHIN_S)
    read_models = ReadModels(report.store)
    try:
        report.promotions = await Outbox(read_models, LoyaltyProgramme).state()
    finally:
        await read_models.close()


async def _read_back(
    runtime: Runtime, facts: Mapping[str, CustomerFacts], watcher: Watcher
) -> dict[str, Mapping[str, Any] | None]:
    """Return the row of each customer."""
    advance = watcher.phase("Reading every customer back", len(facts))
    slots = asyncio.Semaphore(READS_IN_FLIGHT_MAX)

    async def row(customer_id: str) -> Mapping[str, Any] | None:
        async with slots:
            found = await runtime.query(CustomerProjection, customer_id)
            advance(1)
            return found

    found = await asyncio.gather(*(row(customer_id) for customer_id in facts))
    return dict(zip(facts, found, strict=True))


def _sum_up(rows: list[Mapping[str, Any]], report: DemoReport) -> None:
    """The closing page's figures, from the read model."""
    report.customers = len(rows)
    report.orders = sum(row["total_orders"] for row in rows)
    report.total_spent = sum((row["total_spent"] for row in rows), Decimal(0))
    report.vips = sum(row["type"] == "Vip" for row in rows)
    report.best_customers = sorted(rows, key=lambda row: (-row["total_spent"], row["id"]))[:BEST_CUSTOMERS]
