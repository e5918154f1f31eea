"""Changes to aiohttp's connections: safe reuse, small buffers, bodies in fewer pieces."""

from __future__ import annotations

import asyncio
import inspect
import ssl
import sys
from contextvars import ContextVar
from functools import cached_property, partial
from typing import Any

import aiohttp
from aiohttp import connector
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_writer import StreamWriter

from aiollm.errors import ProtocolError

RECEIVE_SIZE = 64 * 1024
"""Bytes a plain socket reads at once: malloc calls mmap for asyncio's 256 KiB on every wake-up."""

TLS_RECEIVE_SIZE = 32 * 1024
"""Bytes of TLS read at once, two records; asyncio reads 256 KiB."""

SMALL_BODY = 32 * 1024
"""Bytes of a body that are written without a task: half of what asyncio buffers by default."""

READ_BUFFER = 32 * 1024
"""Bytes aiohttp buffers per connection; measured 20-30 % cheaper a chunk than its 256 KiB."""

MAX_INTERIM = 64
"""The most interim responses before an answer; servers send one or two."""


class SendNotes:
    """What a connector notes about the request that is being sent."""

    __slots__ = ("is_answered", "is_fresh", "key")

    def __init__(self) -> None:
        self.is_fresh = False
        """Whether its connection is new."""
        self.is_answered = False
        """Whether bytes came after it, if only some of a head."""
        self.key: Any = None
        """Where the pool keeps connections that would do for it as well."""


sending: ContextVar[SendNotes] = ContextVar("aiollm_sending")
"""The request of the current task."""


class Prompt(aiohttp.BaseConnector):
    """Closes what it does not keep at once.

    aiohttp ends TLS politely, and then waits up to 30 s for a server that says `Connection: close`
    but keeps its own side open, even after the session has been closed.
    """

    def _release(self, key: Any, protocol: Any, *, should_close: bool = False) -> None:
        ends = self._force_close or should_close or protocol.should_close
        if ends and protocol.transport is not None:
            protocol.transport.abort()
        super()._release(key, protocol, should_close=should_close)


class _Careful(Prompt):
    """Reports whether a connection is new, and never reuses one with unread bytes."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        """Return a connection that is new, or idle and clean."""
        while True:
            connection = await super().connect(req, traces, timeout)
            protocol: Any = connection.protocol
            sent = sending.get(None)
            if sent is not None:
                sent.key = req.connection_key
            # A second response that nobody asked for would be taken for this request's.
            if not protocol.should_close or sent is None or sent.is_fresh:
                if sent is not None:
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

    async def _create_connection(self, req: Any, traces: Any, timeout: Any) -> Any:  # noqa: ASYNC109
        if (sent := sending.get(None)) is not None:
            sent.is_fresh = True
        protocol = await super()._create_connection(req, traces, timeout)
        receive_less(protocol.transport, self._tls_buffer)
        return protocol

    @cached_property
    def _tls_buffer(self) -> bytearray:
        return bytearray(TLS_RECEIVE_SIZE)


def is_interim(status: int) -> bool:
    """Return whether a response only precedes the answer, by aiohttp's rule."""
    return 100 <= status < 200 and status != 101


class _Answering(ResponseHandler):
    """A connection that takes no endless row of interim responses, such as 100 Continue.

    aiohttp passes over each without a turn of the event loop.
    """

    _interim = 0
    _sent: SendNotes | None = None

    def begin(self, sent: SendNotes) -> None:
        """Note what the next bytes answer."""
        self._sent = sent
        self._payload = None  # the body of the last answer, which has ended

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._sent is not None:
            self._sent.is_answered = True
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response that was parsed."""
        if self._interim > MAX_INTERIM:
            return  # it is closed, but there may be more in the same read
        self._interim = self._interim + 1 if is_interim(data[0].code) else 0
        if self._interim <= MAX_INTERIM:
            in_pieces(data[1])
            super().feed_data(data, size)
            return
        message = f"the server sent more than {MAX_INTERIM} interim responses, and no answer"
        self.set_exception(ProtocolError(message))
        if self.transport is not None:
            self.transport.abort()


class _Flowing(_Answering):
    """A connection that passes bytes in the middle of a body straight to the parser.

    Nothing but the body changes then, as a rule; what aiohttp looks at for each read took longer
    than parsing it.
    """

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        parser: Any = self._parser
        body: Any = self._payload
        if type(body) is not Pieces or parser is None or self._read_timeout is not None:
            self._take_head(data)
            return
        try:
            found = parser.feed_data(data)
            if not (found[0] or found[1]):
                return
            parsed = _Parsed(found)
        except BaseException as error:  # noqa: BLE001 - aiohttp decides what becomes of it
            parsed = _Parsed((), error)
        # An answer that nobody asked for, another protocol, or invalid HTTP: left to aiohttp.
        stand_in: Any = parsed
        self._parser = stand_in
        try:
            super().data_received(data)
        finally:
            if self._parser is stand_in:
                self._parser = parser
        if self._exception is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(self._exception)  # or its reader would wait for more

    def _take_head(self, data: bytes) -> None:
        """Pass a head on before what follows it, which then goes into `Pieces`.

        aiohttp makes the body only once the head is parsed, and feeds all of the read to it.
        """
        end = data.find(b"\r\n\r\n") + 4
        if self._payload is None and 4 <= end < len(data):
            super().data_received(data[:end])
            if self._exception is not None:
                return
            data = data[end:]
            body: Any = self._payload
            if type(body) is Pieces:
                self.data_received(data)
                return
        super().data_received(data)  # after blank lines or an interim response, too


class _Parsed:
    """Stands for a parser that has been fed already."""

    def __init__(self, found: Any, error: BaseException | None = None) -> None:
        self._found = found
        self._error = error

    def feed_data(self, _: bytes) -> Any:
        """Return what the parser found. Raises: its error."""
        error, self._error = self._error, None
        if error is None:
            return self._found
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would make a cycle


_FLOWING_USES = ("_exception", "_parser", "_payload", "_read_timeout")
"""What `_Flowing` uses of aiohttp's connection."""


def _factory(loop: Any) -> Any:
    """Return what aiohttp makes the protocols of connections with."""
    one = ResponseHandler(loop)
    known = all(hasattr(one, name) for name in _FLOWING_USES)
    return partial(_Flowing if known else _Answering, loop=loop)


class Connector(_Careful, aiohttp.TCPConnector):
    """Connects over the network, as often as asked."""

    def __init__(self, **options: Any) -> None:
        super().__init__(limit=0, **options)
        self._factory = _factory(self._loop)


class SocketConnector(_Careful, aiohttp.UnixConnector):
    """Connects to one unix socket, as often as asked."""

    def __init__(self, path: str, **options: Any) -> None:
        super().__init__(path, limit=0, **options)
        self._factory = _factory(self._loop)


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


class Pieces(aiohttp.StreamReader):
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
            data = b"".join(waiting)
            waiting.clear()
        self._size = 0
        self._cursor += len(data)
        self.total_bytes = self._cursor
        if self._protocol._reading_paused:  # noqa: SLF001
            self._protocol.resume_reading()
        return data

    def coming(self) -> asyncio.Future[None]:
        """Return what ends when there is something to take. Raises: RuntimeError."""
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
    "_buffer", "_buffer_offset", "_cursor", "_eof", "_exception", "_high_water", "_loop",
    "_protocol", "_size", "_waiter", "total_bytes",
}  # fmt: skip
"""What `Pieces` uses of aiohttp's body."""

_IS_LIKE_PIECES = set(aiohttp.StreamReader.__slots__) >= _PIECES_USE and hasattr(
    ResponseHandler, "_reading_paused"
)


def in_pieces(body: aiohttp.StreamReader) -> aiohttp.StreamReader:
    """Return `body`, made to join its pieces; aiohttp has no setting for the class."""
    if _IS_LIKE_PIECES and type(body) is aiohttp.StreamReader:
        body.__class__ = Pieces
    return body


def has_bytes(body: aiohttp.StreamReader) -> bool:
    """Return whether bytes of a body have arrived, even if they were taken."""
    return bool(body._size or body.total_bytes)  # noqa: SLF001


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
