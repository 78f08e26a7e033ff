"""The demo: the real purchases of a CD shop through customer actors, checked against the input itself."""

from actors.customers import Customer, Order
from cluster.application import Application
from projections.customers import CustomerProjection, LoyaltyProgramme

shop = Application([Customer, Order], [CustomerProjection], process_managers=[LoyaltyProgramme])
"""The demo's application: `--app cluster.demo:shop`."""

__all__ = ["shop"]
