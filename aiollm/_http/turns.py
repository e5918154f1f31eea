"""Turns of the event loop between the bytes of a reply that are there already.

A read that finds bytes does not wait, so a loop over such reads would keep deadlines, cancellation
and all other tasks from running.
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Awaitable, Callable
from typing import TypeAlias

TURN = 64 * 1024
"""Bytes between two turns at most: what a plain socket reads at once."""

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Waits for bytes and returns them, b"" at the end."""


class Turns:
    """Reads at most `TURN` bytes at once, and lets others run between two times as many."""

    __slots__ = ("_at", "_data", "_left", "_read")

    def __init__(self, read: Read, data: bytes = b"") -> None:
        """Begin with `data`, then go on with `read`."""
        self._read = read
        self._data = data
        self._at = 0
        self._left = TURN

    async def read(self) -> bytes:
        """Return what comes, b"" at the end. Raises: what the other `read` raises."""
        if self._left <= 0:
            self._left = TURN
            await sleep(0)
        if self._at >= len(self._data):
            self._data = await self._read()
            self._at = 0
        piece = self._data[self._at : self._at + TURN]
        self._at += len(piece)
        self._left -= len(piece)
        return piece
