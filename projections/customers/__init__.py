"""The read model of the shop's customers."""

from projections.customers.projection import CustomerProjection, customers

__all__ = ["CustomerProjection", "customers"]
