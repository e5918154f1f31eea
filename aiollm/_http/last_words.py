"""After a finish reason: how long a server may be silent until its answer counts as complete."""

from __future__ import annotations

from aiollm._http.turns import Read
from aiollm._time_limits import TimeLimit
from aiollm.types import Timeouts

GAPS = 4.0
"""The silence that ends an answer, as a multiple of the longest gap between two pieces of it."""

SURE = 2.0
UNSURE = 4.0
LONGEST = 10.0
"""Seconds of silence: at least after pieces without a finish reason; at least where the first piece
had one, as this server may put it into every piece; and at most. The most also counts where
nothing was said yet, or where more was said after a finish reason."""

_FAR = 2 * LONGEST


class LastWords:
    """Reads what may follow the finish reason of an answer.

    Only what the decoder makes of the bytes counts as a sign of life here: not pings, comments or
    empty chunks, with which some servers keep a connection open for ever.
    """

    __slots__ = ("_gaps", "_least", "_most", "_waited", "more")

    more: bool
    """Whether something was said after a finish reason, which is then not the last word."""

    def __init__(self, timeouts: Timeouts, gap: float | None, *, sure: bool) -> None:
        """`gap` is the longest between two pieces, below 0 after one, None before the first.

        `sure` is whether there were pieces without a finish reason.
        """
        self._gaps = 0.0 if gap is None else GAPS * gap
        self._least = LONGEST if gap is None else SURE if sure else UNSURE
        # The answer has its finish: no deadline of a silent server may make it fail.
        self._most = min(LONGEST, (timeouts.idle or _FAR) / 2, (timeouts.stall or _FAR) / 2)
        self._waited = 0.0
        self.more = False

    def said_more(self) -> None:
        """Note that what came was more than a sign of life."""
        self.more = True
        self._least = LONGEST
        self._waited = 0.0

    async def read(self, read: Read) -> bytes:
        """Return what comes, b"" at the end or after the silence.

        The caller's own pauses do not count.
        """
        silence = min(max(self._gaps, self._least), self._most)
        limit = TimeLimit(silence - self._waited)
        try:
            async with limit:
                return await read()
        except TimeoutError:
            return b""
        finally:
            self._waited += limit.spent
