"""Access: the transport of a provider with a query, a network or tokens of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from msgspec.structs import replace

from aiollm._http.unsent import note_unsent
from aiollm._settings.network import with_query
from aiollm.provider import HttpRequest, Provider, Reply

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from aiollm._http.tokens import Tokens
    from aiollm._http.transport import AiohttpReply, HttpTransport
    from aiollm.dsn import Secret


class Shared(Protocol):
    """What the providers of a registry share."""

    async def open_transport(self) -> HttpTransport:
        """Return the transport. Raises: LLMError."""

    def open_tokens(self) -> Tokens:
        """Return the tokens of all callables."""


class Access:
    """Completes the requests of one provider, and sends them its way."""

    def __init__(self, provider: Provider, shared: Shared) -> None:
        """Take a provider, and what its requests share with those of others."""
        self._provider = provider
        self._shared = shared

    async def send(self, request: HttpRequest, connect: float | None) -> Reply:
        """Complete a request and send it. Raises: as `Transport.send`, ConfigError."""
        provider = self._provider
        if provider.query:
            request = replace(request, url=with_query(request.url, provider.query))
        token = provider.token
        if token is None or not token.changes:
            return await self._send(request, connect)
        from aiollm._wire.tokens import DynamicToken, with_token  # for callables alone

        assert isinstance(token, DynamicToken)
        tokens = self._shared.open_tokens()
        try:
            secret = await tokens.get(token, connect)
        except BaseException as error:
            note_unsent(error)
            raise
        headers = request.headers
        request = replace(request, headers=with_token(headers, secret))
        reply = await self._send(request, connect)
        if reply.status != 401:
            return reply
        newer = await _after(reply, tokens.get(token, connect, refused=secret))
        if newer == secret:
            return reply
        reply.close()
        return await self._send(replace(request, headers=with_token(headers, newer)), connect)

    async def _send(self, request: HttpRequest, connect: float | None) -> Reply:
        network = self._provider.network
        transport = await self._shared.open_transport()
        way = await transport.way_of(network, self._provider.name)
        reply = await transport.send(request, connect, way)
        if network.proxy and _is_proxys_own(reply):
            from aiollm._http.way_faults import proxy_refusal

            reply.close()
            raise proxy_refusal(network, reply.status, reply.all_of("Proxy-Authenticate"))
        return reply


def _is_proxys_own(reply: AiohttpReply) -> bool:
    """Return whether the proxy answered in place of the server, of what came without a tunnel."""
    if reply.status == 403 or reply.status >= 500:
        # Squid marks its own pages so (5.7); those of other proxies look like a server's.
        return bool(reply.all_of("X-Squid-Error"))
    return reply.status == 407


async def _after(reply: Reply, getting: Awaitable[Secret]) -> Secret:
    """Return a token, or close the reply that made it necessary."""
    try:
        return await getting
    except BaseException:
        reply.close()
        raise
