"""How a connection takes an answer: a head, a body in few pieces, and nothing behind it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import Any, cast

from aiohttp import EMPTY_PAYLOAD
from aiohttp.client_proto import ResponseHandler

from aiollm._http.pieces import IS_LIKE_PIECES, Pieces, in_pieces
from aiollm.errors import ProtocolError

RECEIVE_SIZE = 64 * 1024
"""Bytes a plain socket reads at once: malloc calls mmap for asyncio's 256 KiB on every wake-up."""

MAX_INTERIM = 64
"""The most interim responses before an answer; servers send one or two."""

MAX_HEAD = 64 * 1024
"""Bytes of a read, or more reads, after which the head of an answer has to have ended. aiohttp 3.13
bounds each field, but not how many there are."""


STALE_SECONDS = 5.0
"""Seconds within which the end of a reused connection shows that the server had closed it before,
which takes a round trip. Later, it is the request that failed, and it may be paid for."""


class SendNotes:
    """What a connector notes about the request that is being sent."""

    __slots__ = ("began", "is_answered", "is_reused", "key")

    def __init__(self) -> None:
        self.began = 0.0
        """When its connection was taken."""
        self.is_reused = False
        """Whether its connection has sent an earlier one."""
        self.is_answered = False
        """Whether any bytes came after it, even if only a part of a head."""
        self.key: Any = None
        """Where the pool keeps connections that would do for it as well."""

    def met_a_stale_connection(self) -> bool:
        """Return whether it failed because its connection had been closed before."""
        if self.is_answered or not self.is_reused:
            return False
        return monotonic() - self.began < STALE_SECONDS


def is_interim(status: int) -> bool:
    """Return whether a response only precedes the answer, by aiohttp's rule."""
    return 100 <= status < 200 and status != 101


_AIOHTTPS = (
    "_buffer", "_closed", "_connection_lost_called", "_data_received_cb", "_eof", "_exception",
    "_parser", "_payload", "_payload_parser", "_payload_parser_failed", "_read_bufsize",
    "_read_timeout", "_read_timeout_handle", "_should_close", "_skip_payload", "_tail",
    "_timeout_ceil_threshold", "_timer", "_upgraded", "_waiter",
)  # fmt: skip
"""What aiohttp keeps in each of its connections. Since Python 3.13, an attribute that is in no slot
costs ten times as much to read where a base class has slots, and a request reads some seventy."""


class _Answering(ResponseHandler):
    """A connection that takes no endless row of interim responses, such as 100 Continue.

    aiohttp passes over each without a turn of the event loop.
    """

    __slots__ = (
        "_awaited",
        "_interim",
        "_is_awaited",
        "_is_chunked",
        "_sent",
        "was_used",
        *(name for name in _AIOHTTPS if not hasattr(ResponseHandler, name)),
    )

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.was_used = False
        """Whether it has sent a request."""
        self._interim = 0
        self._sent: SendNotes | None = None
        """What is not answered yet."""
        self._is_awaited = True
        """Whether the head of an answer is still to come."""
        self._awaited = 0
        """Bytes that have come of heads that had not ended."""
        self._is_chunked = False

    def begin(self, sent: SendNotes | None) -> None:
        """Note what the next bytes answer."""
        if sent is not None:
            sent.is_reused, sent.began = self.was_used, monotonic()
        self.was_used = True
        self._sent = sent
        self._is_awaited = True
        self._awaited = 0

    def data_received(self, data: bytes) -> None:
        """Take bytes from the socket."""
        if self._sent is not None:
            self._sent.is_answered = True
            self._sent = None
        super().data_received(data)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """Take a response that was parsed."""
        if self._interim > MAX_INTERIM:
            return  # it is closed, but there may be more in the same read
        message, body = data
        status = message.code
        if not 100 <= status < 200:
            self._interim = 0
        elif is_interim(status):
            self._interim += 1
        else:
            self.force_close()  # another protocol follows, if the head says so or not
        if self._interim <= MAX_INTERIM:
            self._is_awaited, self._is_chunked = self._interim > 0, message.chunked
            if in_pieces(body).is_eof():
                self._payload = EMPTY_PAYLOAD
            super().feed_data(data, size)
        else:
            self._fail_with(
                f"the server sent more than {MAX_INTERIM} interim responses, and no answer"
            )

    def _fail_with(self, reason: str) -> None:
        self.set_exception(ProtocolError(reason))
        if self.transport is not None:
            self.transport.abort()


class _Flowing(_Answering):
    """A connection that passes bytes in the middle of a body straight to the parser.

    Nothing but the body changes then, as a rule; what aiohttp looks at for each read took longer
    than parsing it.

    Nothing behind an answer is taken for another, and the connection is closed. aiohttp would drop
    an answer that comes in one read with bytes that are not HTTP, as where its length is too short.
    """

    __slots__ = ("_rest", "max_size")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self.max_size = RECEIVE_SIZE
        """Bytes that are parsed in one turn, which is what asyncio's transports read at once."""
        self._rest = b""
        """What is left of a larger read."""

    def data_received(self, data: bytes, is_part: bool = False) -> None:  # noqa: FBT001, FBT002 - named ones take longer
        """Take bytes from the socket, or a part of a large read."""
        if (self._rest or len(data) > self.max_size) and not is_part:
            self._take_in_parts(data)
            return
        body: Any = self._payload
        if type(body) is not Pieces or self._read_timeout is not None:
            self._take_head(data)
            return
        parser: Any = self._parser
        try:
            found = parser.feed_data(data)
        except BaseException as error:  # noqa: BLE001 - aiohttp decides what becomes of it
            if self._payload is body or not isinstance(error, Exception):
                self._fail(error, data, body)
                return
        else:
            # A whole head behind a chunked body ends as the body does.
            if self._payload is body or (not found[0] and self._is_end(data, body)):
                return
        self._refuse()

    def _take_head(self, data: bytes) -> None:
        """Pass a head on before what follows it, which then goes into `Pieces`.

        aiohttp makes the body only once the head is parsed, and feeds all of the read to it.
        """
        if not data or self._parser is None or self._read_timeout is not None:
            super().data_received(data)
            return
        read, cut = data, len(_HEAD_END)  # as much of it, at most, as began in the read before
        while data and self._is_awaited:
            size = _size_of_head(data, begins=cut > 0)
            cut -= 1
            super().data_received(data[:size])
            if self._exception is not None:
                return
            data = data[size:]
        if data:
            self._take_rest(data)
        elif self._is_awaited:
            self._wait_for_more(len(read))

    def _wait_for_more(self, size: int) -> None:
        """Note that a read of that size did not end a head."""
        self._awaited += size
        if self._awaited > MAX_HEAD:
            self._fail_with(f"the answer has a head of more than {MAX_HEAD} bytes")

    def _take_rest(self, data: bytes) -> None:
        """Take what is behind a head: a body, or what is refused."""
        body: Any = self._payload
        if type(body) is Pieces:
            self.data_received(data, True)
        elif body is None or body.is_eof():
            self._refuse()
        else:
            super().data_received(data)

    def _is_end(self, data: bytes, body: Pieces) -> bool:
        """Return whether a read in which a body ended has nothing else, blank lines aside."""
        if self._is_chunked:
            return _HEAD_END.endswith(data[-len(_HEAD_END) :])
        return len(body._buffer[-1]) == len(data)  # noqa: SLF001 - which was fed last

    def _refuse(self) -> None:
        """Close: what is behind an answer must not be read as the next one."""
        self.force_close()
        if self.transport is not None:
            self.transport.abort()

    def _fail(self, error: BaseException, data: bytes, body: Pieces) -> None:
        """Let aiohttp deal with an error in the middle of a body."""
        parser, failed = self._parser, _Failed(error)
        self._parser = cast("Any", failed)
        try:
            super().data_received(data)
        finally:
            if self._parser is failed:
                self._parser = parser
        if self._exception is not None and not body.is_eof() and body.exception() is None:
            body.set_exception(self._exception)  # or its reader would wait for more

    def _take_in_parts(self, data: bytes) -> None:
        """Take more than can be parsed in one turn of the loop.

        A read of 256 KiB may hold 40,000 HTTP chunks, which take 10 ms. Nothing more is read before
        the rest of it has been parsed.
        """
        if self._rest:
            self._rest += data
            return
        self._rest = data[self.max_size :]
        if self._rest:
            self.pause_reading()
        self.data_received(data[: self.max_size], True)
        if self._rest:
            self._loop.call_soon(self._go_on)  # after who waits for this part

    def _go_on(self) -> None:
        data, self._rest = self._rest, b""
        if not data or self._exception is not None:
            return
        self._take_in_parts(data)
        body: Any = self._payload
        if type(body) is not Pieces or body._size <= body._high_water:  # noqa: SLF001
            self.resume_reading()

    def _flush(self) -> None:
        """Take the rest at once: the end comes behind it."""
        data, self._rest = self._rest, b""
        if data and self._exception is None:
            self.data_received(data, True)

    def eof_received(self) -> None:
        """Take the end."""
        self._flush()
        super().eof_received()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Take the loss of the connection, and before it an answer that came in time."""
        self._flush()
        if self._is_awaited and isinstance(exc, ConnectionError):
            self._take_what_waits()
        super().connection_lost(exc)

    def _take_what_waits(self) -> None:
        """Take what the system still has: where a write fails, asyncio does not read on.

        A server that refuses a large request may answer, and close, in the middle of it.
        """
        transport = self.transport
        if transport is None or transport.get_extra_info("sslcontext") is not None:
            return
        place = transport.get_extra_info("socket")
        data = b""
        with suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
            connection = socket.socket(fileno=place.fileno())
            try:
                connection.setblocking(False)
                data = connection.recv(self.max_size)
            finally:
                connection.detach()
        if data:
            self.data_received(data)

    @property
    def should_close(self) -> bool:
        """Whether it must not be reused."""
        return bool(self._rest) or super().should_close

    def pause_reading(self) -> None:
        """Stop reading from the socket, but not in the middle of what was read.

        aiohttp's parser would keep the rest, and nothing would tell where the body ends.
        """
        if not self._reading_paused and self.transport is not None:
            self._reading_paused = True
            with suppress(AttributeError, NotImplementedError, RuntimeError):
                self.transport.pause_reading()

    def resume_reading(self, *args: bool, **named: bool) -> None:
        """Read from the socket again; aiohttp asks for that at the end of each body."""
        if self._reading_paused and not self._rest:
            super().resume_reading(*args, **named)


_HEAD_END = b"\r\n\r\n"


def _size_of_head(data: bytes, *, begins: bool) -> int:
    """Return how much of a read is a head, or the line ends that are before or left of one.

    Where it `begins`, the end of a head may be cut by its start.
    """
    if data[0] in _HEAD_END:
        return 1 if begins else len(data) - len(data.lstrip(_HEAD_END))
    size = data.find(_HEAD_END) + len(_HEAD_END)
    if data.find(b"\n\n", 0, size) >= 0 or size < len(_HEAD_END):
        return _with_bare_line_ends(data)
    return size


def _with_bare_line_ends(data: bytes) -> int:
    """Return how much of what was read is a head, of which lines may end without a CR."""
    ends = (data.find(end) + len(end) for end in (b"\n\r\n", b"\n\n") if end in data)
    return min(ends, default=len(data))


class _Failed:
    """Stands for a parser that has failed already."""

    def __init__(self, error: BaseException) -> None:
        self._error: BaseException | None = error

    def feed_data(self, _: bytes) -> Any:
        """Raise the error."""
        error, self._error = self._error, None
        assert error is not None
        try:
            raise error
        finally:
            del error  # its traceback refers to this frame, which would make a cycle


_FLOWING_USES = ("_exception", "_loop", "_parser", "_payload", "_read_timeout", "_reading_paused")
"""What `_Flowing` uses of aiohttp's connection."""


def connection_factory(loop: asyncio.AbstractEventLoop) -> partial[_Answering]:
    """Return a function that makes the protocols of connections for aiohttp."""
    one = ResponseHandler(loop)
    is_known = IS_LIKE_PIECES and all(hasattr(one, name) for name in _FLOWING_USES)
    return partial(_Flowing if is_known else _Answering, loop=loop)
