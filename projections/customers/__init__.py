"""The shop's read models, its loyalty programme, and what is done for customers: a mail, a notice to another system."""

from projections.customers.directory import CustomerDirectory
from projections.customers.loyalty import LoyaltyProgramme
from projections.customers.projection import CustomerProjection, customers
from projections.customers.promotion import PromotionNotice
from projections.customers.sales import DailySales
from projections.customers.welcome import WelcomeMail

__all__ = [
    "CustomerDirectory",
    "CustomerProjection",
    "DailySales",
    "LoyaltyProgramme",
    "PromotionNotice",
    "WelcomeMail",
    "customers",
]
