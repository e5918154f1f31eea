"""Turns of the event loop between the bytes of a reply that are there already.

A read that finds bytes does not wait, so a loop over such reads would keep deadlines, cancellation
and all other tasks from running. Bytes can be slow to decode, so it is time that counts, too.
"""

from __future__ import annotations

from asyncio import sleep
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import TypeAlias

TURN = 64 * 1024
"""Bytes between two turns at most: what a plain socket reads at once."""

PIECE = 16 * 1024
"""Bytes of a first piece: some 0.2 ms of usual work, 7 ms of the dearest known."""

_LEAST = 2 * 1024
_QUICK, _SLOW = 0.0005, 0.002
"""Seconds of work on a piece below which the next is twice as large, and above which it is half."""

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Waits for bytes and returns them, b"" at the end."""


class Turns:
    """Reads pieces of at most `TURN` bytes, and lets others run between two.

    Pieces whose work takes long become smaller.
    """

    __slots__ = ("_at", "_data", "_left", "_piece", "_read", "_since")

    def __init__(self, read: Read, data: bytes = b"", piece: int = TURN) -> None:
        """Begin with `data`, cut into pieces of `piece` bytes, then go on with `read`."""
        self._read = read
        self._data = data
        self._at = 0
        self._piece = piece
        self._left = 0 if data else piece
        self._since = 0.0

    async def read(self) -> bytes:
        """Return what comes, b"" at the end. Raises: what the other `read` raises."""
        if self._since:
            self._adapt(monotonic() - self._since)
        if self._left <= 0:
            self._left = self._piece
            await sleep(0)
        if self._at >= len(self._data):
            self._data = await self._read()
            self._at = 0
        piece = self._data[self._at : self._at + self._piece]
        self._at += len(piece)
        self._left -= len(piece)
        self._since = monotonic()
        return piece

    def _adapt(self, seconds: float) -> None:
        """Take larger or smaller pieces after so many seconds of work on the last one."""
        if seconds > _SLOW:
            self._piece = max(_LEAST, self._piece // 2)
        elif seconds < _QUICK:
            self._piece = min(TURN, self._piece * 2)
