"""Limits of time that leave out what this process stood still for: stopped, or busy."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

BEAT = 1.0
"""Seconds after which whatever waits looks at the latest, to see how long this process stood
still: no more of that counts."""

LATE = 0.05
"""Seconds by which a timer may fire late; with more, this process stood still."""

CATCHES_UP = 0.5
"""Seconds, for each of two looks, in which it reads what came meanwhile, at most as long as it
stood still. Turns of the loop are not enough: a large answer comes piece by piece, and a process
that was stopped goes on with a turn that reads nothing."""


class Timer:
    """Calls a function once: after so many seconds in which its loop ran, or at a time."""

    def __init__(
        self, seconds: float, call: Callable[..., object], *args: Any, until: float = math.inf
    ) -> None:
        """Start. `until` is the loop time at which it calls at the latest."""
        self._loop = asyncio.get_running_loop()
        self._seconds, self._until = seconds, until
        self._call, self._args = call, args
        self._spent, self._looks = 0.0, 2
        self._began = now = self._loop.time()
        self._start(min(seconds, until - now))

    @property
    def spent(self) -> float:
        """The seconds that have passed, but for those for which this process stood still."""
        return self._spent + min(self._loop.time() - self._began, self._next)

    def cancel(self) -> None:
        """Call nothing from now on; idempotent."""
        if self._handle is not None:
            self._handle.cancel()

    def _start(self, rest: float) -> None:
        self._next = max(0.0, min(rest, BEAT))
        when = self._began + self._next
        self._handle: asyncio.Handle | None = self._loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._handle = None  # it holds this timer
        now = self._loop.time()
        late = now - self._began - self._next
        self._spent, self._began = self._spent + self._next, now
        rest = min(self._seconds - self._spent, self._until - now)
        if late > LATE and rest < CATCHES_UP and self._looks:
            self._looks -= 1
            rest = max(rest, min(late, CATCHES_UP))
        self._next = 0.0
        if rest > 0:
            self._start(rest)
        else:
            self._call(*self._args)


class TimeLimit:
    """As `asyncio.timeout`, but with a `Timer`."""

    def __init__(self, seconds: float | None, until: float | None = None) -> None:
        """`until` is the loop time at which it ends at the latest."""
        self._seconds = math.inf if seconds is None else seconds
        self._until = math.inf if until is None else until
        self._scope = asyncio.timeout(None)
        self._timer: Timer

    async def __aenter__(self) -> Self:
        await self._scope.__aenter__()
        end = self._scope.reschedule
        self._timer = Timer(self._seconds, end, -math.inf, until=self._until)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        await self._scope.__aexit__(kind, error, traceback)

    @property
    def spent(self) -> float:
        """The seconds that have passed, but for those for which this process stood still."""
        return self._timer.spent

    def expired(self) -> bool:
        """Return whether the time is up."""
        return self._scope.expired()


async def wait(future: asyncio.Future[Any], seconds: float | None) -> None:
    """Wait for a future, but no longer than so many seconds; it goes on without this wait."""
    with suppress(TimeoutError):
        async with TimeLimit(seconds):
            await asyncio.wait((future,))
