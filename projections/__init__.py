"""What is derived from the log: read models, and what keeps them up to date."""

from projections.changes import Changes
from projections.columns import Moment, Money
from projections.errors import ConsistencyTimeout, RetryLater, Undeliverable
from projections.handler import Handler, Policy
from projections.process_manager import ProcessManager
from projections.projection import Projection

__all__ = [
    "Changes",
    "ConsistencyTimeout",
    "Handler",
    "Moment",
    "Money",
    "Policy",
    "ProcessManager",
    "Projection",
    "RetryLater",
    "Undeliverable",
]
