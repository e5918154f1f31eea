"""Gates: a test, not a clock, decides when a script continues."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

WITHIN = 5.0
"""Seconds that a test waits for a server to do something, before TimeoutError."""


class Signal:
    """Lets coroutines of any loop and thread wait until a condition is true."""

    def __init__(self) -> None:
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def changed(self) -> None:
        """Wake those whose condition is now true; call it after each change."""
        for holds, future in list(self._waiters):
            if holds():
                _wake(future)

    async def until(
        self, holds: Callable[[], bool], shown: Callable[[], str], within: float | None
    ) -> None:
        """Wait until `holds()`. Raises: TimeoutError with `shown()` after `within` s."""
        if holds():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiter = (holds, future)
        self._waiters.append(waiter)
        # Another thread may have made it true between the check and the append.
        if holds():
            _wake(future)
        expired = False
        try:
            async with asyncio.timeout(within):
                await future
        except TimeoutError:
            expired = True
        finally:
            self._waiters.remove(waiter)
        if expired and not holds():
            raise TimeoutError(f"after {within} s still waiting for {shown()}")


def _wake(future: asyncio.Future[None]) -> None:
    loop = future.get_loop()
    if not loop.is_closed():
        loop.call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Gate:
    """A place where a script waits until the test opens it; safe to use from any thread."""

    def __init__(self, *, opened: bool = False) -> None:
        self.arrivals: int = 0
        self._opened = opened
        self._permits: deque[None] = deque()
        self._signal = Signal()

    def __repr__(self) -> str:
        return f"Gate({'open' if self._opened else 'closed'}, arrivals={self.arrivals})"

    def open(self) -> None:
        """Let everyone through, now and later."""
        self._opened = True
        self._signal.changed()

    def close(self) -> None:
        """Hold everyone who arrives from now on."""
        self._opened = False

    def let(self, count: int = 1) -> None:
        """Let `count` arrivals through, waiting or to come."""
        self._permits.extend([None] * count)
        self._signal.changed()

    async def reached(self, count: int = 1, within: float | None = WITHIN) -> None:
        """Wait until scripts have arrived `count` times. Raises: TimeoutError."""

        def shown() -> str:
            return f"arrival {count} at a gate; so far {self.arrivals}"

        await self._signal.until(lambda: self.arrivals >= count, shown, within)

    async def passes(self) -> None:
        """Arrive and wait to be let through; for scripts."""
        self.arrivals += 1
        self._signal.changed()
        while not self._admits():
            await self._signal.until(self._is_free, lambda: "a gate to open", None)

    def _is_free(self) -> bool:
        return self._opened or bool(self._permits)

    def _admits(self) -> bool:
        if self._opened:
            return True
        try:
            self._permits.pop()
        except IndexError:
            return False
        return True
