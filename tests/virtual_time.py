"""Event loops in virtual time: an hour takes some milliseconds, and every run is the same."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop that does not sleep: its clock jumps to the next timer.

    It stands still while a thread works, such as one that imports what a first call needs.
    """

    def __init__(self, now: float = 1000.0) -> None:
        super().__init__()
        self.now = now
        self._in_threads = 0

    def time(self) -> float:
        return self.now

    def run_in_executor(self, *work: Any) -> asyncio.Future[Any]:
        future = super().run_in_executor(*work)
        self._in_threads += 1
        future.add_done_callback(self._back)
        return future

    def _back(self, _: object) -> None:
        self._in_threads -= 1

    def _run_once(self) -> None:
        timers = self._scheduled
        while timers and timers[0]._cancelled:
            heapq.heappop(timers)._scheduled = False
            self._timer_cancelled_count -= 1
        if timers and not self._ready and not self._in_threads:
            self.now = max(self.now, timers[0]._when)
        super()._run_once()


def in_virtual_time(scenario: Callable[[VirtualLoop], Coroutine[Any, Any, None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(scenario(loop))
    finally:
        loop.close()
