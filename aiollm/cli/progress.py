"""How far a long command is: one line that is written again, or a line now and then in a log."""

from __future__ import annotations

import asyncio
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from types import TracebackType
from typing import Any, Self

from aiollm._bulk.row import Row
from aiollm._bulk.run import MapRun
from aiollm.cli.terminal import clear_progress, complain, is_animated, note, show_progress
from aiollm.errors import ConfigError
from aiollm.registry import Registry

EVERY, RARELY = 0.25, 30.0
"""Seconds between two lines: on a terminal, and elsewhere."""

LATELY = 15.0
"""Seconds over which the rate is measured."""


class Progress(ABC):
    """Shows on standard error how far the work is, until it is left."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._lately: deque[tuple[float, tuple[int, int]]] = deque([(self._began, (0, 0))])
        # Answers on the same terminal would be written into the line.
        self._is_live = is_animated(sys.stderr) and not sys.stdout.isatty()
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        self._wait()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_live:
            clear_progress()
        if not isinstance(error, ConfigError):  # with one, nothing was begun
            complain(self._line(is_over=True))

    def say(self, text: str) -> None:
        """Print a message above the line."""
        if self._is_live:
            clear_progress()
        complain(text)

    @abstractmethod
    def _line(self, *, is_over: bool = False) -> str:
        """Return how far the work is, or what has become of it."""

    @property
    def _seconds(self) -> float:
        """The seconds since it began."""
        return time.monotonic() - self._began

    def _wait(self) -> None:
        seconds = EVERY if self._is_live else RARELY
        self._timer = asyncio.get_running_loop().call_later(seconds, self._show)

    def _show(self) -> None:
        text = self._line()
        if self._is_live:
            show_progress(text)
        else:
            note(text)
        self._wait()

    def _rates(self, counts: tuple[int, int], *, is_over: bool) -> tuple[float, float]:
        """Return how much of two counts comes in a second: lately, or in all when it is over."""
        now, lately = time.monotonic(), self._lately
        began, before = self._began, (0, 0)
        if not is_over:
            lately.append((now, counts))
            while len(lately) > 2 and now - lately[1][0] > LATELY:
                lately.popleft()
            began, before = lately[0]
        seconds = max(0.001, now - began)
        return (counts[0] - before[0]) / seconds, (counts[1] - before[1]) / seconds


class RowProgress(Progress):
    """Counts rows."""

    def __init__(
        self, rows: MapRun[Any], registry: Registry, total: int | None, shards: int
    ) -> None:
        """`total` is the number of lines, None if unknown, of which one in `shards` is asked."""
        super().__init__()
        self._rows = rows
        self._registry = registry
        self._total = total
        self._shards = shards
        self._done = self._failed = 0
        self._tokens = 0
        self._usd = 0.0
        self.is_complete = False
        """Whether no row is left."""

    def add(self, row: Row[Any]) -> None:
        """Count a row."""
        self._done += 1
        self._failed += row.error is not None
        if row.response is not None:
            self._tokens += row.response.usage.output_tokens
        self._usd += (row.cost.usd or 0.0) + (row.cost.lost or 0.0)

    def _line(self, *, is_over: bool = False) -> str:
        rate, speed = self._rates((self._done, self._tokens), is_over=is_over)
        parts = [f"{self._done} done", f"{self._failed} failed"]
        if self.is_complete and self._shards == 1 and self._rows.pulled > self._done:
            parts.append(f"{self._rows.pulled - self._done} answered before")
        parts.append(f"{figure(rate)} rows/s")
        if self._tokens:
            parts.append(f"{figure(speed)} tokens/s")
        if self._usd:
            parts.append(f"${self._usd:.4g}")
        if is_over:
            return ", ".join([*parts, f"in {time_text(self._seconds)}"])
        waiting = sum(each.waiting for each in self._registry.limits())
        parts.append(f"{self._rows.under_way} under way")
        if waiting:
            parts.append(f"{waiting} waiting for limits")
        if self._total is not None and rate > 0:
            left = (self._total - self._rows.pulled) / self._shards + self._rows.under_way
            parts.append(f"{time_text(max(0.0, left) / rate)} left")
        return ", ".join(parts)


def figure(number: float) -> str:
    """Return a rate in three digits, or as a whole number."""
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def time_text(seconds: float) -> str:
    """Return seconds as minutes and seconds, with hours if there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
