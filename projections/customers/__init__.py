"""The read models of the shop's customers, and what is done for them: a mail, a notice to another system."""

from projections.customers.directory import CustomerDirectory
from projections.customers.projection import CustomerProjection, customers
from projections.customers.promotion import PromotionNotice
from projections.customers.sales import DailySales
from projections.customers.welcome import WelcomeMail

__all__ = ["CustomerDirectory", "CustomerProjection", "DailySales", "PromotionNotice", "WelcomeMail", "customers"]
