"""An endless body of events in small pieces, none of whose events has too many parts."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

from aiollm._user_types.density import MESSAGE, Weight

_PIECE = 8 * 1024
"""Bytes that the SDK reads between two turns of the event loop."""

# Atomic: the end of one line, \r\n, must not be taken for two.
_BLANK = re.compile(rb"(?>\r\n|\r|\n)(?>\r\n|\r|\n)")


def in_turns(httpx: Any, body: Any) -> Any:
    """Return a body of events that others run between. It raises SSEError for too dense an event.

    The SDK parses all of a read, and makes objects of all of an event, in one go.
    """

    class Turning(httpx.AsyncByteStream):  # type: ignore[misc]  # the class is known only now
        async def __aiter__(self) -> AsyncIterator[bytes]:
            weight, ends = Weight(MESSAGE), b""
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
                    yield piece
                    await asyncio.sleep(0)

        async def aclose(self) -> None:
            await body.aclose()

    return Turning()
