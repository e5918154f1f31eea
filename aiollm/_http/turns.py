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
"""Bytes of an answer that are decoded in one go: some 0.1 ms of usual work, 2 ms of the dearest
known. Cheap bytes may be followed by dear ones, so pieces of an answer never become larger."""

FIRST = 4 * 1024
"""Bytes of a first piece, of which nobody knows yet what they cost."""

_LEAST = 1024
_QUICK, _SLOW = 0.0005, 0.001
"""Seconds of work on a piece below which the next is twice as large, and above which it is smaller
by as much. Pieces that take less than the first share a turn."""

Read: TypeAlias = Callable[[], Awaitable[bytes]]
"""Waits for bytes and returns them, b"" at the end."""


async def long_turn() -> None:
    """Let all others run, and tasks whose timers are due.

    A timer waits for what was ready before it, and wakes its task for the turn after it. So behind
    one turn of work a task would wait for the work of two more.
    """
    await sleep(0)
    await sleep(0)
    await sleep(0)


class Turns:
    """Reads pieces of at most `most` bytes, and lets others run between those that take long.

    Pieces whose work takes long become smaller.
    """

    __slots__ = ("_at", "_data", "_left", "_most", "_piece", "_read", "_since", "_spent", "_taken")

    def __init__(self, read: Read, data: bytes = b"", piece: int = TURN, most: int = TURN) -> None:
        """Begin with `data`, cut into pieces of `piece` bytes, then go on with `read`."""
        self._read = read
        self._data = data
        self._at = 0
        self._piece = piece
        self._most = most
        self._left = 0 if data else TURN
        self._taken = 0
        """Bytes of the last piece, which is smaller than the others at the end of a read."""
        self._since = self._spent = 0.0

    def take(self) -> bytes | None:
        """Return the next piece, None if `read` has to wait for it or for others that run first."""
        if self._since:
            self._adapt(monotonic() - self._since)
            self._since = 0.0
        if self._left <= 0 or self._spent >= _QUICK or self._at >= len(self._data):
            return None
        piece = self._data[self._at : self._at + self._piece]
        self._at += len(piece)
        self._taken = len(piece)
        self._left -= self._taken
        self._since = monotonic()
        return piece

    def coming(self) -> None:
        """Return None: it takes `read` to wait."""

    async def read(self) -> bytes:
        """Return what comes, b"" at the end. Raises: what the other `read` raises."""
        while (piece := self.take()) is None:
            if self._left <= 0 or self._spent >= _QUICK:
                others = sleep(0) if self._spent < _QUICK else long_turn()
                self._left, self._spent = TURN, 0.0
                await others
            if self._at >= len(self._data):
                self._data = await self._read()
                self._at = 0
                if not self._data:
                    return b""
        return piece

    def _adapt(self, seconds: float) -> None:
        """Take larger or smaller pieces after so many seconds of work on the last one."""
        self._spent += seconds
        if seconds < _QUICK:
            self._piece = max(self._piece, min(self._most, self._taken * 2))
        while seconds > _SLOW and self._piece > _LEAST:
            self._piece //= 2
            seconds /= 2
