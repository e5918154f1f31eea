"""After a finish word: how long a server may be silent until its answer counts as complete."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import Any

from aiollm.provider import Reply
from aiollm.types import Timeouts

GAPS = 4.0
"""The silence that ends an answer, as a multiple of the longest gap between two pieces of it."""

SURE = 2.0
UNSURE = 4.0
LONGEST = 10.0
"""Seconds of silence: at least after pieces without a finish word; at least where the first piece
had one, as this server may put it into every piece; and at most. The most also counts where
nothing was said yet, or where more was said after a finish word."""


class LastWords:
    """Reads what may follow the finish word of an answer.

    Only what the decoder makes of the bytes counts as a sign of life here: not pings, comments or
    empty chunks, with which some servers keep a connection open for ever.
    """

    __slots__ = ("_began", "_gap", "_least", "_reply", "_timeouts", "_waited")

    def __init__(self, reply: Reply, timeouts: Timeouts, gap: float | None, *, sure: bool) -> None:
        """`gap` is the longest between two pieces so far, None if nothing was said yet.

        `sure` is whether there were pieces without a finish word.
        """
        self._reply = reply
        self._timeouts = timeouts
        self._gap = gap or 0.0
        self._least = LONGEST if gap is None else SURE if sure else UNSURE
        self._waited = 0.0
        self._began = False

    async def read(self, batch: list[Any]) -> bytes:
        """Return what comes, b"" at the end or after the silence.

        `batch` is what the last of these reads brought. The caller's own pauses do not count.
        """
        if batch and self._began:
            self._least = LONGEST
            self._waited = 0.0
        self._began = True
        started = monotonic()
        try:
            async with asyncio.timeout(self._silence() - self._waited):
                return await self._reply.read()
        except TimeoutError:
            return b""
        finally:
            self._waited += monotonic() - started

    def _silence(self) -> float:
        # The answer has its finish: no deadline of a silent server may make it fail.
        limits = (self._timeouts.idle, self._timeouts.stall)
        most = min([LONGEST, *(limit / 2 for limit in limits if limit is not None)])
        return min(max(GAPS * self._gap, self._least), most)
