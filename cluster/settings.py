"""The settings of a runtime: one bounded model, read once by whoever opens it and passed on as a value.

Every field can be set by an environment variable: `poll_interval_s` by EVENTRAY_POLL_INTERVAL_S. Not here: what is
said per call (`hosts=`, `timeout_s=`), and where the store is.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from actors.limits import HostLimits
from cluster.limits import ClientLimits
from projections.environment import read_environment
from projections.progress import SubscriberLimits
from projections.relay import RelayLimits
from projections.sampling import SampleLimits
from store.errors import InvalidValue
from store.logs import LogFormat
from store.values import PAYLOAD_SIZE_MAX_BYTES, is_count, shown

Seconds = Annotated[float, Field(ge=0.01, le=3600)]
Count = Annotated[int, Field(ge=1, le=2**31)]


class Settings(BaseSettings):
    """What may be tuned; the defaults suit one machine."""

    model_config = SettingsConfigDict(env_prefix="EVENTRAY_", frozen=True, extra="forbid", allow_inf_nan=False)

    # --- Ray ---
    include_dashboard: bool = False
    """Whether a Ray that the runtime starts itself gets its dashboard (some 150 MB, and half a second at the start)."""
    host_cpus: float = Field(default=0.05, ge=0.0, le=64.0)
    """CPUs that each host claims from Ray's scheduler; a real fraction, so that autoscaling sees it."""
    open_timeout_s: Seconds = 60.0
    """How long a runtime may take to open, and a new host to start."""
    close_timeout_s: Seconds = 10.0
    """How long what is under way may take when a runtime closes."""

    # --- logs ---
    log_format: LogFormat = "console"
    """How the log lines of all processes of the runtime look: `console` for people, `json` one object a line."""

    # --- traces ---
    tracing: bool = False
    """Whether commands are traced by OpenTelemetry (`eventray[tracing]`), as its own OTEL_ variables say."""

    # --- the coordinator ---
    beat_interval_s: float = Field(default=1.0, ge=0.01, le=1.5)
    """How often the coordinator shows that it holds the store: another may take it after 3 s of silence."""
    poll_interval_s: Seconds = 1.0
    """How often each host is asked how it is."""
    poll_timeout_s: Seconds = 0.5
    """How long an answer may take; at most the interval."""
    polls_missed_max: int = Field(default=3, ge=1, le=100)
    """After so many missed polls in a row a host is ended and replaced; its successor is started one poll earlier."""
    loop_age_max_s: Seconds = 2.0
    """A host whose event loop has not turned for so long counts as one that doesn't answer."""
    oldest_pending_max_s: Seconds = 20.0
    """A host whose oldest command waits longer counts as one that doesn't answer."""

    shards_moving_max: int = Field(default=4, ge=1, le=4096)
    """Shards that are moved together from one host to another."""
    move_pause_s: Seconds = 0.1
    """The pause after each such move, so that moving leaves room for serving."""
    release_timeout_s: Seconds = 10.0
    """How long a host may take to finish what a shard that moves has in hand; then the shard is taken from it."""

    # --- metrics ---
    metrics_exporter: bool = True
    """Whether the runtime serves its metrics and health, by a process of its own (some 100 MB)."""
    metrics_address: str = "127.0.0.1"
    """Where it listens: this machine alone, unless another of its addresses is named (0.0.0.0: all of them)."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """0: one that is free; `eventray status` says which."""
    metrics_lagging_after_s: Seconds = 5.0
    """A projection or handler that is so far behind the log is said to lag."""
    metrics_stuck_after_s: Seconds = 10.0
    """One whose checkpoint has not moved for so long, while the log goes on beyond it, is said to be stuck."""

    # --- commands and events ---
    payload_size_max_bytes: int = Field(default=PAYLOAD_SIZE_MAX_BYTES, ge=1024, le=64 * 1024 * 1024)
    """What one command, and one event, may take as JSON. A stored event is read whatever its size."""

    # --- hosts ---
    host_pending_commands_max: Count = 20_000
    """Commands that one host holds; past it calls are answered Overloaded."""
    host_pending_bytes_max: Count = 64 * 1024 * 1024
    """Bytes of commands that one host holds."""
    host_unstored_bytes_max: Count = 64 * 1024 * 1024
    """Bytes of events that one host has decided and not stored yet: one transaction takes no more, but for the last
    command's. While a host holds as many it decides nothing more."""
    host_live_aggregates_max: Count = 200_000
    """Aggregates that one host keeps in memory; past it the least recently used ones are read again when needed."""
    host_live_idle_s: float = Field(default=600.0, ge=0.01, le=30 * 24 * 3600)
    """A host forgets an aggregate that was not used for so long; it is read again when needed."""
    host_sessions_max: Count = 10_000
    """Clients whose last call one host remembers, so that an old copy of a call doesn't act."""
    host_pushes_in_flight_max: int = Field(default=16, ge=1, le=10_000)
    """Batches of events on their way from a host to one projection host; past it they are left to be read from the
    store."""

    projection_hosts: int | None = Field(default=None, ge=1, le=4096)
    """Processes that follow the log for projections and handlers, each some shards. None: on SQLite, whose file takes
    one writer at a time, one; else one for each node, and at most as many as hosts."""

    projection_events_held_max: Count = 50_000
    """Pushed events that wait to be taken by one projection or handler in one process; past it they are left to be read
    from the store."""
    projection_batch_size_max: int = Field(default=5_000, ge=1, le=100_000)
    """Events that one projection takes in one transaction."""
    process_manager_commands_max: int = Field(default=1_000, ge=1, le=100_000)
    """Commands of one process manager in one process that are on their way; the others wait in its outbox."""
    process_manager_resting_max: Count = 10_000
    """Partition keys of one process manager in one process whose last command has failed and is to be tried again;
    while there are as many, no other command of it is looked for there."""

    # --- read models ---
    audit_interval_s: float = Field(default=60.0, ge=0.0, le=30 * 24 * 3600)
    """How often a sample of one read model in one shard is compared with the log; 0: never."""
    audit_keys_max: int = Field(default=100, ge=1, le=10_000)
    """Partition keys in such a sample."""

    # --- clients ---
    client_batch_size_max: int = Field(default=1_000, ge=1, le=100_000)
    """Commands in one call."""
    client_batch_bytes_max: int = Field(default=512 * 1024, ge=1, le=64 * 1024 * 1024)
    """Bytes of commands in one call; one command that is larger goes alone."""
    client_in_flight_max: Count = 10_000
    """Commands of one client that are queued or on their way."""
    client_in_flight_bytes_max: Count = 64 * 1024 * 1024
    """Bytes of these commands; one more is taken while they are fewer."""
    command_timeout_s: Seconds = 30.0
    """How long a command may take where its caller says nothing else."""
    query_timeout_s: Seconds = 10.0
    """How long `query(after=...)` waits for the read model where its caller says nothing else."""

    @model_validator(mode="after")
    def _check_polls(self) -> Self:
        if self.poll_timeout_s > self.poll_interval_s:
            raise ValueError("poll_timeout_s: give at most poll_interval_s, so that polls don't pile up")
        return self

    def with_projection_hosts(self, wanted: int | None, scheme: str, shards: int) -> Settings:
        """Return these settings with so many projection hosts; None: as they say, for a store of that kind.

        Raises InvalidValue for a number that can't be had.
        """
        if wanted is None:
            wanted = self.projection_hosts or (1 if scheme == "sqlite" else None)
        if wanted is not None and not is_count(wanted, shards):
            raise InvalidValue("projection_hosts", shown(wanted), f"give 1 to {shards}: each needs a shard of its own")
        return self.model_copy(update={"projection_hosts": wanted})

    def host_limits(self) -> HostLimits:
        """The bounds of each host."""
        return HostLimits(
            pending_commands_max=self.host_pending_commands_max,
            pending_bytes_max=self.host_pending_bytes_max,
            unstored_bytes_max=self.host_unstored_bytes_max,
            live_aggregates_max=self.host_live_aggregates_max,
            live_idle_s=self.host_live_idle_s,
            sessions_max=self.host_sessions_max,
            payload_size_max_bytes=self.payload_size_max_bytes,
        )

    def subscriber_limits(self) -> SubscriberLimits:
        """The bounds of each projection and handler."""
        return SubscriberLimits(
            batch_size_max=self.projection_batch_size_max, buffer_size_max=self.projection_events_held_max
        )

    def relay_limits(self) -> RelayLimits:
        """The bounds of what each process manager sends."""
        return RelayLimits(
            under_way_max=self.process_manager_commands_max, resting_max=self.process_manager_resting_max
        )

    def sample_limits(self) -> SampleLimits:
        """The bounds of the standing audit of read models."""
        return SampleLimits(self.audit_interval_s, self.audit_keys_max)

    def client_limits(self) -> ClientLimits:
        """The bounds of each client."""
        return ClientLimits(
            batch_size_max=self.client_batch_size_max,
            batch_bytes_max=self.client_batch_bytes_max,
            in_flight_max=self.client_in_flight_max,
            in_flight_bytes_max=self.client_in_flight_bytes_max,
            deadline_s=self.command_timeout_s,
        )


def read_settings(**values: Any) -> Settings:
    """Return the settings of this process's environment, `values` going before it. Raises InvalidValue."""
    return read_environment(Settings, **values)
