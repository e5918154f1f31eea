"""Money: what models cost, what a call has cost, and budgets that calls do not exceed."""

from aiollm.prices.budget import Budget, Reservation
from aiollm.prices.price import Price
from aiollm.types import Cost, CostSource

__all__ = ["Budget", "Cost", "CostSource", "Price", "Reservation"]
