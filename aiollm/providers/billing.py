"""What a service says an answer costs, under the names that services have for it."""

from __future__ import annotations

import math
from typing import Any

import msgspec

TICKS = 1e10
"""xAI's ticks in a dollar (docs.x.ai, November 2026)."""


class Billing(msgspec.Struct, gc=False, kw_only=True):
    """The fields beside token counts that say what an answer costs (November 2026)."""

    cost: Any = None
    """OpenRouter's, LiteLLM's and other gateways' dollars; Perplexity's are in an object."""
    cost_details: Any = None
    is_byok: Any = None
    cost_in_usd_ticks: Any = None
    """xAI's."""
    estimated_cost: Any = None
    """DeepInfra's."""

    def usd(self) -> float | None:
        """Return the dollars, None where nothing says them."""
        cost = self.cost
        if isinstance(cost, dict):
            cost = cost.get("total_cost") if cost.get("currency") in (None, "USD") else None
        usd = _amount(cost)
        if usd is not None and self.is_byok is True:
            # With a key of the user's own, `cost` is OpenRouter's fee alone.
            details = self.cost_details if isinstance(self.cost_details, dict) else {}
            usd += _amount(details.get("upstream_inference_cost")) or 0.0
        if usd is None and (ticks := _amount(self.cost_in_usd_ticks)) is not None:
            usd = ticks / TICKS
        return _amount(self.estimated_cost) if usd is None else usd


BILLING = len(Billing.__struct_fields__)
"""How many fields it has; they come after those of a struct that is made of it."""


def _amount(value: Any) -> float | None:
    """Return a number, or one in a text, that can be an amount of money."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    return amount if 0 <= amount < math.inf else None
