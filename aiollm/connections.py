"""Connections: what aiohttp is taught of reuse, of small buffers, of bodies in many pieces."""

from __future__ import annotations

from collections import deque
from contextvars import ContextVar
from typing import Any
from weakref import WeakSet

import aiohttp

RECEIVE_SIZE = 64 * 1024
"""Bytes a plain socket reads at once: asyncio's 256 KiB go through mmap on every wake-up."""

TLS_RECEIVE_SIZE = 32 * 1024
"""Bytes of TLS read at once, two records; asyncio keeps a buffer of 256 KiB a connection."""

reused: ContextVar[list[bool]] = ContextVar("aiollm_connection_reused")
"""Where a connector notes for the request at hand that its connection served before."""


class Connector(aiohttp.TCPConnector):
    """Notes whether a connection served before, and hands out none that holds unread bytes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._served: WeakSet[Any] = WeakSet()

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        """Return a connection that is fresh, or idle and clean."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            if protocol not in self._served:
                break
            if not protocol.should_close:
                reused.get([False])[0] = True
                return connection
            connection.close()
        self._served.add(protocol)
        receive_less(connection.transport)
        return connection


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
