"""Pace: how often a target that answered 429 is asked, found by what it took before.

Pure: times are passed in, in seconds of one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from aiollm._failover.jitter import uniform
from aiollm._failover.meter import Meter
from aiollm._failover.random_refusals import RandomRefusals, Speed

BUCKET = 0.125
"""Seconds of admissions that are counted together."""

BUCKETS = 64
"""Buckets remembered: eight seconds with an admission in each."""

BURST = 0.5
"""Seconds of the pace that may go at once; halved by each 429 though paced, for some services allow
60 a minute as one a second (OpenAI's rate limit guide)."""

FIRST_BACKOFF = 1.0
MAX_BACKOFF = 30.0
"""Seconds that a 429 without Retry-After blocks at first and at most; it doubles."""

BELIEVED = 3
"""Refusals in a row after which a wait of less than `FIRST_BACKOFF` is no longer believed. Services
round it down to 0, and both OpenAI's and Anthropic's SDKs take that for none (November 2026)."""

MAX_RETRY_AFTER = 3600.0
"""Seconds of a server's own wait that are honoured, as after a failure: a header may name years."""

DECREASE = 0.7
INCREASE = 0.01
"""A 429 though paced lowers the pace at least to this share, as CUBIC does (RFC 9438); each calm
second adds this share."""

CALM = 10.0
"""Seconds without a 429 after which the pace grows twice as fast: others may have left."""

SOON = 1.0
"""Seconds after a cut in which another 429 lowers the pace to `DECREASE` of it at most."""

TELLING = 0.1
"""Seconds that a 429 blocks a fleet at least: meanwhile its processes tell what they saw."""

SLOWEST = 1.0
"""Requests a minute below which no pace falls."""

EVIDENCE = 5
"""Requests that say how fast a target may be asked; fewer say how little was asked."""

GUESS = 60.0
SEARCH = 0.5
"""Without evidence: requests a minute to begin with, and what each calm second adds to them."""


class Seen(NamedTuple):
    """What one process, or all of a fleet, saw between two blocks.

    The requests sent and those refused, how many refusals are explained by how much faster they
    went than before, and the requests a minute that were allowed.
    """

    sent: float
    refused: float
    explained: float
    limit: float


class Pace:
    """The requests of one target: what it took lately, and the rate that follows from it.

    What counts as taken is what was sent and not refused. An answer may come seconds later, a
    refusal comes at once: waiting for the answer would count too few.
    """

    __slots__ = (
        "_bucket",
        "_buckets",
        "_cut_at",
        "_cut_to",
        "_fleet",
        "_grown_at",
        "_in_vain",
        "_is_guess",
        "_is_soon",
        "_measured_at",
        "_measured_until",
        "_random",
        "_refusals",
        "_refused",
        "_refused_at",
        "_scatters",
        "_sent",
        "_told",
        "blocked_until",
        "is_active",
        "is_shared",
        "meter",
    )

    def __init__(self, *, is_shared: bool = False) -> None:
        """Begin without a pace; `is_shared`: whether a fleet is told what is seen of refusals."""
        self.is_active = False
        """Whether it has anything to say."""
        self.meter: Meter | None = None
        self.blocked_until = 0.0
        self.is_shared = is_shared
        # [start, requests taken], oldest first.
        self._buckets: deque[list[float]] = deque(maxlen=BUCKETS)
        self._bucket: list[float] = [-math.inf, 0.0]
        # Since the pace was last measured.
        self._sent = 0
        self._refused = 0
        # Refusals in a row, of which those at one time are one.
        self._refusals = 0
        self._refused_at = -math.inf
        # Of these, in a row, those at which nothing else was under way.
        self._in_vain = 0
        self._measured_until: float | None = None
        self._grown_at = 0.0
        self._is_guess = False
        self._scatters = False
        # The refusal that set the pace, what it set, and whether another came so soon that it says
        # little.
        self._cut_at = -math.inf
        self._cut_to = 0.0
        self._is_soon = False
        self._random: RandomRefusals | None = None
        self._measured_at = -math.inf
        # What a fleet was told of the time before this block, and what all of it saw.
        self._told: Seen | None = None
        self._fleet: Seen | None = None

    def wait(self, now: float) -> float:
        """Return the seconds until one more request may go."""
        if now < self.blocked_until:
            return self.blocked_until - now
        if self._measured_until is not None:
            self._measure(self._measured_until)
            self._measured_until = None
            if now < self.blocked_until:
                return self.blocked_until - now
        if self.meter is None:
            return 0.0
        self._grow(self.meter, now)
        return self.meter.wait(now, 1.0)

    def book(self, now: float) -> list[float]:
        """Note an admission; return its bucket, for `refused`."""
        if self.meter is not None:
            self.meter.book(now, 1.0)
        self._sent += 1
        bucket = self._bucket
        if now >= bucket[0] + BUCKET:
            bucket = self._bucket = [now, 0.0]
            self._buckets.append(bucket)
        bucket[1] += 1.0
        return bucket

    def answered(self) -> None:
        """Note an answer: the refusals in a row are over."""
        self._refusals = self._in_vain = 0

    def refund(self, bucket: list[float]) -> None:
        """Take back an admission of that bucket that was never sent."""
        # A bucket that is gone was booked in a meter that is gone too.
        if any(each is bucket for each in self._buckets):
            bucket[1] -= 1.0
            self._sent -= 1
            if self.meter is not None:
                self.meter.refund(1.0)

    def refused(
        self, now: float, retry_after: float | None, bucket: list[float], *, in_vain: bool = False
    ) -> float:
        """Note a 429 for a request of that bucket; return the seconds for which nothing goes.

        `in_vain`: no other request waits for its answer, so the service takes none.
        """
        bucket[1] -= 1.0
        self._refused += 1
        if now - self._refused_at >= 1.0 and now >= self.blocked_until:
            self._refusals += 1
        self._in_vain += in_vain
        retry_after = min(MAX_RETRY_AFTER, self._believed(retry_after))
        if self.meter is not None and now < self._cut_at + SOON:
            # An exact Retry-After may be 50 ms: measured over that, any pace is too high.
            retry_after = max(retry_after, self._cut_at + SOON - now)
            self._is_soon = True
        self._refused_at = self._grown_at = now
        self.pause(now + retry_after)
        self._measured_until = self.blocked_until
        return self.blocked_until - now

    def _believed(self, retry_after: float | None) -> float:
        if retry_after is None:
            return _backoff(self._refusals)
        if retry_after < FIRST_BACKOFF and self._in_vain > BELIEVED:
            return _backoff(self._in_vain - BELIEVED)
        return max(TELLING if self.is_shared else 0.0, retry_after)

    def pause(self, until: float) -> None:
        """Let nothing go before that time, which says nothing of the pace."""
        self.is_active = True
        self.blocked_until = max(self.blocked_until, until)

    def block(self, now: float, until: float, *, is_paced: bool) -> None:
        """Let nothing go before that time, for another process was refused.

        Unless it is paced by limits that both share, what waits here would go all at once then: it
        goes as fast as it went before, and begins at random, for all other processes begin, too.
        """
        self.pause(until)
        is_same = now - self._refused_at < 1.0
        if self._measured_until is None:
            if is_paced or now - self._refused_at < 2 * TELLING:
                return
            self._is_soon = self.meter is not None and now < self._cut_at + SOON
        self._measured_until = self.blocked_until
        self._scatters = not is_paced
        if not is_same:
            self._refused_at = self._grown_at = now

    @property
    def may_tell(self) -> bool:
        """Whether nothing was told yet of what was seen before this block."""
        return self._measured_until is not None and self._told is None

    def tell(self) -> Seen:
        """Return what was seen before this block and was not told yet."""
        now, told = self._seen(), self._told
        self._told = now
        if told is None:
            return now
        return Seen(now.sent - told.sent, now.refused - told.refused, 0.0, 0.0)

    def hear(self, seen: Seen) -> None:
        """Take what all processes of a fleet saw before this block."""
        if self._measured_until is not None:
            self._fleet = seen

    def _seen(self) -> Seen:
        if self.meter is None:
            return Seen(self._sent, self._refused, 0.0, 0.0)
        growth = self.meter.limit / self._cut_to - 1
        return Seen(self._sent, self._refused, self._sent * growth / 2, self.meter.limit)

    def _taken(self, until: float) -> tuple[float, float]:
        """Return the requests that were taken lately, and the best rate a minute, block included.

        However the service counts, it took that many in that time: so it will again.
        """
        count = best = 0.0
        for start, taken in reversed(self._buckets):
            count += taken
            best = max(best, count / max(1.0, until - start))
        self._buckets.clear()
        self._bucket = [-math.inf, 0.0]
        return count, 60.0 * best

    def _measure(self, until: float) -> None:
        """Set the pace to the best rate that was taken lately.

        In a fleet each takes its share of what all were told, so that they fall and rise together:
        of what one process sees alone, a refusal that another one met is no part.
        """
        count, best = self._taken(until)
        seen, fleet = self._seen(), self._fleet
        is_known = self._told is None or fleet is not None  # it was not told in time
        self._sent = self._refused = 0
        self._told = self._fleet = None
        if self.meter is not None and fleet is not None and fleet.limit > 0:
            seen = fleet
            taken = 60.0 * (seen.sent - seen.refused) / max(1.0, until - self._measured_at)
            best = taken * self.meter.limit / fleet.limit
        self._measured_at = until
        limit, burst = _limit(best), BURST
        if self.meter is None:
            self._is_guess = count < EVIDENCE
            if self._is_guess:
                limit = max(limit, GUESS)
        elif is_known and (kept := self._kept(self.meter, seen, limit)) is not None:
            limit, burst, self._is_guess = kept.limit, min(kept.burst, BURST), False
        else:
            limit, burst = self._lowered(self.meter, limit, seen), self.meter.burst / 2
        self._cut_at, self._is_soon = self._refused_at, False
        # A new one: what was booked was refused, or flowed off while nothing went.
        self.meter = Meter(max(SLOWEST, limit), burst=burst)
        self._cut_to = self.meter.limit
        if self._scatters:
            self._scatters = False
            self.blocked_until += uniform(0.0, min(MAX_BACKOFF, 60.0 / self.meter.limit))

    def _lowered(self, meter: Meter, limit: float, seen: Seen) -> float:
        """Return the limit that follows from the best rate that was taken."""
        before = meter.limit
        if self._is_guess:
            # Where several went at once, perhaps it was that and not the rate.
            self._is_guess = before / 60 * meter.burst > 1
            limit = before * DECREASE
        elif seen.sent < EVIDENCE:
            # What only others were refused leaves it as many as it would begin with.
            limit = max(before * DECREASE, 0.0 if seen.refused else min(before, GUESS))
        else:
            # When a burst that the service had saved up is used up, its best rate says little,
            # the share that it refused says more.
            limit = min(before, max(limit, before * (1 - seen.refused / seen.sent)))
        return max(limit, before * DECREASE) if self._is_soon else limit

    def _kept(self, meter: Meter, seen: Seen, taken: float) -> Speed | None:
        """Return how fast to go on if the refusals do not depend on the pace."""
        self._random = self._random or RandomRefusals()
        return self._random.speed(
            Speed(meter.limit, meter.burst), seen.sent, seen.refused, seen.explained, taken
        )

    def _grow(self, meter: Meter, now: float) -> None:
        seconds = int(now - self._grown_at)
        if seconds >= 1:
            self._grown_at += seconds
            calm = now - self._refused_at
            growth = SEARCH if self._is_guess else INCREASE * (1.0 + calm / CALM)
            meter.set_limit(meter.limit * (1.0 + growth * min(seconds, 60)))


def _backoff(refusals: int) -> float:
    doublings = max(0, min(refusals - 1, 40))  # 1023 of them overflow
    return min(MAX_BACKOFF, FIRST_BACKOFF * 2.0**doublings)


def _limit(rate: float) -> float:
    """Return the limit a minute whose meter runs at `rate` a minute."""
    return rate * (60.0 + BURST) / 60.0
