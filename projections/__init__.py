"""What is derived from the log: read models, and what keeps them up to date."""

from projections.changes import Changes
from projections.columns import Moment, Money
from projections.errors import ConsistencyTimeout
from projections.projection import Projection

__all__ = ["Changes", "ConsistencyTimeout", "Moment", "Money", "Projection"]
