"""A stream's items with a sign of life while nothing comes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Self, TypeVar

from aiollm._streams.background import BackgroundRead
from aiollm.errors import ConfigError
from aiollm.types import Status

Y = TypeVar("Y")


class Heartbeat(Generic[Y]):
    """Iterates a stream or a run; yields a `Status` after every `seconds` without an item.

    Each read runs in a task of its own, because one that is cancelled would end the stream. Only
    that read goes on while the caller handles a `Status`.
    """

    __slots__ = ("__weakref__", "_break_off", "_read", "_reader", "_seconds", "_silent")

    def __init__(
        self,
        reader: AsyncIterator[Y],
        break_off: Callable[[asyncio.Task[None]], Awaitable[None]],
        seconds: float,
    ) -> None:
        """Read `reader`, which stays the caller's to close. Raises: ConfigError.

        `break_off` ends it when the wait for a read is cancelled.
        """
        self._read: BackgroundRead[Y] | None = None
        if type(seconds) not in {int, float} or not 0 < seconds < math.inf:
            raise ConfigError(f"heartbeat is {seconds!r:.80}: expected seconds above 0")
        self._reader = reader
        self._break_off = break_off
        self._seconds = seconds
        self._silent = 0.0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Y | Status:
        """Return the next item, or a `Status`. Raises: as the stream itself."""
        read = self._read
        if read is None:
            read = self._read = BackgroundRead(self._reader.__anext__)
            self._silent = 0.0
        try:
            await asyncio.wait((read.task,), timeout=self._seconds)
        except asyncio.CancelledError:
            self._read = None
            await self._break_off(read.task)
            raise
        if not read.task.done():
            self._silent += self._seconds
            return Status(f"nothing came for {self._silent:g} s")
        self._read = None
        return read.outcome()

    def __del__(self) -> None:
        if self._read is not None and not self._read.task.done():
            loop = self._read.task.get_loop()
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._read.task.cancel)
