"""Random seconds, so that those who failed together do not come back together."""

from __future__ import annotations


def uniform(a: float, b: float) -> float:
    """Return a random number from `a` to `b`."""
    import random  # takes a millisecond, and only failures need it

    return random.uniform(a, b)
