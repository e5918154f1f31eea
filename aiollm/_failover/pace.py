"""Pace: how often a target that answered 429 is asked, found by what it accepted before.

Pure: times are passed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque

from aiollm._failover.meter import Meter

BUCKET = 0.125
"""Seconds of admissions that are counted together."""

BUCKETS = 64
"""Buckets remembered: eight seconds with an admission in each."""

BURST = 0.5
"""Seconds of the pace that may go at once: half of what a declared limit gets (design)."""

FIRST_BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds that a 429 without Retry-After blocks at first and at most; it doubles (design)."""

DECREASE = 0.7
INCREASE = 0.01
"""A 429 though paced lowers the pace to this share; each calm second adds this share (design)."""

SLOWEST = 1.0
"""Requests a minute below which no pace falls."""

EVIDENCE = 5
"""Accepted requests that say how fast a target may be asked; fewer say how little was asked."""

GUESS = 60.0
SEARCH = 0.5
"""Without evidence: requests a minute to begin with, and what each calm second adds to them."""


class Pace:
    """The requests of one target: what it accepted lately, and the rate that follows from it."""

    __slots__ = (
        "_buckets",
        "_grown_at",
        "_is_guess",
        "_measured_until",
        "_refusals",
        "_refused_at",
        "blocked_until",
        "is_active",
        "meter",
    )

    def __init__(self) -> None:
        """Begin without a pace."""
        self.is_active = False
        """Whether it has anything to say."""
        self.meter: Meter | None = None
        self.blocked_until = 0.0
        self._buckets: deque[list[float]] = deque(maxlen=BUCKETS)
        self._refusals = 0
        self._refused_at = -math.inf
        self._measured_until: float | None = None
        self._grown_at = 0.0
        self._is_guess = False

    def wait(self, now: float) -> float:
        """Return the seconds until one more request may go."""
        if now < self.blocked_until:
            return self.blocked_until - now
        if self._measured_until is not None:
            self._measure(self._measured_until)
            self._measured_until = None
        if self.meter is None:
            return 0.0
        self._grow(self.meter, now)
        return self.meter.wait(now, 1.0)

    def book(self, now: float) -> list[float]:
        """Note an admission; return its bucket, for `accepted`."""
        if self.meter is not None:
            self.meter.book(now, 1.0)
        start = now - now % BUCKET
        if not self._buckets or self._buckets[-1][0] != start:
            self._buckets.append([start, 0.0])
        return self._buckets[-1]

    def accepted(self, bucket: list[float]) -> None:
        """Note that the server took a request of that bucket."""
        bucket[1] += 1.0
        if self._refusals:
            self._refusals = 0

    def refused(self, now: float, retry_after: float | None) -> float:
        """Note a 429; return the seconds for which nothing goes.

        Requests that were under way together are refused together: that is one refusal.
        """
        if now - self._refused_at >= 1.0 and now >= self.blocked_until:
            self._refusals += 1
            if self.meter is not None:
                self.meter.set_limit(max(SLOWEST, self.meter.limit * DECREASE))
        if retry_after is None:
            retry_after = min(MAX_BACKOFF, FIRST_BACKOFF * 2.0 ** max(0, self._refusals - 1))
        self.is_active = True
        self._refused_at = self._grown_at = now
        self.blocked_until = max(self.blocked_until, now + retry_after)
        self._measured_until = self.blocked_until
        return self.blocked_until - now

    def _measure(self, until: float) -> None:
        """Set the pace to the best rate that was accepted lately, the block included.

        Whatever way the server counts, it took that many in that time: so it will again.
        """
        count = best = 0.0
        for start, accepted in reversed(self._buckets):
            count += accepted
            best = max(best, count / max(1.0, until - start))
        self._buckets.clear()
        self._is_guess = self.meter is None and count < EVIDENCE
        rate = max(GUESS if self._is_guess else SLOWEST, 60.0 * best)
        if self.meter is None:
            self.meter = Meter(_limit(rate), burst=BURST)
        elif best:
            before = self.meter.limit / DECREASE
            self.meter.set_limit(min(before, max(before / 2, _limit(rate))))

    def _grow(self, meter: Meter, now: float) -> None:
        seconds = int(now - self._grown_at)
        if seconds >= 1:
            self._grown_at += seconds
            growth = SEARCH if self._is_guess else INCREASE
            meter.set_limit(meter.limit * (1.0 + growth * min(seconds, 60)))


def _limit(rate: float) -> float:
    """Return the limit a minute whose meter runs at `rate` a minute."""
    return rate * (60.0 + BURST) / 60.0
