"""What many numbers look like, in bounded memory: their quantiles within 1 %."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from aiollm.bulk.report import Bucket, Distribution

ERROR = 0.01
"""How far a quantile is from the true one at most, as a share of it."""
LEAST, MOST = 1e-9, 1e15
"""Magnitudes between which that holds; what is smaller counts as 0, what is larger as `MOST`."""

_BASE = (1 + ERROR) / (1 - ERROR)
_SCALE = 1 / math.log(_BASE)
_SHIFT = 1 - math.ceil(math.log(LEAST) * _SCALE)  # so that the index of `LEAST` is 1


class Sketch:
    """Counts of numbers in buckets, each of which is 2 % wider than the one before.

    At most some 2,800 buckets for each sign are ever used; latencies of one run take about 300.
    """

    __slots__ = ("_counts", "count", "least", "most", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count: int = 0
        self.total: float = 0.0
        self.least: float = math.inf
        self.most: float = -math.inf

    def add(self, value: float) -> None:
        """Count a finite number."""
        size = value if value >= 0 else -value
        if size < LEAST:
            index = 0
        else:
            index = math.ceil(math.log(min(MOST, size)) * _SCALE) + _SHIFT
            if value < 0:
                index = -index
        self._counts[index] = self._counts.get(index, 0) + 1
        self.count += 1
        self.total += value
        # Comparisons take a third of the time of `min` and `max`, and most rows come by here twice.
        if value < self.least:  # noqa: PLR1730
            self.least = value
        if value > self.most:  # noqa: PLR1730
            self.most = value

    def update(self, other: Sketch) -> None:
        """Add all that another one counted; the error does not grow."""
        for index, times in other._counts.items():
            self._counts[index] = self._counts.get(index, 0) + times
        self.count += other.count
        self.total += other.total
        self.least = min(self.least, other.least)
        self.most = max(self.most, other.most)

    def quantile(self, share: float) -> float:
        """Return about the least number that a share of all, such as 0.95, are at or below."""
        rank = rank_of(share, self.count)
        if rank == self.count - 1:
            return self.most
        for index, times in sorted(self._counts.items()):
            rank -= times
            if rank < 0:
                return min(max(_middle(index), self.least), self.most)
        raise ValueError("nothing was counted")

    def spread(self, edges: Sequence[float]) -> list[int]:
        """Return how many numbers are between each two edges, which must hold all of them.

        A bucket that an edge cuts is shared out by its width. The counts add up.
        """
        shares = [0.0] * (len(edges) - 1)
        at = 0
        for low, high, times in self._buckets():
            while at < len(shares) - 1 and edges[at + 1] <= low:
                at += 1
            for bar in range(at, len(shares)):
                covered = max(0.0, min(high, edges[bar + 1]) - max(low, edges[bar]))
                shares[bar] += times * covered / (high - low) if high > low else times
                if edges[bar + 1] >= high:
                    break
        return _rounded(shares)

    def _buckets(self) -> Iterator[tuple[float, float, int]]:
        for index, times in sorted(self._counts.items()):
            low, high = _bounds(index)
            yield max(low, min(self.least, high)), min(high, max(self.most, low)), times

    def bars(self, most: int) -> int:
        """Return how many bars show what is known of positive numbers, at most so many."""
        known = math.ceil(math.log(self.most / self.least) * _SCALE) if self.least > 0 else most
        return max(1, min(most, known))


def rank_of(share: float, count: int) -> int:
    """Return which of so many sorted numbers, from 0 on, is their quantile."""
    return max(0, math.ceil(share * count - 1e-9) - 1)  # 0.07 * 100 is a little more than 7


def _bounds(index: int) -> tuple[float, float]:
    if index == 0:
        return 0.0, 0.0
    high = _BASE ** (abs(index) - _SHIFT)
    return (high / _BASE, high) if index > 0 else (-high, -high / _BASE)


def _middle(index: int) -> float:
    """Return the number that is at most `ERROR` from both ends of a bucket."""
    low, high = _bounds(index)
    return 2 * low * high / (low + high) if index else 0.0


def _rounded(shares: Sequence[float]) -> list[int]:
    counts: list[int] = []
    total = 0.0
    for share in shares:
        total += share
        counts.append(round(total) - sum(counts))
    return counts


def distribution(sketch: Sketch, edges: Sequence[float]) -> Distribution:
    """Describe what was counted, which is not nothing, with a bucket between each two edges."""
    counts = sketch.spread(edges)
    buckets = tuple(map(Bucket, edges, edges[1:], counts))
    return Distribution(
        count=sketch.count,
        mean=sketch.total / sketch.count,
        min=sketch.least,
        p50=sketch.quantile(0.5),
        p95=sketch.quantile(0.95),
        p99=sketch.quantile(0.99),
        max=sketch.most,
        buckets=buckets,
    )


def even_factors(least: float, most: float, bars: int) -> list[float]:
    """Return edges that are a constant factor apart, for times."""
    if most <= least:
        return [least, most]
    step = math.log(most / least) / bars
    return [least, *(least * math.exp(step * at) for at in range(1, bars)), most]


def even_steps(least: float, most: float, bars: int) -> list[float]:
    """Return edges at round numbers a constant step apart, for scores."""
    if most - least <= max(abs(least), abs(most)) * 1e-9:  # steps could not tell them apart
        return [least, most]
    step = round_step(most - least, bars)
    first = math.floor(least / step)
    last = max(first + 1, math.ceil(most / step))
    return [at * step for at in range(first, last + 1)]


def round_step(width: float, parts: int) -> float:
    """Return the least of 1, 2 and 5 times a power of ten that cuts a width into so many parts."""
    if width <= 0:
        return 1.0
    rough = width / parts
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * by for by in (1, 2, 5, 10) if power * by >= rough * (1 - 1e-9))
