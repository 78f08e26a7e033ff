"""The panels of each dashboard. Not here: Grafana's JSON (`dashboards.py`), what the metrics mean (`metrics/`)."""

from __future__ import annotations

from cluster.monitoring.dashboards import Dashboard, Panel, Query

ALL = 'instance=~"$instance"'


def _rate(counter: str, by: str = "", more: str = "") -> str:
    grouped = f"sum by ({by}) " if by else "sum"
    return f"{grouped}(rate({counter}{{{ALL}{more}}}[$__rate_interval]))"


def _or_zero(expr: str) -> str:
    """What has never happened has no series: show that as zero."""
    return f"{expr} or vector(0)"


def _quantile(quantile: float, histogram: str, by: str = "", more: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({quantile}, {_rate(f'{histogram}_bucket', grouped, more)})"


def _mean(histogram: str, by: str = "") -> str:
    return f"{_rate(f'{histogram}_sum', by)} / {_rate(f'{histogram}_count', by)}"


def _quantiles(histogram: str) -> list[Query]:
    return [
        Query(_quantile(quantile, histogram), name) for quantile, name in ((0.5, "p50"), (0.9, "p90"), (0.99, "p99"))
    ]


OVERVIEW = Dashboard(
    "eventray-overview",
    "Eventray: overview",
    [
        Panel("Runtimes up", [Query(f"sum(eventray_runtime_up{{{ALL}}})")], kind="stat", width=4),
        Panel("Processes down", [Query(f"sum(eventray_process_up{{{ALL}}} == bool 0)")], kind="stat", width=4),
        Panel(
            "Hosts missing",
            [Query(f"sum(eventray_wanted_hosts{{{ALL}}} - eventray_serving_hosts{{{ALL}}})")],
            kind="stat",
            width=4,
        ),
        Panel("Shards unserved", [Query(f"sum(eventray_free_shards{{{ALL}}})")], kind="stat", width=4),
        Panel(
            "Not in health",
            [Query(f'sum(eventray_subscriber_state{{{ALL}, state=~"stuck|parked|down"}})')],
            kind="stat",
            about="Projections and handlers that are stuck, parked or down: see /health/processing for the reason.",
            width=4,
        ),
        Panel("Events in the log", [Query(f"sum(eventray_log_events{{{ALL}}})")], kind="stat", width=4),
        Panel("Commands", [Query(_rate("eventray_commands_total", "outcome"), "{{outcome}}")], "ops"),
        Panel("Command latency", _quantiles("eventray_command_seconds"), "s"),
        Panel("Events stored", [Query(_rate("eventray_appended_events_total", "process"), "{{process}}")], "ops"),
        Panel(
            "Lag",
            [Query(f"eventray_lag_seconds{{{ALL}}}", "{{subscriber}}")],
            "s",
            about="0: it has all that was in the log two seconds ago.",
        ),
        Panel("State of subscribers", [Query(f"eventray_subscriber_state{{{ALL}}} == 1", "{{subscriber}}: {{state}}")]),
        Panel("CPU", [Query(_rate("eventray_process_cpu_seconds_total", "process"), "{{process}}")], "percentunit"),
        Panel("Live aggregates", [Query(f"eventray_live_aggregates{{{ALL}}}", "{{process}}")]),
        Panel(
            "Shards of each host",
            [
                Query(f"eventray_served_shards{{{ALL}}}", "{{process}}"),
                Query(f"eventray_moving_shards{{{ALL}}}", "on their way"),
            ],
        ),
        Panel(
            "Shards claimed, moved and lost",
            [
                Query(_rate("eventray_claimed_shards_total"), "claimed"),
                Query(_rate("eventray_moved_shards_total"), "moved"),
                Query(_or_zero(_rate("eventray_fenced_shards_total")), "lost at an append"),
            ],
            "ops",
        ),
        Panel(
            "Last audits: findings",
            [Query(_or_zero(f"sum by (audit) (eventray_audit_findings{{{ALL}}})"), "{{audit}}")],
        ),
        Panel(
            "Rows audited as samples",
            [Query(_or_zero(_rate("eventray_audited_rows_total", "audit")), "{{audit}}")],
            "ops",
        ),
        Panel(
            "Last audits: age",
            [Query(_or_zero(f"max by (audit) (eventray_audit_age_seconds{{{ALL}}})"), "{{audit}}")],
            "s",
        ),
        Panel("A scrape's time", [Query(f"eventray_scrape_seconds{{{ALL}}}", "{{instance}}")], "s"),
    ],
)

COMMANDS = Dashboard(
    "eventray-commands",
    "Eventray: commands",
    [
        Panel("By type", [Query(_rate("eventray_commands_total", "type"), "{{type}}")], "ops"),
        Panel("By outcome", [Query(_rate("eventray_commands_total", "outcome"), "{{outcome}}")], "ops"),
        Panel(
            "Errors by class",
            [Query(_or_zero(_rate("eventray_errored_commands_total", "error")), "{{error}}")],
            "ops",
        ),
        Panel("Latency", _quantiles("eventray_command_seconds"), "s", about="From a command's arrival at its host."),
        Panel("Where the time goes (mean)", [Query(_mean("eventray_command_part_seconds", "part"), "{{part}}")], "s"),
        Panel(
            "Where the time goes (p99)",
            [Query(_quantile(0.99, "eventray_command_part_seconds", "part"), "{{part}}")],
            "s",
        ),
        Panel("Commands in one call", _quantiles("eventray_call_commands")),
        Panel("Commands that hosts hold", [Query(f"eventray_pending_commands{{{ALL}}}", "{{process}}")]),
        Panel("The oldest of them", [Query(f"eventray_oldest_pending_seconds{{{ALL}}}", "{{process}}")], "s"),
        Panel(
            "Duplicates",
            [Query(_or_zero(_rate("eventray_commands_total", more=', outcome="duplicate"')), "duplicates")],
            "ops",
            about="Commands that were sent again: retries by clients, and callers that repeat an id.",
        ),
        Panel(
            "Aggregates loaded, by where they begin",
            [Query(_rate("eventray_loaded_aggregates_total", "start"), "{{start}}")],
            "ops",
        ),
        Panel("Events folded to load one", _quantiles("eventray_load_events")),
        Panel("Snapshots", [Query(_rate("eventray_snapshots_total", "what"), "{{what}}")], "ops"),
        Panel("Live aggregates", [Query(f"eventray_live_aggregates{{{ALL}}}", "{{process}}")]),
        Panel("Age of event loops", [Query(f"eventray_loop_age_seconds{{{ALL}}}", "{{process}}")], "s"),
    ],
)

STORE = Dashboard(
    "eventray-store",
    "Eventray: store",
    [
        Panel("Operations", [Query(_rate("eventray_store_seconds_count", "operation"), "{{operation}}")], "ops"),
        Panel(
            "Their time (p99)", [Query(_quantile(0.99, "eventray_store_seconds", "operation"), "{{operation}}")], "s"
        ),
        Panel(
            "Errors by class",
            [Query(_or_zero(_rate("eventray_store_errors_total", "operation, error")), "{{operation}}: {{error}}")],
            "ops",
        ),
        Panel("Transactions of events", [Query(_rate("eventray_appends_total", "process"), "{{process}}")], "ops"),
        Panel("Events stored", [Query(_rate("eventray_appended_events_total", "process"), "{{process}}")], "ops"),
        Panel("Bytes stored", [Query(_rate("eventray_appended_bytes_total", "process"), "{{process}}")], "Bps"),
        Panel("Events in one transaction", _quantiles("eventray_append_events")),
        Panel("Shards in one transaction", _quantiles("eventray_append_shards")),
        Panel(
            "An append's time",
            [
                Query(_quantile(0.5, "eventray_store_seconds", more=', operation="append"'), "p50"),
                Query(_quantile(0.99, "eventray_store_seconds", more=', operation="append"'), "p99"),
            ],
            "s",
        ),
        Panel(
            "Fenced, and outcomes unknown",
            [
                Query(_or_zero(_rate("eventray_fenced_shards_total")), "shards lost"),
                Query(_rate("eventray_unknown_outcome_appends_total"), "replies lost"),
            ],
            "ops",
        ),
        Panel("Events in the log", [Query(f"eventray_log_events{{{ALL}}}", "{{instance}}")]),
        Panel("Since SQL was last read", [Query(f"eventray_look_age_seconds{{{ALL}}}", "{{instance}}")], "s"),
    ],
)

PROJECTIONS = Dashboard(
    "eventray-projections",
    "Eventray: projections and handlers",
    [
        Panel(
            "Lag",
            [Query(f"eventray_lag_seconds{{{ALL}}}", "{{subscriber}}")],
            "s",
            about="0: it has all that was in the log two seconds ago.",
        ),
        Panel("Lag in events", [Query(f"eventray_lag_events{{{ALL}}}", "{{subscriber}}")]),
        Panel("Events taken, ever", [Query(f"eventray_position_events{{{ALL}}}", "{{subscriber}}")]),
        Panel(
            "Age of the oldest event not taken",
            [Query(f"eventray_oldest_unprocessed_seconds{{{ALL}}}", "{{subscriber}}")],
            "s",
        ),
        Panel("State", [Query(f"eventray_subscriber_state{{{ALL}}} == 1", "{{subscriber}}: {{state}}")]),
        Panel("Events taken", [Query(_rate("eventray_applied_events_total", "subscriber"), "{{subscriber}}")], "ops"),
        Panel(
            "Time of a batch (p99)",
            [Query(_quantile(0.99, "eventray_apply_seconds", "subscriber"), "{{subscriber}}")],
            "s",
        ),
        Panel(
            "Pushes",
            [
                Query(_rate("eventray_pushes_total", "process"), "{{process}}: pushes"),
                Query(_rate("eventray_pushed_events_total", "process"), "{{process}}: events in them"),
            ],
            "ops",
        ),
        Panel(
            "Gaps read from the store",
            [Query(_rate("eventray_gap_reads_total", "subscriber"), "{{subscriber}}")],
            "ops",
        ),
        Panel(
            "Retries",
            [
                Query(
                    _or_zero(_rate("eventray_retried_batches_total", "subscriber, error")), "{{subscriber}}: {{error}}"
                )
            ],
            "ops",
        ),
        Panel("Shards that wait for a retry", [Query(f"eventray_blocked_shards{{{ALL}}}", "{{subscriber}}")]),
        Panel("Parked keys", [Query(f"eventray_parked_keys{{{ALL}}}", "{{subscriber}}")]),
        Panel("The oldest parked key", [Query(f"eventray_oldest_parked_seconds{{{ALL}}}", "{{subscriber}}")], "s"),
        Panel(
            "Handlers: events taken",
            [Query(_or_zero(_rate("eventray_handled_events_total", "subscriber")), "{{subscriber}}")],
            "ops",
        ),
        Panel(
            "Handlers: failures",
            [
                Query(
                    _or_zero(_rate("eventray_handler_failures_total", "subscriber")), "{{subscriber}}: failed attempts"
                ),
                Query(_or_zero(_rate("eventray_skipped_events_total", "subscriber")), "{{subscriber}}: left out"),
            ],
            "ops",
        ),
        Panel(
            "Handlers: calls given up",
            [Query(_or_zero(f"sum by (subscriber) (eventray_stuck_calls{{{ALL}}})"), "{{subscriber}}")],
        ),
        Panel(
            "Process managers: commands",
            [
                Query(
                    _or_zero(_rate("eventray_issued_commands_total", "subscriber, outcome")),
                    "{{subscriber}}: {{outcome}}",
                )
            ],
            "ops",
        ),
        Panel(
            "Process managers: keys that wait for a retry",
            [Query(_or_zero(f"sum by (subscriber) (eventray_resting_keys{{{ALL}}})"), "{{subscriber}}")],
        ),
        Panel(
            "Rebuild",
            [Query(f"eventray_rebuild_progress_ratio{{{ALL}}} or vector(1)", "{{subscriber}}")],
            "percentunit",
            about="How much of the log a new build holds; 1: none is being filled.",
        ),
    ],
)

DASHBOARDS = {"overview": OVERVIEW, "commands": COMMANDS, "store": STORE, "projections": PROJECTIONS}
"""By the name of the file that each is kept in."""
