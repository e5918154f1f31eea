"""Usage and cost of several answers together."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence

from aiollm.types import Certainty, Cost, Usage


def total_cost(costs: Sequence[Cost]) -> Cost:
    """Return the sum of several costs; of none it is not known."""
    return functools.reduce(operator.add, costs) if costs else Cost()


def total_usage(usages: Sequence[Usage]) -> Usage:
    """Return the sum of several counts, as certain as all of them are."""
    certainties = {usage.certainty for usage in usages}
    certainty: Certainty = "partial" if certainties else "missing"
    if len(certainties) == 1:
        (certainty,) = certainties
    counts = {
        name: sum(getattr(usage, name) for usage in usages)
        for name in Usage.__struct_fields__
        if name.endswith(("_tokens", "_requests"))
    }
    bills = [usage.billed_usd for usage in usages]
    tiers = {usage.tier for usage in usages}
    return Usage(
        certainty=certainty,
        tier=tiers.pop() if len(tiers) == 1 else "",
        billed_usd=None if None in bills or not bills else sum(filter(None, bills)),
        **counts,
    )
