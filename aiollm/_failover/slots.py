"""Slots: how many streams of a scope run at once; with `auto` the number is found (AIMD)."""

from __future__ import annotations

import math
from typing import Any

AUTO_START = 8.0
"""Slots that `max_concurrency=auto` begins with."""

DECREASE = 0.5
"""A refusal leaves this share of the streams that ran; each round of answers adds one slot."""


class Slots:
    """The streams of a scope that run now, and how many may."""

    __slots__ = ("_cut_at", "_holders", "held", "is_auto", "is_shared", "limit", "share")

    def __init__(self, limit: int | None) -> None:
        """Take a fixed limit, None to find it."""
        self.is_auto = limit is None
        self.limit: float = AUTO_START if limit is None else limit
        self.held = 0
        self.share = 1
        """Processes that share the limit equally."""
        self.is_shared = False
        """Whether a fleet finds the limit."""
        self._holders: set[Any] = set()
        self._cut_at = -math.inf

    @property
    def free(self) -> int:
        """Free slots; less than 0 after the limit has shrunk."""
        return max(1, int(self.limit) // self.share) - self.held

    def resize(self, limit: int | None) -> None:
        """Take another limit, None to find one from here on; who holds a slot keeps it."""
        self.is_auto = limit is None
        if limit is not None:
            self.limit = limit

    def take(self, holder: Any) -> None:
        """Take a slot, of which there must be one."""
        self.held += 1
        self._holders.add(holder)

    def release(self, holder: Any) -> None:
        """Give a slot back; one that was taken under another loop is gone already."""
        if holder in self._holders:
            self._holders.discard(holder)
            self.held -= 1

    def succeeded(self) -> None:
        """Note an answer: where all slots were in use, a round of them adds one."""
        if self.is_auto and not self.is_shared and self.free <= 0:
            self.limit += self.share**2 / self.limit  # of its share of them: 1 / (limit / share)

    def refused(self, now: float) -> None:
        """Note that the service had no room; refusals of one second are one."""
        if self.is_auto and not self.is_shared and now - self._cut_at >= 1.0:
            self._cut_at = now
            self.limit = max(1.0, self.held * DECREASE) * self.share

    def clear(self) -> None:
        """Forget who holds them."""
        self.held = 0
        self._holders.clear()

    def describe(self) -> str:
        """Say who holds them."""
        calls = sorted({holder.number for holder in self._holders})
        shown = ", ".join(map(str, calls[:8])) + (", ..." if len(calls) > 8 else "")
        return (
            f"{self.held} of {int(self.limit)} slots are held by calls {shown} (`max_concurrency`)"
        )
