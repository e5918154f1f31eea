"""The base of all model servers: requests with the provider's token, and typed replies."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, TypeAlias, TypeVar

import msgspec

from aiollm._wire.body import json_body
from aiollm._wire.lenient import decode
from aiollm.provider import HttpRequest, HttpResponse, Provider, Reply
from aiollm.providers.encoding import bearer_headers

T = TypeVar("T")

Send: TypeAlias = Callable[[HttpRequest], Awaitable[HttpResponse]]
Open: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]


class Server(ABC):
    """A model server, reached through functions that its owner passes in.

    `send` returns the complete reply; `send_slow` does the same, with enough time to load a model;
    `stream` returns once the headers have arrived. All of them raise LLMError for an error reply
    and enforce the deadlines.
    """

    schemes: ClassVar[tuple[str, ...]]
    """The DSN schemes of providers that are such servers."""

    def __init__(
        self, provider: Provider, send: Send, stream: Open, send_slow: Send | None = None
    ) -> None:
        self._provider = provider
        self._send = send
        self._stream = stream
        self._send_slow = send_slow or send

    @abstractmethod
    async def load(self, model: str) -> None:
        """Load a model and wait until it is ready."""

    @abstractmethod
    async def facts(self, model: str) -> dict[str, Any]:
        """Return what the server reports about a model for `Capabilities`, without loading it."""

    async def version(self) -> str:
        """Return the server's version."""
        return read(await self._ask("GET", "/api/version"), _Version).version

    def _request(self, method: str, path: str, body: Any = None) -> HttpRequest:
        return HttpRequest(
            self._provider.base_url.removesuffix("/v1") + path,
            bearer_headers(self._provider),
            None if body is None else json_body(body),
            method,
        )

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        return (await self._send(self._request(method, path, body))).body

    async def _ask_slow(self, method: str, path: str, body: Any = None) -> bytes:
        return (await self._send_slow(self._request(method, path, body))).body


class _Version(msgspec.Struct, frozen=True):
    version: str = ""


def read(body: bytes, kind: type[T]) -> T:
    """Decode a reply's JSON as `kind`. Raises: ProtocolError."""
    return decode(body, msgspec.json.Decoder(kind))
