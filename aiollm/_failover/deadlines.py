"""Deadlines: one timer for all attempts of a loop, which interrupts the wait that is overdue.

No scope spans a `yield`: the task that waits for the next batch registers itself for that wait
alone, so a generator may move from one task to another between two waits.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any, Literal, TypeAlias

import msgspec

from aiollm._time_limits import CATCHES_UP, LATE
from aiollm.errors import ClosedError, DeadlineError, DeadlineName, LLMError, StreamInterrupted
from aiollm.types import Timeouts

Cause: TypeAlias = DeadlineName | Literal["closed"]
_TEXT = {
    "first_output": "no output within {} s",
    "idle": "no byte for {} s",
    "stall": "bytes, but no output for {} s",
    "total": "the call took longer than {} s",
}


class Watchdog:
    """The timer of a loop, set for the earliest deadline of all watches.

    A timer per stream, rearmed at every read, would cost more than the parsing. Deadlines only
    move later while bytes arrive, so it is enough to look again when the timer fires.
    """

    __slots__ = ("_attempts", "_timer", "_when", "closed", "loop", "time")

    def __init__(self) -> None:
        """Belong to the running loop."""
        self.loop = loop = asyncio.get_running_loop()
        # What asyncio's own loops go by, less a call in between.
        own = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
        self.time = time.monotonic if own else loop.time
        self.closed = False
        self._attempts: set[AttemptDeadlines] = set()
        self._timer: asyncio.Handle | None = None
        self._when = float("inf")

    def add(self, deadlines: AttemptDeadlines, when: float) -> None:
        """Watch deadlines, the first of which is due at loop time `when`."""
        self._attempts.add(deadlines)
        if when < self._when:
            self.expect(when)

    def discard(self, deadlines: AttemptDeadlines) -> None:
        """Stop watching; with the last one, an idle loop has no timer."""
        self._attempts.discard(deadlines)

    def expect(self, when: float) -> None:
        """Look again at loop time `when` at the latest."""
        if when >= self._when:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._when = when
        self._timer = self.loop.call_at(when, self._look)

    def close(self) -> None:
        """End all waits, those to come included: the registry is closed."""
        self.closed = True
        for deadlines in tuple(self._attempts):
            deadlines.interrupt("closed", 0.0)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._when = float("inf")

    def _look(self, looks: int = 2) -> None:
        late = self.time() - self._when
        if looks and late > LATE:
            # It was this process that stood still. What came meanwhile is read first.
            self._timer = self.loop.call_later(min(late, CATCHES_UP), self._look, looks - 1)
            return
        self._timer = None
        self._when = float("inf")
        now = self.time()
        nearest = float("inf")
        for deadlines in tuple(self._attempts):
            when, which, seconds = deadlines.due(now)
            if when <= now:
                deadlines.interrupt(which, seconds)
            else:
                nearest = min(nearest, when)
        self.expect(nearest)


class AttemptDeadlines:
    """Guards the waits of one attempt; holds no reference to what is awaited."""

    __slots__ = (
        "_alive_at",
        "_cancelling",
        "_limits",
        "_total_at",
        "_waited",
        "_watchdog",
        "fired",
        "silent",
        "started",
        "task",
    )

    def __init__(self, watchdog: Watchdog, limits: Timeouts, total_at: float | None) -> None:
        """`total_at` is the loop time at which the call ends."""
        self._watchdog = watchdog
        self._limits = limits
        self._total_at = total_at
        self.task: asyncio.Task[Any] | None = None
        self.fired: tuple[Cause, float] | None = ("closed", 0.0) if watchdog.closed else None
        self._alive_at: float | None = None
        self.silent: float | None = None
        """Seconds of waiting since the last output, up to the last bytes; None before any."""
        self.started = now = watchdog.time()
        seconds = limits.first_output or 0.0
        if limits.stall is not None and limits.stall < seconds:
            seconds = limits.stall
        watchdog.add(self, now + seconds)
        if total_at is not None:
            watchdog.expect(max(total_at, now))

    @property
    def is_held(self) -> bool:
        """Whether the attempt's own deadlines have not begun: nothing was sent yet."""
        return self.started == math.inf

    def hold(self) -> None:
        """Let no deadline but that of the call pass until the next sign of life."""
        self.started = math.inf

    def alive(self) -> None:
        """Note that bytes arrived."""
        now = self._watchdog.time()
        if self._alive_at is None:
            if self.is_held:
                self.started = now  # what came is this process's own
                self._watchdog.expect(now)
                return
            self._waited = now - self.started
            if self._limits.idle is not None:
                self._watchdog.expect(now + self._limits.idle)
        elif self.task is not None:  # else nobody waited: the caller's own pause is left out
            if self.silent is not None:
                self.silent += now - self._alive_at
            else:
                self._waited += now - self._alive_at
        self._alive_at = now

    def output(self) -> float:
        """Note the first output; return the loop time. From then on, `silent = 0.0` notes it."""
        now = self._watchdog.time()
        if self._alive_at is None and self._limits.idle is not None:
            self._watchdog.expect(now + self._limits.idle)
        self._alive_at = now
        self.silent = 0.0
        return now

    def begin(self, task: asyncio.Task[Any]) -> None:
        """Note that `task` waits from now on, up to `end`; nothing has `fired` by then."""
        self._cancelling = task.cancelling()
        if self._alive_at is not None:
            # The caller's own pause since the last wait is not the server's: it is left out.
            time = self._watchdog.time  # to call it as a method would take longer
            self._alive_at = time()
            if self._total_at is not None:
                # A time that is past would look as if this process had stood still.
                self._watchdog.expect(max(self._total_at, self._alive_at))
        self.task = task

    def end(self, error: BaseException | None = None) -> bool:
        """Note the end of a wait, and the error that ended it.

        Returns whether it was a deadline that did, for which `error` has words.
        """
        task, self.task = self.task, None
        if self.fired is None or task is None:
            return False
        left = task.uncancel()
        if error is None:
            return True
        return isinstance(error, asyncio.CancelledError) and left <= self._cancelling

    def due(self, now: float) -> tuple[float, DeadlineName, float]:
        """Return the loop time of the next deadline, which one it is, and its seconds.

        A pause of the caller between two waits does not count, but for `total`, which only ends
        a wait.
        """
        limits, alive_at, silent = self._limits, self._alive_at, self.silent
        nearest: tuple[float, DeadlineName, float] = (float("inf"), "total", 0.0)
        if self._total_at is not None and (self.task is not None or alive_at is None):
            nearest = (self._total_at, "total", limits.total or 0.0)
        since = self.started
        if alive_at is not None:
            if self.task is None:
                alive_at = now
            since = alive_at - (self._waited if silent is None else silent)
            if limits.idle is not None:
                nearest = min(nearest, (alive_at + limits.idle, "idle", limits.idle))
        if silent is None and limits.first_output is not None:
            when = since + limits.first_output
            nearest = min(nearest, (when, "first_output", limits.first_output))
        if limits.stall is not None:
            nearest = min(nearest, (since + limits.stall, "stall", limits.stall))
        return nearest

    def interrupt(self, cause: Cause, seconds: float) -> None:
        """End the current wait with an error, or else the next."""
        if self.fired is None:
            self.fired = (cause, seconds)
            if self.task is not None:
                self.task.cancel()

    def is_paused(self) -> bool:
        """Return whether nothing awaits the next batch: the caller is doing something else."""
        return self.task is None

    def stop(self) -> None:
        """Stop watching; idempotent."""
        self._watchdog.discard(self)

    def error(self) -> LLMError:
        """End a wait that was interrupted; return the error to raise."""
        self.end()
        assert self.fired is not None
        cause, seconds = self.fired
        if cause != "closed":
            return DeadlineError(_TEXT[cause].format(f"{seconds:g}"), which=cause, after=seconds)
        if self.silent is not None:
            return StreamInterrupted("the registry was closed")
        return ClosedError("the registry was closed")


def at_least(timeouts: Timeouts, seconds: float) -> Timeouts:
    """Return the deadlines with at least `seconds` for each wait but that for a connection."""
    waits = {name: getattr(timeouts, name) for name in ("first_output", "idle", "stall")}
    short = {
        name: seconds for name, limit in waits.items() if limit is not None and limit < seconds
    }
    return msgspec.structs.replace(timeouts, **short) if short else timeouts


def is_total(error: Exception) -> bool:
    """Return whether the deadline of the call ended the attempt."""
    return isinstance(error, DeadlineError) and error.which == "total"
