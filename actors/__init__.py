"""What decides: aggregates, their commands, and the hosts that run them. Ray is met in `host.py` only."""

from actors.aggregate import Aggregate
from actors.commands import Command
from actors.errors import (
    ApplyFailed,
    BrokenHistory,
    CommandIdReused,
    CommandTimeout,
    DecideFailed,
    DomainError,
    HostsLost,
    InvalidCommand,
    MakeFailed,
    NoEventMethod,
    NotOwner,
    Overloaded,
    StaleCall,
)
from actors.metadata import because_of
from actors.registry import AggregateRegistry, CommandBinding

__all__ = [
    "Aggregate",
    "AggregateRegistry",
    "ApplyFailed",
    "BrokenHistory",
    "Command",
    "CommandBinding",
    "CommandIdReused",
    "CommandTimeout",
    "DecideFailed",
    "DomainError",
    "HostsLost",
    "InvalidCommand",
    "MakeFailed",
    "NoEventMethod",
    "NotOwner",
    "Overloaded",
    "StaleCall",
    "because_of",
]
