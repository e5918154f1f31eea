"""Requests without a stream: model lists, management; one request, one reply, one deadline."""

from __future__ import annotations

import asyncio

from aiollm._http import ERROR_BODY_SECONDS, MAX_UNARY_REPLY
from aiollm._http.turns import Turns
from aiollm._wire.redaction import redacted
from aiollm._wire.web_page import WEB_PAGE
from aiollm.errors import MAX_BODY, DeadlineError, LLMError, ProtocolError, ServerError
from aiollm.provider import HttpRequest, HttpResponse, Provider, Reply, Transport
from aiollm.types import Timeouts


class UnaryRequester:
    """Sends single requests over a transport.

    The `first_output` deadline holds for the headers of a reply, and again for its body.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def request(
        self, provider: Provider, timeouts: Timeouts, request: HttpRequest
    ) -> HttpResponse:
        """Send a request and return its complete reply. Raises: LLMError."""
        reply = await self.open(provider, timeouts, request)
        try:
            body = await _complete(reply, timeouts.first_output)
            # A captive portal or a wrong base URL answers with a page and status 200.
            if reply.content_type != "text/html":
                return HttpResponse(reply.status, reply.headers, body, request.url)
        finally:
            reply.close()
        page = f"the answer is {WEB_PAGE}"
        raise redacted(ServerError(page, status=reply.status, body=body), provider.token)

    async def open(self, provider: Provider, timeouts: Timeouts, request: HttpRequest) -> Reply:
        """Send a request and return its reply with the body unread. Raises: LLMError."""
        seconds = timeouts.first_output
        try:
            async with asyncio.timeout(seconds):
                reply = await self._transport.send(request, timeouts.connect)
            if 200 <= reply.status < 300:
                return reply
            try:
                body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
            finally:
                reply.close()
            refused = HttpResponse(reply.status, reply.headers, body, request.url)
            raise provider.codec.error(refused)
        except LLMError as error:  # which may quote a reply that echoes the key
            redacted(error, provider.token)
            raise
        except TimeoutError:
            late = seconds or 0.0
        raise DeadlineError(f"no answer within {late:g} s", which="first_output", after=late)


async def _complete(reply: Reply, seconds: float | None) -> bytes:
    """Return the complete body, which must arrive within `seconds`. Raises: LLMError."""
    pieces: list[bytes] = []
    size = 0
    turns = Turns(reply.read)
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            while piece := await turns.read():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_UNARY_REPLY:
                    raise ProtocolError(f"the reply is larger than {MAX_UNARY_REPLY} bytes")
    except TimeoutError:
        if not limit.expired():  # it is the caller's own timeout
            raise
    else:
        return b"".join(pieces)
    reason = f"the answer was not complete within {seconds:g} s"
    raise DeadlineError(reason, which="first_output", after=seconds or 0.0)
