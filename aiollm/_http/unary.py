"""Calls that are no stream: model lists, management; one request, one reply, one deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from aiollm.errors import MAX_BODY, DeadlineError, LLMError, ProtocolError, ServerError
from aiollm.provider import HttpReply, HttpRequest, Provider, Reply, Transport
from aiollm.providers.error_replies import redacted

MAX_REPLY = 64 * 1024 * 1024
"""Bytes of a reply that is no stream, such as a model list."""


def patient(provider: Provider, seconds: float) -> Provider:
    """Return the provider with at least `seconds` for each wait but that for a connection."""
    limits = provider.timeouts
    waits = {name: getattr(limits, name) for name in ("first_output", "idle", "stall")}
    short = {
        name: seconds for name, limit in waits.items() if limit is not None and limit < seconds
    }
    if not short:
        return provider
    return msgspec.structs.replace(provider, timeouts=msgspec.structs.replace(limits, **short))


class Unopened:
    """A transport that is not there yet: opened by the first request."""

    def __init__(self, open_transport: Callable[[], Awaitable[Transport]]) -> None:
        self._open = open_transport

    async def send(self, request: HttpRequest, connect: float | None) -> Reply:
        """Open the transport, then send. Raises: as `Transport.send`."""
        transport = await self._open()
        return await transport.send(request, connect)


class Caller:
    """Sends single requests over the registry's transport."""

    def __init__(self, open_transport: Callable[[], Awaitable[Transport]]) -> None:
        self._open_transport = open_transport

    async def call(self, provider: Provider, request: HttpRequest) -> HttpReply:
        """Send a request that is no stream and return its whole reply. Raises: LLMError."""
        reply = await self.open(provider, request)
        try:
            body = await _whole(reply, provider.timeouts.first_output)
            if reply.content_type != "text/html":
                return HttpReply(reply.status, reply.headers, body, request.url)
        finally:
            reply.close()
        page = "the answer is an HTML page: a proxy answers, or the base URL is wrong"
        raise redacted(ServerError(page, status=reply.status, body=body), provider.token)

    async def open(self, provider: Provider, request: HttpRequest) -> Reply:
        """Send a request and return its reply with the body unread. Raises: LLMError."""
        transport = await self._open_transport()
        seconds = provider.timeouts.first_output
        failure: LLMError
        try:
            async with asyncio.timeout(seconds):
                reply = await transport.send(request, provider.timeouts.connect)
            if 200 <= reply.status < 300:
                return reply
            try:
                body = await reply.read_whole(MAX_BODY, 1.0)
                whole = HttpReply(reply.status, reply.headers, body, request.url)
            finally:
                reply.close()
            failure = provider.codec.error(whole)
        except LLMError as error:
            failure = error
        except TimeoutError:
            failure = DeadlineError(
                f"no answer within {seconds:g} s", which="first_output", after=seconds or 0.0
            )
        try:
            raise redacted(failure, provider.token)
        finally:
            del failure  # its traceback holds this frame: a cycle


async def _whole(reply: Reply, seconds: float | None) -> bytes:
    """Return the whole body, which is to come within `seconds`. Raises: LLMError."""
    pieces: list[bytes] = []
    size = 0
    limit = asyncio.timeout(seconds)
    try:
        async with limit:
            while piece := await reply.read():
                pieces.append(piece)
                size += len(piece)
                if size > MAX_REPLY:
                    raise ProtocolError(f"the reply is larger than {MAX_REPLY} bytes")
    except TimeoutError:
        if not limit.expired():
            raise
    else:
        return b"".join(pieces)
    reason = f"the answer was not whole within {seconds:g} s"
    raise DeadlineError(reason, which="first_output", after=seconds or 0.0)
