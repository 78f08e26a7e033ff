"""`eventray status`: the runtime on a store, its shards and its projections, once or again and again.

Starts no Ray. Not here: where it is read (`cluster/overview.py`).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from cluster.application import application_of
from cluster.cli.console import cell, print_json
from cluster.cli.options import Address, App, Json, Store, run

if TYPE_CHECKING:
    from cluster.overview import HandlerStatus, Overview, ShardStatus, SubscriberStatus
    from cluster.status import ProcessStatus, RuntimeStatus
    from projections.sampling import AuditState

Watch = Annotated[bool, typer.Option("--watch", help="Refresh until Ctrl-C.")]
Every = Annotated[float, typer.Option("--every", min=0.1, max=3600, metavar="SECONDS", help="With --watch: how often.")]
Stream = Annotated[str | None, typer.Option("--stream", metavar="CATEGORY-ID", help="Say where this aggregate lives.")]

NOT_KNOWN = "not known"
"""No runtime was there to be asked."""


def status(
    store: Store,
    address: Address = None,
    app: App = None,
    stream: Stream = None,
    watch: Watch = False,
    every: Every = 1.0,
    json: Json = False,
) -> None:
    """Print how the runtime on a store is: nodes, hosts, shards, epochs, heads, queues, and how far projections are.

    And how handlers are: off, behind, standing still, how many keys they have parked. Without a runtime, what the store
    says. Starts no Ray.
    """
    run(_show(_overviews(store, address, app, stream, every if watch else None), watch, json))


async def _show(overviews: AsyncIterator[Overview], watch: bool, json: bool) -> None:
    if json:
        async for overview in overviews:
            print_json(as_json(overview))
    elif watch:
        with Live(console=Console(), screen=Console().is_terminal, auto_refresh=False) as live:
            async for overview in overviews:
                live.update(as_tables(overview), refresh=True)
    else:
        async for overview in overviews:
            Console().print(as_tables(overview))


async def _overviews(
    url: str, address: str | None, app: str | None, stream: str | None, every_s: float | None
) -> AsyncIterator[Overview]:
    """Yield one overview, or one every so often without end."""
    from cluster import ray_session  # here, so that the other verbs needn't wait for Ray's import
    from cluster.overview import OverviewReader
    from cluster.settings import read_settings

    async with AsyncExitStack() as ending:
        reader = await OverviewReader.open(url, application_of(app), stream, ending)
        known = await asyncio.to_thread(ray_session.known_address, address)
        if known is not None:
            await ray_session.connected(known, read_settings(), ending)
        while True:
            yield await reader.read(on_ray=known is not None)
            if every_s is None:
                return
            await asyncio.sleep(every_s)


# --- as JSON ---


def as_json(overview: Overview) -> dict[str, Any]:
    """Return an overview as plain values."""
    runtime, place = overview.runtime, overview.place
    told: dict[str, Any] = {
        "store": overview.store,
        "store_id": overview.store_id,
        "running": runtime is not None,
        "unreached": overview.unreached,
        "holder": overview.holding.holder,
        "given_back": overview.holding.released,
        "generation": overview.holding.generation,
        "shards": [shard._asdict() for shard in overview.shards],
        "subscribers": [subscriber._asdict() for subscriber in overview.subscribers],
        "handlers": [handler._asdict() for handler in overview.handlers],
        "audits": [_audit_json(audit) for audit in overview.audits],
        "process_managers": [
            {**each.progress._asdict(), **each.outbox._asdict()} for each in overview.process_managers
        ],
    }
    if runtime is not None:
        told |= {
            "detached": runtime.detached,
            "settled": runtime.settled,
            "hosts_wanted": runtime.hosts_wanted,
            "nodes": [node._asdict() for node in runtime.nodes],
            "hosts": [_process_json(each) for each in runtime.hosts],
            "projection_hosts": [_process_json(each) for each in runtime.projection_hosts],
            "metrics": runtime.metrics,
            "exporter": None if runtime.exporter is None else _process_json(runtime.exporter),
            "moving": [each._asdict() for each in runtime.moving],
            "moved": runtime.moved,
        }
    if place is not None:
        told["stream"] = place._asdict()
    return told


def _process_json(process: ProcessStatus) -> dict[str, Any]:
    health = process.health
    told: dict[str, Any] = {"title": process.title, "name": process.name, "node": process.node}
    told |= {"state": process.state, "shards": len(process.shards), "failure": process.failure}
    if health is None:
        return told
    return told | {
        "live_aggregates": health.live_aggregates,
        "pending_commands": health.pending_commands,
        "oldest_pending_s": round(health.oldest_pending_s, 3),
        "loop_age_s": round(health.loop_age_s, 3),
        "commits": health.commits,
        "events": health.events,
        "fenced": health.fenced,
    }


def _audit_json(audit: AuditState) -> dict[str, Any]:
    at = None if audit.last_at is None else datetime.fromtimestamp(audit.last_at, UTC)
    return audit._asdict() | {"last_at": at}


# --- as tables ---


def as_tables(overview: Overview) -> RenderableType:
    """Return an overview for people."""
    parts: list[RenderableType] = [cell(_headline(overview))]
    if overview.runtime is not None:
        parts += [_node_table(overview.runtime), _host_table(overview.runtime)]
    parts.append(_subscriber_table(overview))
    if overview.handlers:
        parts.append(_handler_table(overview))
    if overview.audits:
        parts.append(_audit_table(overview))
    if overview.process_managers:
        parts += _managers(overview)
    parts.append(_shard_table(overview))
    if (place := overview.place) is not None:
        where = f"{place.host or 'nobody'}" + (f" on {place.node}" if place.node else "")
        parts.append(cell(f"{place.stream}: shard {place.shard} at epoch {place.epoch}, served by {where}"))
    return Group(*parts)


def _headline(overview: Overview) -> str:
    runtime, holding = overview.runtime, overview.holding
    if runtime is None:
        held = "" if holding.released or holding.holder is None else f"; it was not given back by {holding.holder}"
        return f"{overview.store}: {overview.unreached}{held}"
    stays = "it stays" if runtime.detached else "it ends with the program that opened it"
    settled = "" if runtime.settled else f"; not settled: {len(runtime.moving)} shards move"
    return f"{overview.store}: a runtime of {runtime.hosts_wanted} hosts, {stays}{settled}{_metrics(runtime)}"


def _metrics(runtime: RuntimeStatus) -> str:
    """Say where its metrics are, or why they are nowhere."""
    if runtime.metrics:
        return f"\nmetrics: {runtime.metrics}/metrics"
    if runtime.exporter is None:
        return ""
    return f"\nmetrics: not served: {runtime.exporter.failure or 'the exporter is starting'}"


def _node_table(runtime: RuntimeStatus) -> Table:
    table = _table("Nodes", "node", "address", "hosts", "state")
    for node in runtime.nodes:
        hosts = ", ".join(each.title for each in runtime.hosts if each.node == node.node_id)
        state = "draining" if node.draining else "" if node.fit else "no hosts: the store is elsewhere"
        _add(table, node.node_id[:8], node.address, hosts, state)
    return table


def _host_table(runtime: RuntimeStatus) -> Table:
    figures = ("live", "queue", "oldest s", "commits", "events", "fenced")
    table = _table("Hosts", "host", "state", numbers=figures)
    for each in [*runtime.hosts, *runtime.projection_hosts]:
        state = f"{each.state}: {each.failure}" if each.failure else each.state
        health = each.health
        cells = []
        if health is not None:
            counts = (health.commits, health.events, health.fenced)
            waiting = (f"{health.pending_commands:,}", f"{health.oldest_pending_s:.1f}")
            cells = [f"{health.live_aggregates:,}", *waiting, *(f"{count:,}" for count in counts)]
        _add(table, each.name or each.title, state, *cells)
    return table


def _subscriber_table(overview: Overview) -> Table:
    table = _table("Subscribers", "name", "state", numbers=("events behind", "shards behind"))
    for each in overview.subscribers:
        _add(table, each.name, _subscriber_state(each, overview), _behind(each), str(each.shards_behind))
    return table


def _subscriber_state(subscriber: SubscriberStatus, overview: Overview) -> str:
    if not subscriber.followed:
        return _unknown(overview)
    return f"waiting: {subscriber.trouble}" if subscriber.trouble else "on"


def _unknown(overview: Overview) -> str:
    return NOT_KNOWN if overview.runtime is None else "no projection host says that it follows it"


def _handler_table(overview: Overview) -> Table:
    numbers = ("events behind", "keys parked", "handled", "failed", "skipped", "stuck")
    table = _table("Handlers", "name", "state", numbers=numbers)
    for each in overview.handlers:
        behind = f"{each.behind:,}" if each.begun else "never run"
        counts = (each.parked, each.handled, each.failed, each.skipped, each.stuck)
        _add(table, each.name, _handler_state(each, overview), behind, *(f"{count:,}" for count in counts))
    return table


def _handler_state(handler: HandlerStatus, overview: Overview) -> str:
    if handler.off is None:
        return _unknown(overview)
    if handler.off:
        return f"off: {handler.off}"
    if handler.failure:
        return f"stands still: {handler.failure}"
    if not handler.standing:
        return "on"
    shards, reason = _ranges(sorted(handler.standing)), next(iter(handler.standing.values()))
    return f"waiting in shards {shards}: {reason}"


def _audit_table(overview: Overview) -> Table:
    table = _table("Audits of samples", "projection", "last", "found", numbers=("audits", "rows", "differences"))
    for each in overview.audits:
        last = "none yet" if each.last_at is None else f"{datetime.fromtimestamp(each.last_at, UTC):%F %T} UTC"
        counts = (each.audits, each.rows, each.differences)
        _add(table, each.projection, last, each.finding or each.failure, *(f"{count:,}" for count in counts))
    return table


def _managers(overview: Overview) -> list[RenderableType]:
    """`waiting`: commands that are not acknowledged yet, `retried`: those of them that have failed so far."""
    figures = ("behind", "waiting", "retried", "acknowledged", "refused", "failed")
    table = _table("Process managers", "name", numbers=figures)
    for progress, outbox in overview.process_managers:
        sizes = (outbox.waiting, outbox.retried, outbox.acknowledged, outbox.refused, outbox.failed)
        _add(table, progress.name, _behind(progress), *(f"{size:,}" for size in sizes))
    states = [(progress.name, _subscriber_state(progress, overview)) for progress, _ in overview.process_managers]
    told = [cell(f"{name}: {state}") for name, state in states if state not in ("on", NOT_KNOWN)]
    errors = [("retries", outbox.retry_error, progress.name) for progress, outbox in overview.process_managers]
    errors += [("failed at", outbox.last_failure, progress.name) for progress, outbox in overview.process_managers]
    return [table, *told, *(cell(f"{name} {what} {error}") for what, error, name in errors if error)]


def _behind(progress: SubscriberStatus) -> str:
    return f"{progress.behind:,}" if progress.begun else f"{progress.behind:,} (never run)"


def _shard_table(overview: Overview) -> Table:
    table = _table("Shards", "host", "shards", numbers=("count", "epochs", "events", "highest head"))
    by_host: dict[str, list[ShardStatus]] = {}
    for shard in overview.shards:
        by_host.setdefault(shard.host or "nobody", []).append(shard)
    for host, shards in sorted(by_host.items()):
        epochs, heads = [shard.epoch for shard in shards], [shard.head for shard in shards]
        numbers = (str(len(shards)), _span(min(epochs), max(epochs)), f"{sum(heads):,}", f"{max(heads):,}")
        _add(table, host, _ranges([shard.shard for shard in shards]), *numbers)
    return table


def _ranges(numbers: list[int]) -> str:
    """Write rising numbers as `0-3, 7`."""
    groups = itertools.groupby(enumerate(numbers), lambda each: each[1] - each[0])
    spans = [[number for _, number in group] for _, group in groups]
    return ", ".join(_span(span[0], span[-1]) for span in spans)


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def _table(title: str, *columns: str, numbers: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _add(table: Table, *texts: str) -> None:
    """Add a row of texts as they are: what a handler has raised, say, is anything."""
    table.add_row(*map(cell, texts))
