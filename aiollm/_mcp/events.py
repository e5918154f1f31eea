"""An endless body of events in small pieces, none of whose events has too many parts.

What a server takes for JSON is made readable on its way.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from aiollm._mcp.lines import readable
from aiollm._user_types.density import MESSAGE, Weight
from aiollm._wire.lenient import MAX_MENDED

_PIECE = 8 * 1024
"""Bytes that the SDK reads between two turns of the event loop."""

# Atomic: the end of one line, \r\n, must not be taken for two.
_BLANK = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")

_LINE = re.compile(rb"(?<![^\r\n])(data:)([^\r\n]+)")
"""A message in an event."""


def in_turns(httpx: Any, body: Any) -> Any:
    """Return a body of events that others run between. It raises SSEError for too dense an event.

    The SDK parses all of a read, and makes objects of all of an event, in one go.
    """

    class Turning(httpx.AsyncByteStream):  # type: ignore[misc]  # the class is known only now
        async def __aiter__(self) -> AsyncIterator[bytes]:
            weight, ends, lines = Weight(MESSAGE), b"", _Lines()
            async for data in body:
                for at in range(0, len(data), _PIECE):
                    piece = data[at : at + _PIECE]
                    # A server may send the end of a line, and later the blank line after it.
                    first, *rest = _BLANK.split(ends + piece)
                    last = rest[-1] if rest else first
                    ends = last[len(last.rstrip(b"\r\n")) :]
                    if excess := weight.add(first):
                        raise httpx.SSEError(f"an event has {excess}")
                    if rest:
                        weight = Weight(MESSAGE)
                        weight.add(last)
                    if ready := lines.feed(piece):
                        yield ready
                    await asyncio.sleep(0)
            if ready := lines.rest():
                yield ready

        async def aclose(self) -> None:
            await body.aclose()

    return Turning()


class _Lines:
    """Makes messages readable that come as events, each of which is a line: that is, short ones."""

    def __init__(self) -> None:
        self._held: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> bytes:
        """Return what can be passed on: lines that have ended, or the beginning of a long one."""
        end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
        ready = _LINE.sub(_readable, self.rest() + piece[:end]) if end else b""
        self._held.append(piece[end:])
        self._size += len(piece) - end
        return ready + self.rest() if self._size > MAX_MENDED else ready

    def rest(self) -> bytes:
        """Return what is held back of a line, as it is."""
        held = b"".join(self._held)
        self._held.clear()
        self._size = 0
        return held


def _readable(found: re.Match[bytes]) -> bytes:
    data = found[2]
    made, _ = readable(data)
    return found[0] if made is data else found[1] + made
