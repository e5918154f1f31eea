"""When the rows of a run ended, in bounded memory: intervals that grow with the run."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from aiollm.bulk.report import Interval

PAUSE = 60.0
"""Seconds without a row under way that are not part of the run: it was stopped and resumed."""
MOST_BINS, MOST_SPANS = 240, 32
FIRST_WIDTH = 0.25
"""Seconds of a bin at first; they double whenever the run needs more than `MOST_BINS`."""


class Timeline:
    """Rows by the time they ended; `seconds` is how long rows were under way.

    Spans are the times in which rows were under way, each of them with at least `PAUSE` to the
    next. Bins have their place on the wall clock and hold the rows that ended in them.
    """

    __slots__ = ("_begins", "_bins", "_ends", "_width", "seconds")

    def __init__(self) -> None:
        self._width = FIRST_WIDTH
        self._bins: dict[int, list[int]] = {}
        self._begins: list[float] = []
        self._ends: list[float] = []
        self.seconds: float = 0.0

    def add(self, started: float, ended: float, *, failed: bool, tokens: int) -> None:
        """Count a row that was under way from `started` to `ended`, in seconds since 1970."""
        self._cover(started, ended)
        while self.seconds > self._width * MOST_BINS:
            self._double()
        index = int(ended // self._width)
        found = self._bins.get(index)
        if found is None:
            found = self._bins[index] = [0, 0, 0]
        found[failed] += 1
        found[2] += tokens

    def _cover(self, started: float, ended: float) -> None:
        begins, ends = self._begins, self._ends
        first = bisect_left(ends, started - PAUSE)
        after = bisect_right(begins, ended + PAUSE)
        if first < after:
            started, ended = min(started, begins[first]), max(ended, ends[after - 1])
        begins[first:after], ends[first:after] = [started], [ended]
        if len(begins) > MOST_SPANS:
            self._join()
        self.seconds = sum(ends) - sum(begins)

    def _join(self) -> None:
        """Take the shortest pause for a part of the run."""
        pauses = [later - end for later, end in zip(self._begins[1:], self._ends, strict=False)]
        at = pauses.index(min(pauses))
        del self._begins[at + 1], self._ends[at]

    def _double(self) -> None:
        self._width *= 2
        bins: dict[int, list[int]] = {}
        for index, found in self._bins.items():
            half = bins.get(index // 2)
            bins[index // 2] = found if half is None else [*map(sum, zip(half, found, strict=True))]
        self._bins = bins

    @property
    def started(self) -> float | None:
        """When the first row started, None before there is one."""
        return self._begins[0] if self._begins else None

    def intervals(self) -> tuple[Interval, ...]:
        """Return the bins of all spans, without the pauses between them."""
        covered: dict[int, float] = {}
        width = self._width
        for started, ended in zip(self._begins, self._ends, strict=True):
            for index in range(int(started // width), int(ended // width) + 1):
                part = min(ended, (index + 1) * width) - max(started, index * width)
                covered[index] = covered.get(index, 0.0) + part
        intervals: list[Interval] = []
        at = 0.0
        for index, seconds in covered.items():
            answered, failed, tokens = self._bins.get(index, (0, 0, 0))
            intervals.append(Interval(at, seconds, answered, failed, tokens))
            at += seconds
        return tuple(intervals)
