"""Requests without a stream: model lists, management; one request, one reply, one deadline."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from aiollm._http import ERROR_BODY_SECONDS, MAX_UNARY_REPLY
from aiollm._http.masked_reply import MaskedReply, masked
from aiollm._http.turns import Turns
from aiollm._settings.redactor import Redactor
from aiollm._time_limits import TimeLimit
from aiollm._user_types.density import LARGE, REPLY, Weight
from aiollm._wire.framing import check_density
from aiollm._wire.redaction import forget_variables, redacted, redactor_of
from aiollm._wire.web_page import shown_page
from aiollm.errors import (
    MAX_BODY,
    DeadlineError,
    LLMError,
    ProtocolError,
    ServerError,
    UnsupportedError,
)
from aiollm.provider import HttpRequest, HttpResponse, Provider, Reply, Transports
from aiollm.types import Timeouts

T = TypeVar("T")


class UnaryRequester:
    """Sends single requests over a transport; replies and errors show no secret of the provider.

    The `first_output` deadline holds for the headers of a reply, and again for its body.
    """

    def __init__(
        self, transports: Transports, load: Callable[..., Awaitable[None]] | None = None
    ) -> None:
        """`load(codec=...)` imports a codec that is not imported yet: it reads refusals."""
        self._transports = transports
        self._load = load

    async def request(
        self, provider: Provider, timeouts: Timeouts, request: HttpRequest
    ) -> HttpResponse:
        """Send a request and return its complete reply. Raises: LLMError."""
        return await _clean(provider, self._request(provider, timeouts, request))

    async def models(self, provider: Provider, timeouts: Timeouts) -> tuple[str, ...]:
        """Return the names of the provider's models. Raises: LLMError."""
        codec = provider.codec
        if not provider.base_url:
            reason = f"{provider.name} has no list of models: it has no base URL"
            raise UnsupportedError(reason)
        return codec.model_names(await self.request(provider, timeouts, codec.models(provider)))

    async def open(self, provider: Provider, timeouts: Timeouts, request: HttpRequest) -> Reply:
        """Send a request and return its reply with the body unread. Raises: LLMError."""
        reply = await _clean(provider, self._open(provider, timeouts, request))
        redactor = redactor_of(provider.secrets)
        return reply if redactor is None else MaskedReply(reply, redactor)

    async def _request(
        self, provider: Provider, timeouts: Timeouts, request: HttpRequest
    ) -> HttpResponse:
        reply = await self._open(provider, timeouts, request)
        redactor, weight = redactor_of(provider.secrets), Weight(REPLY)
        try:
            body = await _complete(reply, timeouts.first_output, redactor, weight)
        finally:
            reply.close()
        # A captive portal or a wrong base URL answers with a page and status 200.
        if reply.content_type == "text/html":
            page = f"the answer is {shown_page(body)}"
            raise ServerError(page, status=reply.status, body=body)
        check_density(body, weight)
        return HttpResponse(reply.status, reply.headers, body, request.url)

    async def _open(self, provider: Provider, timeouts: Timeouts, request: HttpRequest) -> Reply:
        transport = self._transports.transport_of(provider)
        limit = TimeLimit(timeouts.first_output)
        try:
            async with limit:
                reply = await transport.send(request, timeouts.connect)
            if reply.status // 100 == 2:
                return reply
            try:
                body = await reply.read_whole(MAX_BODY, ERROR_BODY_SECONDS)
            finally:
                reply.close()
            if self._load is not None:
                await self._load(codec=provider.codec)
            refused = HttpResponse(reply.status, reply.headers, body, request.url)
            raise provider.codec.error(refused)
        except TimeoutError:
            if not limit.expired():  # another deadline's own error, such as that of `connect`
                raise
            late = timeouts.first_output or 0.0
        raise DeadlineError(f"no answer within {late:g} s", which="first_output", after=late)


async def _clean(provider: Provider, work: Awaitable[T]) -> T:
    """Return the result of `work`, whose errors may quote a reply that echoes a key."""
    try:
        return await work
    except LLMError as error:
        redacted(error, provider.secrets)
        raise
    except BaseException as error:
        forget_variables(error)
        raise


async def _complete(
    reply: Reply, seconds: float | None, redactor: Redactor | None, weight: Weight
) -> bytes:
    """Return the complete body without the keys in it, within `seconds`. Raises: LLMError."""
    limit = TimeLimit(seconds)
    try:
        async with limit:
            # What decodes it quotes it in its errors, and hands on what it says.
            return await masked(await _whole(reply, weight), redactor)
    except TimeoutError:
        if not limit.expired():  # it is the caller's own timeout
            raise
    reason = f"the answer was not complete within {seconds:g} s"
    raise DeadlineError(reason, which="first_output", after=seconds or 0.0)


async def _whole(reply: Reply, weight: Weight) -> bytes:
    """Return the complete body, which is weighed while it arrives. Raises: ProtocolError."""
    pieces: list[bytes] = []
    size = 0
    turns = Turns(reply.read)
    while piece := await turns.read():
        pieces.append(piece)
        size += len(piece)
        if weight.add(piece) and size > LARGE and reply.content_type != "text/html":
            break  # it is refused, whatever comes
        if size > MAX_UNARY_REPLY:
            raise ProtocolError(f"the reply is larger than {MAX_UNARY_REPLY} bytes")
    return b"".join(pieces)
