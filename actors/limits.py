"""What one host holds at most, and how often it looks. Not here: what a client does (`cluster/limits.py`)."""

from __future__ import annotations

from dataclasses import dataclass

from store.values import PAYLOAD_SIZE_MAX_BYTES


@dataclass(frozen=True, slots=True)
class HostLimits:
    """The bounds of one host, and its rhythm."""

    pending_commands_max: int = 20_000
    """Commands that wait for an answer; past it a call is answered Overloaded."""
    pending_bytes_max: int = 64 * 1024 * 1024
    """Of these commands, as they came; the same."""
    unstored_bytes_max: int = 64 * 1024 * 1024
    """Of events that are decided and not stored yet; while a host holds as many it decides nothing more."""
    live_aggregates_max: int = 200_000
    live_idle_s: float = 600.0
    """An aggregate that was not used for so long is forgotten, until it is asked for again."""
    payload_size_max_bytes: int = PAYLOAD_SIZE_MAX_BYTES
    """Of the JSON of one command and of one event."""
    sessions_max: int = 10_000
    """Client sessions whose last call number is remembered."""
    retry_after_ms: int = 50
    """The hint that comes with Overloaded."""
    presume_new_after: int = 32
    """Commands of a type in a row that began a new stream, before the next one's is presumed to be new; 1 or more."""
    beat_s: float = 0.1
    """How often the event loop shows that it turns."""
