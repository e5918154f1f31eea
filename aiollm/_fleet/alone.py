"""What a process that decides alone keeps back, because others of its fleet do as it does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from aiollm._failover.lines import Line
from aiollm._failover.meter import BURST, MINUTE, Meter

Learnt: TypeAlias = tuple[float, float, float, int]
"""What an estimate has learnt, as processes tell each other."""

MAX_TURN = 30.0
"""The most seconds for which a first request is kept back."""

MAX_SENT = 1.0
"""Of what was sent while Redis was away, the most seconds' worth that count after its return."""


def expected(learnt: Learnt) -> float:
    """Return the tokens that a request of 4,000 bytes takes by what was learnt."""
    overhead, ratio, answer, _ = learnt
    return overhead + 4000 * ratio + answer


def meters_of(lines: Sequence[Line]) -> dict[str, Meter]:
    """Return the meters of a scope's lines by their fields in Redis."""
    found = {f"at|{kind}": meter for line in lines for kind, meter in line.scope.meters.items()}
    for line in lines:
        model = line.target.model
        found |= {f"at|{model}|{kind}": meter for kind, meter in line.meters.items()}
    return found


def sent_until(meter: Meter, share: int, now: float) -> float:
    """Return up to when a meter of the fleet is booked if the others sent what this one did.

    A Redis that lost everything would let a burst of each process follow that.
    """
    return now + min(MAX_SENT, meter.used(now) / meter.limit * MINUTE * share)


def turn(lines: Sequence[Line], share: int) -> float:
    """Return the seconds in which this process's share of the limits allows one request.

    Where all of a fleet lose Redis at one moment, and each may send one at once, that is a storm:
    the first one goes at random within this time. It is 0 where such a burst is allowed.
    """
    longest = 0.0
    for line in lines:
        tokens = expected(line.estimate.learnt) if line.scope.meters or line.meters else 0.0
        for kind, meter in (*line.scope.meters.items(), *line.meters.items()):
            units = 1.0 if kind == "requests" else tokens
            longest = max(longest, units / meter.limit * MINUTE * share)
    return min(MAX_TURN, longest) if share > 1 and longest > BURST else 0.0
