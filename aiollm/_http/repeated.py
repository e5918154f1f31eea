"""Requests like earlier ones, sent without aiohttp's session."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiollm._http.aiohttp_tuning import READ_BUFFER, SMALL_BODY, Connector
from aiollm._http.receiving import SendNotes, is_interim
from aiollm.provider import HttpRequest

MOST = 128
"""Heads that are kept; where more differ, as with one header per call, it starts over."""

_UNLIKE = ("Transfer-Encoding", "Expect", "Content-Encoding", "Cookie")
"""Headers of requests that aiohttp does more for than to write them."""

_PARAMETERS = {
    "skip_payload": False,
    "read_until_eof": True,
    "auto_decompress": False,
    "read_timeout": None,
    "read_bufsize": READ_BUFFER,
}
"""How aiohttp's parser is set for a response, as its session does it."""


class _Place(aiohttp.ClientRequest):
    """Stands for a request where aiohttp connects: it has nothing but the server's address."""

    @cached_property
    def connection_key(self) -> Any:
        """Where the pool keeps its connections: the same object for all of them."""
        return super().connection_key


class _Head:
    """The head of a request as aiohttp wrote it, up to the length of its body; no repr shows it."""

    __slots__ = ("key", "place", "start")

    def __init__(self, place: _Place, start: bytes) -> None:
        self.key = place.connection_key
        self.place = place
        self.start = start


class RepeatedResponse:
    """What `transport.AiohttpReply` needs of aiohttp's response."""

    __slots__ = ("closed", "connection", "content", "headers", "status")

    def __init__(self, connection: Any, message: Any, content: Any) -> None:
        """Own the connection until the end of the body."""
        self.connection: Any = connection
        self.content: aiohttp.StreamReader = content
        self.status: int = message.code
        self.headers: Any = message.headers
        self.closed = False
        content.on_eof(self._at_end)

    def _at_end(self) -> None:
        self.closed = True
        connection, self.connection = self.connection, None
        connection.release()

    def close(self) -> None:
        """Wake whoever reads the body, and close the connection unless it was released."""
        self.content.set_exception(aiohttp.ClientConnectionError("Connection closed"))
        self.closed = True
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()


class Repeater:
    """Sends a request again that aiohttp has sent before, with another body.

    What aiohttp checked and wrote the first time is written again. Where anything is not as
    before, nothing is sent, and the caller asks aiohttp's session.
    """

    __slots__ = ("_connector", "_heads")

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._heads: dict[tuple[object, ...], _Head] = {}

    async def send(
        self, request: HttpRequest, sent: SendNotes, within: aiohttp.ClientTimeout
    ) -> RepeatedResponse | None:
        """Return the response, None if nothing was sent. Raises: what aiohttp raises."""
        body = request.body.simple if request.body is not None else None
        if body is None or len(body) > SMALL_BODY:
            return None
        head = self._heads.get((request.method, request.url, *request.headers.items()))
        if head is None:
            return None
        connection = await self._connector.idle(head.key, sent)
        if connection is None:
            try:
                connection = await self._connector.connect(head.place, (), within, sent)
            except TimeoutError as error:
                raise aiohttp.ConnectionTimeoutError from error  # as aiohttp's session does
        try:
            protocol = connection.protocol
            protocol.set_response_params(**_PARAMETERS)
            protocol.transport.write(b"%b%d\r\n\r\n%b" % (head.start, len(body), body))
            while True:
                message, content = await protocol.read()
                if not is_interim(message.code):
                    return RepeatedResponse(connection, message, content)
        except BaseException:
            connection.close()
            raise

    def learn(
        self, request: HttpRequest, response: aiohttp.ClientResponse, sent: SendNotes
    ) -> None:
        """Remember how aiohttp sent a request that was answered."""
        known = (request.method, request.url, *request.headers.items())
        if (head := self._heads.get(known)) is not None and head.key == sent.key:
            return  # as where many new connections are opened at once
        info = response.request_info
        is_plain = info.method == "POST" and not any(name in info.headers for name in _UNLIKE)
        if not (is_plain and _IS_KNOWN):
            return
        place = _Place("GET", info.url.origin())
        if place.connection_key != sent.key:
            return
        if len(self._heads) >= MOST:
            self._heads.clear()
        line = f"{info.method} {info.url.raw_path_qs} HTTP/1.1\r\n"
        self._heads[known] = _Head(place, (line + _without_length(info.headers)).encode())


def _without_length(headers: Mapping[str, str]) -> str:
    """Return the lines of a head up to the length of the body, which comes last."""
    lines = (f"{name}: {headers[name]}\r\n" for name in headers if name.lower() != "content-length")
    return f"{''.join(lines)}Content-Length: "


def _takes(function: Any, given: Collection[str]) -> bool:
    """Return whether a function may be called with just these arguments."""
    known = inspect.signature(function).parameters
    needed = {name for name, each in known.items() if each.default is each.empty}
    return known.keys() >= set(given) and needed <= {"self", *given}


_IS_KNOWN = (
    _takes(ResponseHandler.set_response_params, _PARAMETERS)
    and _takes(aiohttp.ClientRequest, ("method", "url"))
    and hasattr(aiohttp.BaseConnector, "_get")
)
"""Whether this version of aiohttp has what is used of it here."""
