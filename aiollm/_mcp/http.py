"""A server over streamable HTTP: the SDK's transport over a client that bounds what it reads."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Mapping
from contextlib import AsyncExitStack, suppress
from types import TracebackType
from typing import Any, Self

import msgspec

from aiollm._mcp.events import in_turns
from aiollm._mcp.lines import readable
from aiollm._mcp.posts import Events, Post, Posts, Receiving, Sending, head_of
from aiollm._mcp.sdk import Sdk
from aiollm._mcp.traffic import (
    NOT_THERE,
    SESSION_LOST,
    TOO_LARGE,
    UNREACHABLE,
    Traffic,
)
from aiollm._user_types.density import MESSAGE, Weight

CONNECTIONS = 100
"""Requests under way at a time; others wait in the client."""

_ERROR_BODY = 2048
"""Bytes of an error page that are read."""

_A_TURN = 64
"""HTTP chunks between two turns of the event loop: each takes some 7 microseconds."""

_NOTICES, _NOTICE_SECONDS = 16, 5.0
"""How many servers' answers to a notice are waited for at a time, and how long."""

_WAITING_NOTICES = 1000
"""Notices that wait their turn; beyond them the oldest is left out."""

_NOT_FOUND = (404, 405)

_REFUSALS = (400, 401)
_LOST = re.compile(
    rb"(?:unknown|invalid|expired|no valid)[ \w]{0,24}?(?:mcp[- ])?session"
    rb"|session\b[^.{}]{0,60}?\b(?:not found|unknown|invalid|expired|terminated|not exist|no more)"
    rb"|server not initialized",
    re.IGNORECASE,
)
"""What servers say with a 400 or 401 of a session that they have forgotten, where the protocol
wants a 404: those after the examples of its TypeScript and Rust SDKs among them (2026)."""

_NO_SESSION = -32001
"""The code with which others say so, with a 200 (2026)."""


class _Fault(msgspec.Struct):
    code: int = 0
    message: str = ""


class _Failed(msgspec.Struct):
    """An answer to a call that has no result."""

    error: _Fault


class HttpTransport:
    """Speaks with a server over HTTP; an async context manager, as the SDK wants it."""

    def __init__(
        self, traffic: Traffic, url: str, headers: Mapping[str, str], connect: float, most: int
    ) -> None:
        """`connect`: seconds for a connection; `most`: bytes of a message at most."""
        self._traffic = traffic
        # A query may hold a key, and what the SDK asks for goes into the logs of its libraries.
        self._url, _, self._query = url.partition("?")
        self._headers = headers
        self._connect = connect
        self._most = most
        self._posts = Posts()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> tuple[Receiving, Sending]:
        # Making one reads the certificates of the system, some 30 ms.
        made = await asyncio.to_thread(self._client)
        client = await self._stack.enter_async_context(made)
        transport = self._traffic.sdk.http_transport(
            self._url, http_client=client, max_sse_event_size=self._most
        )
        try:
            reading, writing = await self._stack.enter_async_context(transport)
        except BaseException:
            await self._stack.aclose()
            raise
        return Receiving(reading, self._traffic), Sending(writing, self._traffic, self._posts)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._stack.__aexit__(kind, error, trace)

    def close(self) -> None:
        """Do nothing: there is no process that must end at once."""

    def _client(self) -> Any:
        httpx = self._traffic.sdk.httpx
        limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
        inner = httpx.AsyncHTTPTransport(limits=limits, trust_env=False)
        # Calls have deadlines of their own; one that waits for the model's next event has none.
        timeout = httpx.Timeout(None, connect=self._connect)
        return httpx.AsyncClient(
            # Of compressed bytes, nobody knows how many there will be.
            headers={"accept-encoding": "identity", **self._headers},
            timeout=timeout,
            trust_env=False,
            transport=_Bounded(self._traffic.sdk, inner, self._most, self._query, self._posts),
        )


class _Bounded:
    """A transport whose failures, refusals and large answers are answers to their own request.

    With the SDK's own, a request that fails ends the connection, and all others with it.
    """

    def __init__(self, sdk: Sdk, inner: Any, most: int, query: str, posts: Posts) -> None:
        self._sdk = sdk
        self._query = query.encode()
        self._inner = inner
        self._most = most
        self._posts = posts
        self._events = type("Events", (Events, sdk.httpx.AsyncByteStream), {})
        self._untold: deque[Any] = deque(maxlen=_WAITING_NOTICES)
        self._telling: set[asyncio.Task[None]] = set()

    async def handle_async_request(self, request: Any) -> Any:
        """Return the answer to a request, whatever happens. Raises: CancelledError."""
        httpx, code, reason = self._sdk.httpx, UNREACHABLE, ""
        head = head_of(request.content if request.method == "POST" else b"")
        if head.is_cancelling:
            self._posts.end(head.cancelled)
            self._tell(self._whole(request))
            return httpx.Response(202)
        post = self._posts.begin(head.id)
        try:
            return await self._answered(request, post)
        except TimeoutError:
            reason = "the call was cancelled"
        except httpx.TransportError as error:
            reason = f"{type(error).__name__} at {request.url.host}: {error}".rstrip(": ")
            if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                code = NOT_THERE
        return self._error(code, reason)

    async def _answered(self, request: Any, post: Post) -> Any:
        """Return the answer to a request; one that comes as events is still under way."""
        whole, is_under_way = self._whole(request), False
        try:
            response = await post.within(self._inner.handle_async_request(whole))
            is_under_way = _is_events(request, response)
            if not is_under_way:
                return await post.within(self._checked(request, response))
            turning = in_turns(self._sdk.httpx, response.stream)
            response.stream = self._events(turning, post, self._posts)
            return response
        finally:
            if not is_under_way:
                self._posts.done(post)

    def _whole(self, request: Any) -> Any:
        """Return a request with the query of the URL."""
        if not self._query:
            return request
        return self._sdk.httpx.Request(
            request.method,
            request.url.copy_with(query=self._query),
            headers=request.headers,
            stream=request.stream,
            extensions=request.extensions,
        )

    def _tell(self, request: Any) -> None:
        """Say that a call is cancelled: whoever cancelled it, and other calls, do not wait."""
        self._untold.append(request)
        if len(self._telling) < _NOTICES:
            task = asyncio.create_task(self._told())
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _told(self) -> None:
        while self._untold:
            request = self._untold.popleft()
            with suppress(TimeoutError, self._sdk.httpx.TransportError):
                async with asyncio.timeout(_NOTICE_SECONDS):
                    response = await self._inner.handle_async_request(request)
                    await response.aclose()

    async def _checked(self, request: Any, response: Any) -> Any:
        status, kind = response.status_code, response.headers.get("content-type", "")
        if "event-stream" in kind:
            response.stream = in_turns(self._sdk.httpx, response.stream)
        if request.method != "POST" or 300 <= status < 400 or status == 202:
            return response
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            return self._error(UNREACHABLE, "the answer is compressed, which was not asked for")
        if status < 300 and "json" not in kind:
            return response
        limit = self._most if "json" in kind else _ERROR_BODY
        weight = Weight(MESSAGE)
        body = await self._body(response, limit, weight)
        if status >= 400:
            return self._refused(request, response, body)
        if body is None:
            excess = weight.excess or f"more than {limit} bytes"
            return self._error(TOO_LARGE, f"the result is too large: {excess}")
        if len(body) < _ERROR_BODY and _says_no_session(request, body):
            return self._lost()
        body, found = readable(body)
        if found.refusal:
            return self._error(TOO_LARGE, f"the result is too large: {found.refusal}")
        return self._sdk.httpx.Response(status, headers=_plain(response), content=body)

    async def _body(self, response: Any, most: int, weight: Weight) -> bytes | None:
        """Read a body, None if it has too many bytes or parts; leave nothing open."""
        body, count = bytearray(), 0
        try:
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > most or weight.add(piece):
                    return None
                count += 1
                if count % _A_TURN == 0:  # HTTP chunks that have come do not wait for each other
                    await asyncio.sleep(0)
        finally:
            await response.aclose()
        return bytes(body)

    def _refused(self, request: Any, response: Any, body: bytes | None) -> Any:
        status = response.status_code
        body, found = readable(body or b"")
        is_gone = status == 404 and "mcp-session-id" in request.headers
        # Who has read the call answers it by its id.
        if is_gone or (status in _REFUSALS and _is_lost(request, body) and _is_nobodys(body)):
            return self._lost()
        if found.is_message and not found.refusal:
            return self._sdk.httpx.Response(status, headers=_plain(response), content=body)
        if status in _NOT_FOUND and not body:
            return self._error(UNREACHABLE, f"HTTP {status}: no MCP server at this path")
        text = body[:_ERROR_BODY].decode("utf-8", "replace")
        said = " ".join(text.split())[:300]
        return self._error(UNREACHABLE, f"HTTP {status}: {said}".strip(": "))

    def _lost(self) -> Any:
        return self._error(SESSION_LOST, "the server has forgotten the session")

    def _error(self, code: int, reason: str) -> Any:
        """Return an answer that the SDK takes as an error of this request alone."""
        error = {"code": code, "message": reason}
        body = msgspec.json.encode({"jsonrpc": "2.0", "id": None, "error": error})
        headers = {"content-type": "application/json"}
        return self._sdk.httpx.Response(502, headers=headers, content=body)

    async def aclose(self) -> None:
        """Close the connections."""
        self._stop_telling()
        await self._inner.aclose()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        self._stop_telling()
        await self._inner.__aexit__(*error)

    def _stop_telling(self) -> None:
        for task in self._telling:
            task.cancel()


def _is_lost(request: Any, said: bytes) -> bool:
    """Return whether the answer to a request of a session says that there is no such session."""
    return "mcp-session-id" in request.headers and _LOST.search(said[:_ERROR_BODY]) is not None


def _is_events(request: Any, response: Any) -> bool:
    """Return whether the answer to a call comes in pieces, which the SDK reads."""
    status, headers = response.status_code, response.headers
    is_read_here = "json" in headers.get("content-type", "")
    is_plain = headers.get("content-encoding", "identity") == "identity"
    return request.method == "POST" and status == 200 and is_plain and not is_read_here


def _says_no_session(request: Any, body: bytes) -> bool:
    """Return whether an answer with a 200 has an error with the code for it.

    A call whose result speaks of a session has run, and must not run again.
    """
    try:
        fault = msgspec.json.decode(body, type=_Failed).error
    except (msgspec.DecodeError, RecursionError):
        return False
    return fault.code == _NO_SESSION and _is_lost(request, fault.message.encode())


def _is_nobodys(body: bytes) -> bool:
    """Return whether a body answers no request by its id."""
    try:
        return head_of(body).id is None
    except msgspec.DecodeError:
        return True


def _plain(response: Any) -> dict[str, str]:
    """Return the headers of a response that is whole and decoded."""
    gone = ("content-length", "content-encoding", "transfer-encoding")
    return {name: value for name, value in response.headers.items() if name not in gone}
