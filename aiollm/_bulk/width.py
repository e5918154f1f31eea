"""How many rows are under way: as the gate has room, and no more than a server can use."""

from __future__ import annotations

import math

from aiollm.types import Target

RESERVE = 32
"""Rows that may wait in line: enough that one is there whenever the gate lets one go."""

MOST = 1024
"""Rows under way at most, whatever a server takes; who needs more says how many."""

START = 2
"""Rows at a time at a server that is not known: one that answers one after another would let the
last of many wait longer than any deadline allows."""

EARLY = 32
"""Rows at a time up to which each first output makes room for two more."""

USUAL = 0.25
"""Seconds that a first output may take beyond twice the quickest before it is a sign that requests
queue at the server. The quickest never changes upward: a queue would become what is usual."""


class Width:
    """Finds how many rows are to be under way.

    Where limits are known, the gate says when a row may go, and enough of them wait for it. Where
    none are, each first output that comes as soon as it did before makes room for one more row or
    two, so the number doubles from round to round; a server that has all it can use takes longer.
    """

    def __init__(self, fixed: int | None, most: float = math.inf) -> None:
        """Take a fixed number, None to find it; `most`: seconds a first output may take."""
        self._most = most
        self.fixed = fixed
        self.limit = START if fixed is None else fixed
        self._quickest: dict[Target, float] = {}

    def allows(self, under_way: int, waiting: int, *, bounded: bool) -> bool:
        """Return whether one more may start; `bounded`: limits of all targets are known."""
        if self.fixed is not None:
            return under_way < self.fixed
        if under_way < START:
            return True
        return waiting < RESERVE and under_way < (MOST if bounded else self.limit)

    def first_output(self, target: Target, seconds: float, under_way: int) -> None:
        """Note how long a first output took, with so many rows under way."""
        known = self._quickest.get(target)
        quickest = self._quickest[target] = seconds if known is None else min(seconds, known)
        if known is not None and seconds <= USUAL + 2 * quickest:
            more = 2 if self.limit < EARLY else 1
            self.limit = min(MOST, self.limit + more * (under_way >= self.limit))
        elif seconds > self._most / 2:
            self.limit = max(START, self.limit - 1)

    def too_slow(self) -> None:
        """Note a first output that did not come in time."""
        self.limit = max(START, self.limit // 2)
