"""Deadlines of one attempt: a single lazily rearmed timer that interrupts one wait.

No scope spans a `yield`: whoever waits for the next batch registers its task for that wait
alone, so a generator may move from one task to another between two waits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from typing import TypeVar

from aiollm.errors import Deadline, DeadlineError
from aiollm.types import Timeouts

T = TypeVar("T")

_TEXT = {
    "first_output": "no output within {} s",
    "idle": "no byte for {} s",
    "stall": "bytes, but no output for {} s",
    "total": "the call took longer than {} s",
    "connect": "no connection within {} s",
}


class Watch:
    """Guards the waits of one attempt; holds no reference to what is awaited."""

    __slots__ = (
        "_cancelling",
        "_fired",
        "_loop",
        "_task",
        "_timeouts",
        "_timer",
        "_total_at",
        "alive_at",
        "output_at",
        "started",
    )

    def __init__(self, timeouts: Timeouts, total_at: float | None) -> None:
        """`total_at` is the loop time at which the whole call ends."""
        self._loop = asyncio.get_running_loop()
        self._timeouts = timeouts
        self._total_at = total_at
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired: tuple[Deadline, float] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.started = self._loop.time()
        self.alive_at: float | None = None
        self.output_at: float | None = None

    def alive(self) -> None:
        """Note that bytes arrived."""
        if self.alive_at is None:
            # The idle deadline begins, and may be due before the one the timer is set for.
            self.stop()
        self.alive_at = self._loop.time()

    def output(self) -> None:
        """Note that output arrived."""
        self.output_at = self._loop.time()

    async def wait(self, awaitable: Awaitable[T]) -> T:
        """Await under the deadlines. Raises: DeadlineError, and whatever the awaitable raises."""
        task = asyncio.current_task()
        assert task is not None
        self._cancelling = task.cancelling()
        if self.alive_at is not None:
            self._resume(self.alive_at)
        self._task = task
        if self._timer is None:
            self._check()
        try:
            return await awaitable
        except asyncio.CancelledError:
            if self._fired is None or task.cancelling() - 1 > self._cancelling:
                raise
        finally:
            self._task = None
            if self._fired is not None:
                task.uncancel()
        which, seconds = self._fired
        raise DeadlineError(_TEXT[which].format(f"{seconds:g}"), which=which, after=seconds)

    def _resume(self, left_at: float) -> None:
        """Leave out the caller's own pause since the last wait: it is not the server's."""
        self.alive_at = self._loop.time()
        if self.output_at is not None:
            self.output_at += self.alive_at - left_at

    async def next(self, generator: AsyncGenerator[T, None]) -> T:
        """Await the next batch. Raises: as `wait`, StopAsyncIteration at the end."""
        return await self.wait(generator.__anext__())

    def stop(self) -> None:
        """Forget the timer; idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self) -> None:
        self._timer = None
        if self._task is None:
            return
        due = self._next_due()
        if due is None:
            return
        at, which, seconds = due
        if at > self._loop.time():
            self._timer = self._loop.call_at(at, self._check)
        else:
            self._fired = (which, seconds)
            self._task.cancel()

    def _next_due(self) -> tuple[float, Deadline, float] | None:
        limits = self._timeouts
        dues: list[tuple[float, Deadline, float]] = []
        if self._total_at is not None:
            dues.append((self._total_at, "total", limits.total or 0.0))
        if self.output_at is None and limits.first_output is not None:
            dues.append((self.started + limits.first_output, "first_output", limits.first_output))
        if self.alive_at is not None and limits.idle is not None:
            dues.append((self.alive_at + limits.idle, "idle", limits.idle))
        if limits.stall is not None:
            since = self.started if self.output_at is None else self.output_at
            dues.append((since + limits.stall, "stall", limits.stall))
        return min(dues, default=None)
