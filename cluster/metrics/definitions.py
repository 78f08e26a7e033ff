"""Every metric that there is: its name, kind, unit, labels and what it says.

No label is ever the id of an aggregate or a key: each has few values. All samples carry a label more, `process`: the
place that they come from (`host-1`), which stays the same when its process is replaced. Not here: counting
(`counting.py`), and where counts come from (`store.py`, `host.py`, `follower.py`, `runtime.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PREFIX = "eventray_"

Kind = Literal["counter", "gauge", "histogram"]


@dataclass(frozen=True, eq=False, slots=True)
class Metric:
    """One metric; each is one object, told from others by identity."""

    name: str
    """Ends with the unit; a counter's samples have `_total` behind it, as Prometheus wants it."""
    kind: Kind
    unit: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    """Upper bounds, of a histogram."""

    @property
    def sample_name(self) -> str:
        """What a query asks for."""
        return {"counter": f"{self.name}_total", "gauge": self.name, "histogram": f"{self.name}_bucket"}[self.kind]


METRICS: dict[str, Metric] = {}
"""All of them, by name."""

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
SIZES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0)


def _metric(
    kind: Kind, name: str, unit: str, text: str, labels: tuple[str, ...] = (), buckets: tuple[float, ...] = ()
) -> Metric:
    metric = Metric(f"{PREFIX}{name}", kind, unit, text, labels, buckets)
    assert metric.name not in METRICS
    METRICS[metric.name] = metric
    return metric


def _counter(name: str, unit: str, text: str, *labels: str) -> Metric:
    return _metric("counter", name, unit, text, labels)


def _gauge(name: str, unit: str, text: str, *labels: str) -> Metric:
    return _metric("gauge", name, unit, text, labels)


def _histogram(name: str, unit: str, text: str, buckets: tuple[float, ...], *labels: str) -> Metric:
    return _metric("histogram", name, unit, text, labels, buckets)


# --- commands, of each host ---

COMMANDS = _counter(
    "commands",
    "commands",
    "Commands answered. outcome: accepted, duplicate (the receipt of an earlier sending), rejected (refused by the"
    " domain, or invalid), failed (no outcome, for example Overloaded), moved (its shard is another host's: it is sent"
    " there).",
    "type",
    "outcome",
)
COMMAND_ERRORS = _counter("errored_commands", "commands", "Commands answered with an error, by its class.", "error")
COMMAND_SECONDS = _histogram(
    "command_seconds", "seconds", "From a command's arrival at its host to its answer's leaving.", SECONDS
)
PART_SECONDS = _histogram(
    "command_part_seconds",
    "seconds",
    "Where that time goes. part: queue (until it is decided: mail before it, reading what it needs), decide, append"
    " (waiting for the writer, and the commit), reply (until the answer is on its way).",
    SECONDS,
    "part",
)
CALL_COMMANDS = _histogram("call_commands", "commands", "Commands in one call of a client.", SIZES)
PENDING_COMMANDS = _gauge("pending_commands", "commands", "Commands that a host holds and has not answered.")
OLDEST_PENDING_SECONDS = _gauge("oldest_pending_seconds", "seconds", "How long the oldest of them has waited.")
LOOP_AGE_SECONDS = _gauge("loop_age_seconds", "seconds", "Since a host's event loop last turned.")
LIVE_AGGREGATES = _gauge("live_aggregates", "aggregates", "Aggregates in a host's memory.")
SERVED_SHARDS = _gauge("served_shards", "shards", "Shards that a host serves.")
UNKNOWN_OUTCOMES = _counter(
    "unknown_outcome_appends", "appends", "Appends whose reply was lost, and that were settled."
)

# --- the store, as each process sees it ---

STORE_SECONDS = _histogram("store_seconds", "seconds", "Time of the store's operations.", SECONDS, "operation")
STORE_ERRORS = _counter("store_errors", "errors", "Errors of the store's operations, by class.", "operation", "error")
APPENDS = _counter("appends", "appends", "Transactions that stored events (group commits).")
APPENDED_EVENTS = _counter("appended_events", "events", "Events stored.")
APPENDED_BYTES = _counter("appended_bytes", "bytes", "Characters of the data and metadata of the events stored.")
APPEND_EVENTS = _histogram("append_events", "events", "Events in one such transaction.", SIZES)
APPEND_SHARDS = _histogram("append_shards", "shards", "Shards in one such transaction.", SIZES)
FENCED_SHARDS = _counter("fenced_shards", "shards", "Shards lost at an append: another host had claimed them.")
CLAIMED_SHARDS = _counter("claimed_shards", "shards", "Shards claimed.")
LOADS = _counter(
    "loaded_aggregates",
    "aggregates",
    "Aggregates read into memory. start: nothing (it is new), events (its whole history), snapshot.",
    "start",
)
LOAD_EVENTS = _histogram("load_events", "events", "Events folded to load one that has any.", SIZES)
SNAPSHOTS = _counter(
    "snapshots",
    "snapshots",
    "What became of snapshots: taken, written, lost (not written), used, ignored_fingerprint (other code folded it),"
    " ignored_damaged.",
    "what",
)

# --- projections and handlers, where they are followed ---

PUSHES = _counter("pushes", "pushes", "Pushes of committed events that came.")
PUSHED_EVENTS = _counter("pushed_events", "events", "Events in them.")
APPLY_SECONDS = _histogram(
    "apply_seconds", "seconds", "Time that a batch of events took to be taken.", SECONDS, "subscriber"
)
APPLIED_EVENTS = _counter("applied_events", "events", "Events by which checkpoints moved.", "subscriber")
RETRIES = _counter(
    "retried_batches", "batches", "Batches, or parts, that failed and are tried again.", "subscriber", "error"
)
GAP_READS = _counter("gap_reads", "reads", "Reads of the store for events that no push had brought.", "subscriber")
BLOCKED_SHARDS = _gauge("blocked_shards", "shards", "Shards that wait for a retry.", "subscriber")
HANDLED_EVENTS = _counter("handled_events", "events", "Events that a handler took.", "subscriber")
HANDLER_FAILURES = _counter("handler_failures", "failures", "Attempts of a handler that failed.", "subscriber")
HANDLER_SKIPPED = _counter("skipped_events", "events", "Events left out after a handler's last attempt.", "subscriber")
HANDLER_STUCK = _gauge(
    "stuck_calls", "calls", "Calls of a handler that were given up and have not returned.", "subscriber"
)
ISSUED_COMMANDS = _counter(
    "issued_commands",
    "commands",
    "Commands that a process manager has sent. outcome: acknowledged, refused (final), failed (it is tried again).",
    "subscriber",
    "outcome",
)
RESTING_KEYS = _gauge(
    "resting_keys", "keys", "Partition keys whose command a process manager is to send again.", "subscriber"
)

# --- projections and handlers, as the exporter sees them in SQL ---

LAG_EVENTS = _gauge("lag_events", "events", "Events in the log that a subscriber has not taken.", "subscriber")
LAG_SECONDS = _gauge(
    "lag_seconds",
    "seconds",
    "How long ago the log was as far as a subscriber is now; 0: it has all that was there at the last look. It grows"
    " also while nothing can be read.",
    "subscriber",
)
OLDEST_UNPROCESSED_SECONDS = _gauge(
    "oldest_unprocessed_seconds", "seconds", "Age of the oldest event that a subscriber has not taken.", "subscriber"
)
POSITION_EVENTS = _gauge(
    "position_events", "events", "Events of the log that a subscriber has taken, ever.", "subscriber"
)
SUBSCRIBER_STATE = _gauge(
    "subscriber_state",
    "",
    "1 for the state that a subscriber is in, of ok, lagging, stuck, parked, down, off; 0 for the others.",
    "subscriber",
    "state",
)
PARKED_KEYS = _gauge("parked_keys", "keys", "Partition keys (their streams) that a handler has parked.", "subscriber")
OLDEST_PARKED_SECONDS = _gauge("oldest_parked_seconds", "seconds", "Since the oldest of them was parked.", "subscriber")
REBUILD_RATIO = _gauge(
    "rebuild_progress_ratio",
    "ratio",
    "How much of the log a new build of a projection holds, from 0 to 1.",
    "subscriber",
)
LOG_EVENTS = _gauge("log_events", "events", "Events in the log.")
LOOK_AGE_SECONDS = _gauge("look_age_seconds", "seconds", "Since the exporter could last read all that from SQL.")

# --- the runtime ---

PROCESS_UP = _gauge("process_up", "", "1 if a process answered this scrape in time, else 0.")
PROCESS_CPU_SECONDS = _counter("process_cpu_seconds", "seconds", "CPU time of a process.")
HOSTS_WANTED = _gauge("wanted_hosts", "hosts", "Hosts that the runtime is to have.")
HOSTS_SERVING = _gauge("serving_hosts", "hosts", "Hosts that serve.")
FREE_SHARDS = _gauge("free_shards", "shards", "Shards that nobody serves.")
MOVING_SHARDS = _gauge("moving_shards", "shards", "Shards on their way from one host to another.")
MOVED_SHARDS = _counter("moved_shards", "shards", "Shards moved from host to host.")
RUNTIME_UP = _gauge("runtime_up", "", "1 if the coordinator answered this scrape in time, else 0.")
SCRAPE_SECONDS = _gauge("scrape_seconds", "seconds", "How long this scrape waited for the processes.")
AUDIT_FINDINGS = _gauge(
    "audit_findings",
    "findings",
    "What audits found that is wrong: of the exporter the last `eventray audit` of the store or of a read model, of a"
    " projection host its standing audit of samples, since it began.",
    "audit",
)
AUDIT_AGE_SECONDS = _gauge("audit_age_seconds", "seconds", "Since the last such audit ended.", "audit")
AUDITED_ROWS = _counter("audited_rows", "rows", "Rows compared by standing audits.", "audit")
