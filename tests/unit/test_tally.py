"""The closing summary: which outcome counts as what."""

import pytest

from actors.errors import CommandIdReused, CommandTimeout, DomainError, InvalidCommand, Overloaded
from actors.wire import Receipt
from cluster.driving import Outcome
from cluster.tally import Tally
from projections import ConsistencyTimeout
from store.errors import ConcurrencyError, StoreRejected, StoreUnavailable


@pytest.mark.parametrize(
    ("outcome", "counted_as"),
    [
        (Receipt("id", "order-o-1", 1, 3, 1, "store", duplicate=False), "accepted"),
        (Receipt("id", "order-o-1", 1, 3, 1, "store", duplicate=True), "duplicates"),
        (ConsistencyTimeout("Customers", 3, 1, 10.0, 0), "accepted"),
        (DomainError("no"), "rejected"),
        (InvalidCommand("field", "value", "remedy"), "rejected"),
        (ConcurrencyError("order-o-1", 1, 2), "rejected"),
        (CommandIdReused("id", "order-o-1"), "rejected"),
        (StoreRejected("too big"), "rejected"),
        (CommandTimeout("id", 30.0), "failed"),
        (Overloaded(50), "failed"),
        (StoreUnavailable("disk full", False), "failed"),
    ],
)
def test_each_outcome_counts_once(outcome: Outcome, counted_as: str) -> None:
    tally = Tally()
    tally.count(outcome)
    summary = tally.summary()
    counted = {name: summary[name] for name in ("accepted", "duplicates", "rejected", "failed")}
    assert counted == {**dict.fromkeys(counted, 0), counted_as: 1}
    assert summary["submitted"] == 1


def test_the_summary_has_just_the_agreed_fields() -> None:
    tally = Tally(accepted=3, duplicates=1, started_s=10.0, stopped_s=12.0)
    assert tally.summary() == {
        "submitted": 4,
        "accepted": 3,
        "duplicates": 1,
        "rejected": 0,
        "failed": 0,
        "seconds": 2.0,
        "commands_per_s": 2.0,
    }
