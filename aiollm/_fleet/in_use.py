"""What this process uses of a fleet, so that what it does not use costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

IDLE = 600.0
"""Seconds after its last use for which something is remembered."""

MOST = 4096
"""How much is remembered; beyond it, what was not used for longest is forgotten sooner."""

K = TypeVar("K")
V = TypeVar("V")


class InUse(Generic[K, V]):
    """Values by key: those that are active, and those that rest, the longest first.

    Each beat speaks of active ones alone. What rests is still known, and active again once used.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        """Take the clock."""
        self.active: dict[K, V] = {}
        self._now = now
        self._resting: dict[K, tuple[float, V]] = {}

    def __len__(self) -> int:
        return len(self.active) + len(self._resting)

    def __iter__(self) -> Iterator[V]:
        """Iterate all values that are known."""
        yield from [*self.active.values(), *(value for _, value in self._resting.values())]

    @property
    def is_full(self) -> bool:
        """Whether no more can be remembered."""
        return len(self.active) >= MOST

    def get(self, key: K) -> V | None:
        """Return a value, None where it is not known."""
        rested = self._resting.get(key)
        return self.active.get(key) if rested is None else rested[1]

    def use(self, key: K) -> V | None:
        """Return a value, which is active from now on; None where it is not known."""
        rested = self._resting.pop(key, None)
        if rested is not None:
            self.active[key] = rested[1]
        return self.active.get(key)

    def add(self, key: K, value: V) -> None:
        """Note something that is in use."""
        self.active[key] = value

    def rest(self, key: K) -> None:
        """Note that something is not in use at the moment."""
        self._resting[key] = self._now(), self.active.pop(key)

    def pop(self, key: K) -> V | None:
        """Forget something; return its value."""
        rested = self._resting.pop(key, None)
        return self.active.pop(key, None) if rested is None else rested[1]

    def forget(self, seconds: float = IDLE) -> Iterator[tuple[K, V]]:
        """Forget what has rested for so many seconds, and what is too much; return it."""
        before = self._now() - seconds
        while self._resting:
            key, (since, value) = next(iter(self._resting.items()))
            if since > before and len(self) <= MOST:
                return
            del self._resting[key]
            yield key, value
