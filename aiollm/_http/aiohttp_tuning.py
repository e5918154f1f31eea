"""Connections: what aiohttp is taught of reuse, of small buffers, of bodies in many pieces."""

from __future__ import annotations

import inspect
import sys
from collections import deque
from contextvars import ContextVar
from typing import Any

import aiohttp
from aiohttp.http_writer import StreamWriter

RECEIVE_SIZE = 64 * 1024
"""Bytes a plain socket reads at once: asyncio's 256 KiB go through mmap on every wake-up."""

TLS_RECEIVE_SIZE = 32 * 1024
"""Bytes of TLS read at once, two records; asyncio keeps a buffer of 256 KiB a connection."""

SMALL_BODY = 32 * 1024
"""Bytes of a body that a socket takes at once, half of what asyncio holds back unasked."""

fresh: ContextVar[list[bool]] = ContextVar("aiollm_connection_fresh")
"""Where a connector notes for the request at hand that its connection is new."""


class Connector(aiohttp.TCPConnector):
    """Notes whether a connection is new, and hands out none that holds unread bytes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        """Return a connection that is new, or idle and clean."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            if not protocol.should_close or fresh.get([True])[0]:
                return connection
            connection.close()

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        fresh.get([False])[0] = True
        protocol = await super()._create_connection(req, traces, timeout)
        receive_less(protocol.transport)
        return protocol


class Request(aiohttp.ClientRequest):
    """Sends a small body at once.

    Before Python 3.12 aiohttp starts a task for every body, which costs a turn of the loop; from
    then on it begins to write without one, and `request_class` returns its own class.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Write the request; return its response, still to be read."""
        size = self.body.size if self.body else None
        waits = conn.protocol.writing_paused or "Expect" in self.headers
        if size is None or size > SMALL_BODY or waits or self.proxy:
            return await super().send(conn)
        writer = StreamWriter(conn.protocol, self.loop)
        await writer.write_headers(f"{self.method} {self.url.raw_path_qs} HTTP/1.1", self.headers)
        await self.write_bytes(writer, conn)
        return self.response_class(
            self.method,
            self.original_url,
            writer=None,
            continue100=None,
            timer=self._timer,
            request_info=self.request_info,
            traces=self._traces,
            loop=self.loop,
            session=self.session,
            stream_writer=writer,
        )


_RESPONSE_TAKES = {
    "self", "method", "url", "writer", "continue100", "timer", "request_info", "traces", "loop",
    "session", "stream_writer",
}  # fmt: skip
"""The parameters of aiohttp's response that `Request.send` knows."""


def request_class() -> type[aiohttp.ClientRequest]:
    """Return the class of requests: ours where it saves a task and aiohttp is as we know it."""
    known = set(inspect.signature(aiohttp.ClientResponse.__init__).parameters) == _RESPONSE_TAKES
    return Request if known and sys.version_info < (3, 12) else aiohttp.ClientRequest


class Pieces(aiohttp.StreamReader):
    """A body that hands out all pieces that wait in it as one.

    aiohttp walks through its flow control for each HTTP chunk that it takes out, which costs
    more than parsing what is in it. Should it keep them otherwise some day, nothing happens here.
    """

    __slots__ = ()

    def _read_nowait(self, n: int) -> bytes:
        waiting = getattr(self, "_buffer", None)
        if n == -1 and isinstance(waiting, deque) and not self._buffer_offset:
            whole = b"".join(waiting)
            waiting.clear()
            waiting.append(whole)
        return super()._read_nowait(n)


def in_pieces(body: aiohttp.StreamReader) -> aiohttp.StreamReader:
    """Return `body` as one that joins its pieces: aiohttp lets nobody choose its class."""
    if type(body) is aiohttp.StreamReader:
        body.__class__ = Pieces
    return body


def receive_less(transport: Any) -> None:
    """Let a connection's reads, and the buffer that TLS keeps for them, be small.

    asyncio offers no setting for it but that of all connections of the process. Its names are
    private: where they are others, as in uvloop, which needs none of this, nothing is done.
    """
    if isinstance(getattr(transport, "max_size", None), int):
        transport.max_size = RECEIVE_SIZE
    tls: Any = getattr(transport, "_ssl_protocol", None)
    if tls is not None and isinstance(getattr(tls, "_ssl_buffer", None), bytearray):
        buffer = bytearray(TLS_RECEIVE_SIZE)
        tls.max_size = TLS_RECEIVE_SIZE
        tls._ssl_buffer = buffer  # noqa: SLF001
        tls._ssl_buffer_view = memoryview(buffer)  # noqa: SLF001
