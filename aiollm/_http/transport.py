"""Transport: sends requests over aiohttp, and translates its errors into aiollm's."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import aiohttp

from aiollm._http.aiohttp_tuning import (
    READ_BUFFER,
    Connector,
    SocketConnector,
    end,
    leave,
    request_class,
    sending,
)
from aiollm._http.pieces import Pieces, has_bytes, in_pieces
from aiollm._http.receiving import SendNotes
from aiollm._http.repeated import RepeatedResponse, Repeater
from aiollm._http.translation import FOREIGN, translate
from aiollm._http.unsent import note_unsent
from aiollm._time_limits import TimeLimit
from aiollm._wire.body import Body
from aiollm._wire.redaction import forget_variables
from aiollm.dsn import Network
from aiollm.errors import (
    ClosedError,
    ConfigError,
    LLMError,
    LocalError,
    ProtocolError,
    TransportError,
)
from aiollm.provider import HttpRequest

if TYPE_CHECKING:
    from aiollm._http.ways import Way, Ways

DRAIN_SECONDS = 0.1
"""Seconds to wait for the end of an answered body, so that its connection can be reused.

The end usually arrives with the last bytes; a longer wait would cost more than a new connection."""

INLINE_BODY = 64 * 1024
"""Bytes up to which a body is sent in one piece."""

_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "aiollm"}

_TRUSTS_NOBODY = (
    "TLS failed: this process has no certificates to check servers by: install the system's "
    "(ca-certificates), or check SSL_CERT_FILE and SSL_CERT_DIR, and start it again"
)

Data: TypeAlias = bytes | AsyncIterator[bytes] | None


class AiohttpReply:
    """An aiohttp response as a `provider.Reply`."""

    __slots__ = ("_content", "_open", "_response", "content_type", "status")

    def __init__(
        self, response: aiohttp.ClientResponse | RepeatedResponse, replies: set[AiohttpReply]
    ) -> None:
        """Add the reply to the open `replies` of a transport until it is closed."""
        self._response = response
        self._content = response.content
        self._open = replies
        self.status = response.status
        header = response.headers.get("Content-Type", "")
        self.content_type = header.partition(";")[0].strip().lower()
        replies.add(self)

    @property
    def headers(self) -> Mapping[str, str]:
        """Header names in lower case."""
        return {name.lower(): value for name, value in self._response.headers.items()}

    def all_of(self, name: str) -> Sequence[str]:
        """Return the values of a header that may be sent several times."""
        return self._response.headers.getall(name, ())

    @property
    def has_body(self) -> bool:
        """Whether bytes of the body have arrived already."""
        return has_bytes(self._content)

    async def read(self) -> bytes:
        """Return what has arrived, b"" at the end. Raises: TransportError, ProtocolError."""
        try:
            return await self._content.readany()
        except FOREIGN as error:
            ours = self._translated(error)
        # Raised outside the handler, so that a foreign error, whose text may contain a URL or a
        # header, does not become its context.
        try:
            raise ours
        finally:
            del ours  # its traceback refers to this frame, which would make a cycle

    def _translated(self, error: BaseException) -> LLMError:
        # The body keeps the error, whose frames refer to the body: a cycle.
        error.__traceback__ = None
        if self not in self._open:  # it was closed under its reader
            return ClosedError("the registry was closed")
        return translate(error, in_body=True)

    async def read_whole(self, limit: int, seconds: float | None) -> bytes:
        """Return the rest of the body, cut at `limit` bytes or after `seconds`."""
        pieces: list[bytes] = []
        size = 0
        with contextlib.suppress(TimeoutError, TransportError, ProtocolError):
            async with TimeLimit(seconds):
                while size < limit and (piece := await self.read()):
                    pieces.append(piece)
                    size += len(piece)
        return b"".join(pieces)[:limit]

    async def drain(self) -> None:
        """Briefly try to read an answered body to its end, so that its connection can be reused."""
        if self._content.at_eof():
            return
        with contextlib.suppress(TimeoutError, TransportError, ProtocolError):
            async with TimeLimit(DRAIN_SECONDS):
                while await self.read():
                    pass

    def close(self) -> None:
        """Release the connection, closing it unless the body was read to its end."""
        if self not in self._open:
            return
        self._open.remove(self)
        if self._response.closed and self._response.connection is None:
            # Read to its end: aiohttp has returned the connection to its pool.
            return
        # The rest of the body must not be left for the next request on this connection. abort()
        # rather than close(), which waits for unsent bytes and, under TLS, for the peer.
        connection = self._response.connection
        if connection is not None and connection.transport is not None:
            connection.transport.abort()
        self._response.close()


class ReplyInPieces(AiohttpReply):
    """A reply whose body can be taken without a coroutine, as `_http.answer` does.

    What it raises, `translated` translates: one frame less at each read.
    """

    __slots__ = ()

    _content: Pieces

    @property
    def body(self) -> Pieces:
        """The body: it can be taken and waited for."""
        return self._content

    def translated(self, error: Exception) -> LLMError | None:
        """Return what an error means, None for one that is not aiohttp's."""
        return self._translated(error) if isinstance(error, FOREIGN) else None


class EncodedReply(AiohttpReply):
    """A reply whose body is compressed or the like, although nobody asked: it is never read.

    A few kilobytes can be gigabytes once they are unpacked.
    """

    __slots__ = ()

    async def read(self) -> bytes:
        """Refuse to read, unless there is nothing. Raises: ProtocolError."""
        if self._content.at_eof():
            return b""
        encoding = self._response.headers["Content-Encoding"]
        raise ProtocolError(
            f"the answer came with the Content-Encoding {encoding!r:.40}, which nobody asked for: "
            "turn off compression at the server, or at the proxy before it"
        )


_PLAIN = frozenset({"", "identity", "none", "utf-8"})
"""Encodings that change nothing; the last two are how some servers keep a proxy from compressing
(Vercel and nginx, 2025), or a mistake for the charset."""


def _reply(
    response: aiohttp.ClientResponse | RepeatedResponse, replies: set[AiohttpReply]
) -> AiohttpReply:
    encoding = response.headers.get("Content-Encoding", "")
    if encoding and encoding.strip().lower() not in _PLAIN:
        return EncodedReply(response, replies)
    kind = ReplyInPieces if type(in_pieces(response.content)) is Pieces else AiohttpReply
    return kind(response, replies)


def _request(
    session: aiohttp.ClientSession, request: HttpRequest, connect: float | None, way: Way | None
) -> Awaitable[aiohttp.ClientResponse]:
    body = request.body
    headers = request.headers
    data: Data = None
    if body is not None:
        data = body.simple
        if data is None or len(data) > INLINE_BODY:
            data = _pieces(body)
            headers = {**headers, "Content-Length": str(len(body))}
    return session.request(
        request.method,
        request.url,
        headers=headers,
        data=data,
        allow_redirects=False,
        timeout=_connect_within(connect),
        **(way.options if way is not None else {}),
    )


class HttpTransport:
    """Sends requests over one aiohttp session, which it owns and opens at the first request."""

    _repeater: Repeater
    """Belongs to the session, and is made with it."""

    def __init__(self, *, trusts_anyone: bool = True) -> None:
        """Say whether this process has certificates to check those of servers by."""
        self._trusts_anyone = trusts_anyone
        self._session: aiohttp.ClientSession | None = None
        self._fresh: aiohttp.ClientSession | None = None
        self._public: aiohttp.ClientSession | None = None
        self._sockets: dict[tuple[str, bool], aiohttp.ClientSession] = {}
        self._ways: Ways | None = None
        self._replies: set[AiohttpReply] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._owner = os.getpid()

    async def way_of(self, network: Network, name: str) -> Way:
        """Return the way to a provider. Raises: LocalError, ClosedError, ConfigError."""
        self._open()
        if self._ways is None:
            from aiollm._http.ways import Ways  # most providers are reached the usual way

            self._ways = Ways()
        return await self._ways.of(network, name)

    async def send(
        self, request: HttpRequest, connect: float | None, way: Way | None = None
    ) -> AiohttpReply:
        """Send and return once the headers are in.

        A reused connection that the server had closed is replaced once, by a new one.
        Raises: TransportError, DeadlineError, ConfigError for an impossible URL, ClosedError.
        """
        session = self._open()
        sent = SendNotes()
        try:
            if way is None:
                known = await self._repeater.send(request, sent, _connect_within(connect))
                if known is not None:
                    return _reply(known, self._replies)
            if way is not None and way.network.socket:
                session = self._at(way.network.socket)
            # It is not reset: whoever sends next sets their own, and a call whose loop was closed
            # ends when it is collected, in the context of anyone.
            sending.set(sent)
            response = await _request(session, request, connect, way)
            if way is None:
                self._repeater.learn(request, response, sent)
            return _reply(response, self._replies)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            ours = self._translate(error, connect, way)
            # Servers close idle connections, sometimes just as a request is sent on one. No byte
            # of a response has come, so it can be sent again; on a new connection, only once.
            stale = sent.met_a_stale_connection() and not self._closed
            stale = stale and not isinstance(error, aiohttp.ClientConnectorError)
        except FOREIGN as error:
            ours = self._translate(error, connect, way)
            stale = False
        except BaseException as error:
            # A cancellation passes aiohttp's frames, whose variables hold the headers.
            forget_variables(error)
            if not sent.began:
                note_unsent(error)
            raise
        if not stale:
            try:
                raise ours
            finally:
                del ours
        return await self._send_fresh(request, connect, way)

    async def _send_fresh(
        self, request: HttpRequest, connect: float | None, way: Way | None
    ) -> AiohttpReply:
        # It never reuses a connection, so no second attempt can meet a stale one.
        if way is not None and way.network.socket:
            session = self._at(way.network.socket, force_close=True)
        else:
            session = self._fresh = self._fresh or self._new_session(force_close=True)
        try:
            return _reply(await _request(session, request, connect, way), self._replies)
        except FOREIGN as error:
            ours = self._translate(error, connect, way)
        except BaseException as error:
            forget_variables(error)
            raise
        try:
            raise ours
        finally:
            del ours

    def _translate(self, error: BaseException, connect: float | None, way: Way | None) -> LLMError:
        if self._closed:
            return ClosedError("the registry was closed")
        if way is not None:
            from aiollm._http.way_faults import fault_on  # for failures of few providers

            if (fault := fault_on(way.network, error, connect)) is not None:
                return fault
        elif not self._trusts_anyone and isinstance(error, aiohttp.ClientConnectorCertificateError):
            return LocalError(_TRUSTS_NOBODY, may_retry=False)
        return translate(error, connect=connect)

    def _open(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        if self._closed:
            raise ClosedError("the registry is closed")
        if self._loop is not loop:
            self._leave_to_parent()
            if self._loop is not None and not self._loop.is_closed() and self._loop.is_running():
                raise ConfigError(
                    "this Registry is in use on another event loop: make one Registry per loop"
                )
            # The loop of the earlier session has stopped, so nothing can be awaited on it.
            self.kill()
            self._closed = False
            self._ways = None
            self._loop = loop
        if self._session is None:
            connector = Connector()
            self._session = self._new_session(connector)
            self._repeater = Repeater(connector)
        return self._session

    def _at(self, socket: str, *, force_close: bool = False) -> aiohttp.ClientSession:
        session = self._sockets.get((socket, force_close))
        if session is None:
            connector = SocketConnector(socket, force_close=force_close)
            session = self._sockets[socket, force_close] = self._new_session(connector)
        return session

    @staticmethod
    def _new_session(
        connector: aiohttp.BaseConnector | None = None, *, force_close: bool = False
    ) -> aiohttp.ClientSession:
        # A cookie jar would carry state between unrelated calls. trust_env stays off, so that no
        # proxy or .netrc of the environment gets to see or change a request.
        return aiohttp.ClientSession(
            connector=connector or Connector(force_close=force_close),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=_HEADERS,
            auto_decompress=False,
            read_bufsize=READ_BUFFER,
            request_class=request_class(),
        )

    async def fetch(self, url: str) -> bytes:
        """Return the body of a public URL. Raises: UnsupportedError, LocalError."""
        from aiollm._http import fetching  # few programs fetch images

        self._open()
        if self._public is None:
            self._public = fetching.public_session()
        return await fetching.fetch(self._public, url)

    def _leave_to_parent(self) -> None:
        """Forget, in a process that was forked, the connections that it inherited.

        Closing one would also remove it from the poll of the parent's loop, which both share.
        """
        if self._owner == os.getpid():
            return
        self._owner, self._loop, self._ways = os.getpid(), None, None
        self._replies.clear()
        for session in self._take_sessions():
            leave(session)

    async def aclose(self) -> None:
        """Close all connections, including those in use; idempotent."""
        self._leave_to_parent()
        self._closed = True
        self._close_replies()
        sessions = self._take_sessions()
        try:
            while sessions:
                await sessions[-1].close()
                sessions.pop()
        finally:
            for each in sessions:  # closing was cancelled
                end(each)

    def _take_sessions(self) -> list[aiohttp.ClientSession]:
        sessions = [self._session, self._fresh, self._public, *self._sockets.values()]
        self._session = self._fresh = self._public = None
        self._sockets = {}
        return [each for each in sessions if each is not None]

    def _close_replies(self) -> None:
        # Closing a connection does not wake its reader, but closing the response does.
        for reply in tuple(self._replies):
            reply.close()

    def kill(self) -> None:
        """Close all connections at once, without a running loop."""
        self._leave_to_parent()
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._close_replies()
        self._replies.clear()  # those of a closed loop cannot be closed, now or later
        for session in self._take_sessions():
            end(session)


@functools.lru_cache(16)
def _connect_within(seconds: float | None) -> aiohttp.ClientTimeout:
    # aiohttp ends every request after 300 s by default, but an answer may take longer than that.
    return aiohttp.ClientTimeout(total=None, connect=seconds)


async def _pieces(body: Body) -> AsyncIterator[bytes]:
    for piece in body.slices():
        for start in range(0, len(piece), INLINE_BODY):
            yield piece[start : start + INLINE_BODY]
            await asyncio.sleep(0)  # other streams run while a large body is sent
