"""A body of aiohttp's that is taken as it has come, in few pieces."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import EMPTY_PAYLOAD, StreamReader
from aiohttp.client_proto import ResponseHandler

MANY_PIECES = 1024
"""HTTP chunks in one read from which on the next reads are smaller. Texts of one token that come in
chunks of their own, as from most servers, are some 400 in 64 KiB."""

LESS = 16 * 1024
"""Bytes of a read after one of very many HTTP chunks: 64 KiB of them may take 2 ms to parse."""


class Pieces(StreamReader):
    """A body that returns all buffered pieces as one, and does little for each.

    aiohttp keeps where each HTTP chunk ended, which nothing here asks for, and runs its flow
    control and its parser once more for each that it takes from its buffer.
    """

    __slots__ = ()

    # Called for each HTTP chunk, without arguments: nothing is noted, and no frame is made for it.
    begin_http_chunk_receiving: Any = bool
    end_http_chunk_receiving: Any = bool

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002 - aiohttp ignores it, too
        """Take bytes that have arrived."""
        if not data:
            return False
        self._buffer.append(data)
        self._size = held = self._size + len(data)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        if held > self._high_water:
            self._protocol.pause_reading()
        return False

    def feed_eof(self) -> None:
        """Take the end: nothing more that arrives is of this body."""
        self._protocol._payload = EMPTY_PAYLOAD  # type: ignore[attr-defined] # noqa: SLF001
        super().feed_eof()

    def set_exception(self, exc: BaseException, *cause: Any) -> None:
        """Note what broke the body off: `take` raises it, and `coming` just ends."""
        waiter, self._waiter = self._waiter, None
        super().set_exception(exc, *cause)
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def take(self) -> bytes | None:
        """Return what has arrived, b"" at the end, None if nothing is there yet.

        Raises: what broke the body off, after all that came before it. aiohttp raises it at once,
        and who reads slowly would lose what had arrived.
        """
        waiting = self._buffer
        if not waiting:
            if self._exception is not None:
                raise self._exception
            return b"" if self._eof else None
        if self._buffer_offset:
            return super()._read_nowait(-1)
        if len(waiting) == 1:
            data = waiting.popleft()
        else:
            if len(waiting) > MANY_PIECES:
                self._read_less()
            data = b"".join(waiting)
            waiting.clear()
        self.total_bytes += self._size
        self._size = 0
        if self._protocol._reading_paused:  # noqa: SLF001
            self._protocol.resume_reading()
        return data

    def _read_less(self) -> None:
        """Make the next reads smaller. What reads TLS has no such setting."""
        for each in (self._protocol, self._protocol.transport):
            reader: Any = each
            if getattr(reader, "max_size", 0) > LESS:
                reader.max_size = LESS

    def coming(self) -> asyncio.Future[None]:
        """Return a wait that ends when there is something to take. Raises: RuntimeError."""
        if self._protocol.transport is None:
            raise RuntimeError("the connection is closed")
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            raise RuntimeError("another task waits for this body")
        self._waiter = waiter = self._loop.create_future()
        return waiter

    async def readany(self) -> bytes:
        """Return what has arrived, b"" at the end. Raises: as `take`."""
        while (data := self.take()) is None:
            await self.coming()
        return data


_PIECES_USE = {
    "_buffer", "_buffer_offset", "_eof", "_exception", "_high_water", "_loop",
    "_protocol", "_size", "_waiter", "total_bytes",
}  # fmt: skip
"""What `Pieces` uses of aiohttp's body."""

IS_LIKE_PIECES = set(StreamReader.__slots__) >= _PIECES_USE and hasattr(
    ResponseHandler, "_reading_paused"
)
"""Whether this version of aiohttp has all that `Pieces` uses."""


def in_pieces(body: StreamReader) -> StreamReader:
    """Return `body`, made to join its pieces; aiohttp has no setting for the class."""
    if IS_LIKE_PIECES and type(body) is StreamReader:
        body.__class__ = Pieces
    return body


def has_bytes(body: StreamReader) -> bool:
    """Return whether bytes of a body have arrived, even if they were taken."""
    if body is EMPTY_PAYLOAD:  # which has no size
        return False
    return bool(body._size or body.total_bytes)  # noqa: SLF001
