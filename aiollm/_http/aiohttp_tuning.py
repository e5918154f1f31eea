"""Changes to aiohttp's connections: safe reuse, small buffers, bodies in fewer pieces."""

from __future__ import annotations

import inspect
import ssl
import sys
from contextvars import ContextVar
from functools import cached_property
from typing import Any

import aiohttp
from aiohttp import connector
from aiohttp.http_writer import StreamWriter

from aiollm._http.receiving import RECEIVE_SIZE, SendNotes, connection_factory
from aiollm._time_limits import TimeLimit

TLS_RECEIVE_SIZE = 32 * 1024
"""Bytes of TLS read at once, two records; asyncio reads 256 KiB."""

SMALL_BODY = 32 * 1024
"""Bytes of a body that are written without a task: half of what asyncio buffers by default."""

READ_BUFFER = 32 * 1024
"""Bytes aiohttp buffers per connection; measured 20-30 % cheaper a chunk than its 256 KiB."""

sending: ContextVar[SendNotes] = ContextVar("aiollm_sending")
"""The request of the current task."""


class Prompt(aiohttp.BaseConnector):
    """Closes at once what it does not keep, and reads little at a time.

    aiohttp ends TLS politely, and then waits up to 30 s for a server that says `Connection: close`
    but keeps its own side open, even after the session has been closed.
    """

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        ends = self._force_close or should_close or protocol.should_close
        if ends and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        async with TimeLimit(timeout.sock_read):
            protocol = await super()._create_connection(req, traces, timeout)
        receive_less(protocol.transport, self._tls_buffer)
        return protocol

    @cached_property
    def _tls_buffer(self) -> bytearray:
        return bytearray(TLS_RECEIVE_SIZE)


class _Careful(Prompt):
    """Reports whether a connection is new, and never reuses one with unread bytes."""

    async def connect(
        self,
        req: Any,
        traces: Any,
        timeout: Any,  # noqa: ASYNC109
        sent: SendNotes | None = None,
    ) -> Any:
        """Return a connection that is new, or idle and clean."""
        if sent is None and (sent := sending.get(None)) is not None:
            sent.key = req.connection_key
        # aiohttp's own limit would count what this process stood still for. It is passed as one of
        # those that aiohttp looks at later.
        within = aiohttp.ClientTimeout(total=None, sock_read=timeout.connect)
        while True:
            connection = await super().connect(req, traces, within)
            protocol: Any = connection.protocol
            # A second response that nobody asked for would be taken for this request's.
            if not (protocol.should_close and protocol.was_used) or sent is None:
                protocol.begin(sent)
                return connection
            connection.close()

    async def idle(self, key: Any, sent: SendNotes) -> Any:
        """Return an idle and clean connection of those under `key` in the pool, else None."""
        while (connection := await self._get(key, [])) is not None:
            protocol: Any = connection.protocol
            if not (protocol.should_close or protocol.writing_paused):
                protocol.begin(sent)
                return connection
            connection.close()
        return None


class Connector(_Careful, aiohttp.TCPConnector):
    """Connects over the network, by default as often as asked."""

    def __init__(self, limit: int = 0, **options: Any) -> None:
        super().__init__(limit=limit, **options)
        self._factory: Any = connection_factory(self._loop)


class SocketConnector(_Careful, aiohttp.UnixConnector):
    """Connects to one unix socket, as often as asked."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, limit=0, **options)
        self._factory: Any = connection_factory(self._loop)


def leave(session: aiohttp.ClientSession) -> None:
    """Drop a session without closing its connections, now or when it is collected."""
    connector = session.connector
    session.detach()
    if connector is not None:
        connector._closed = True  # noqa: SLF001 - nothing else keeps the collector from it


def end(session: aiohttp.ClientSession) -> None:
    """Close a session's connections without waiting; its loop need not run."""
    connector = session.connector
    session.detach()  # or the session would warn that it was not closed
    if connector is None:
        return
    # When its close() first waits, all connections are closed.
    steps: Any = connector.close().__await__()
    try:
        steps.send(None)
    except StopIteration:
        return
    steps.close()


class Request(aiohttp.ClientRequest):
    """Writes a small body without a task.

    Before Python 3.12, aiohttp starts a task for every body, which costs an iteration of the loop.
    On later versions it does not, and `request_class` returns aiohttp's own class.
    """

    async def send(self, conn: Any) -> aiohttp.ClientResponse:
        """Write the request; return its response, which has not been read yet."""
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
"""The parameters of aiohttp's response that `Request.send` passes."""


def request_class() -> type[aiohttp.ClientRequest]:
    """Return the class of requests: ours if it saves a task and fits this version of aiohttp."""
    known = set(inspect.signature(aiohttp.ClientResponse.__init__).parameters) == _RESPONSE_TAKES
    return Request if known and sys.version_info < (3, 12) else aiohttp.ClientRequest


def system_context() -> ssl.SSLContext | None:
    """Return the context by which aiohttp checks all servers; it makes one when it is imported."""
    context = getattr(connector, "_SSL_CONTEXT_VERIFIED", None)
    return context if isinstance(context, ssl.SSLContext) else None


def receive_less(transport: Any, buffer: bytearray) -> None:
    """Make a connection's reads smaller, and let it read TLS into `buffer`, which others share.

    asyncio can set this only for all connections of the process, so private attributes are
    changed. Where they do not exist, as in uvloop, which does not need this, nothing happens.
    asyncio zeroes 256 KiB for each connection, but never leaves anything in them: it fills the
    buffer and copies it to OpenSSL in one step of the loop, so that one is enough for a loop.
    """
    if isinstance(getattr(transport, "max_size", None), int):
        transport.max_size = RECEIVE_SIZE
    tls: Any = getattr(transport, "_ssl_protocol", None)
    if tls is not None and isinstance(getattr(tls, "_ssl_buffer", None), bytearray):
        tls.max_size = len(buffer)
        tls._ssl_buffer = buffer  # noqa: SLF001
        tls._ssl_buffer_view = memoryview(buffer)  # noqa: SLF001
