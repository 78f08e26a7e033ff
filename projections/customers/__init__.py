"""The read models of the shop's customers."""

from projections.customers.directory import CustomerDirectory
from projections.customers.projection import CustomerProjection, customers
from projections.customers.sales import DailySales

__all__ = ["CustomerDirectory", "CustomerProjection", "DailySales", "customers"]
