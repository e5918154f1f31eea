"""Management of model servers: what llama-swap and Ollama have, run, and let go of.

The classes ask through two functions that their owner gives them: `call` sends a request and
returns its whole reply, `stream` returns the reply once its headers are in. Both raise for an
error reply and hold the deadlines.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from aiollm import inventory
from aiollm.encoding import bearer_headers
from aiollm.errors import ConfigError, ProviderError
from aiollm.framing import SSE
from aiollm.inventory import (
    LoadedModel,
    ModelInfo,
    OllamaModel,
    Props,
    RunningModel,
    SwapEvent,
    SwapModel,
)
from aiollm.provider import HttpReply, HttpRequest, Provider, Reply, json_body

Call: TypeAlias = Callable[[HttpRequest], Awaitable[HttpReply]]
Open: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]


class _Service:
    """What both kinds of server share: requests with the provider's token, typed replies."""

    def __init__(self, provider: Provider, call: Call, stream: Open) -> None:
        self._provider = provider
        self._call = call
        self._stream = stream

    def _request(self, method: str, path: str, body: Any = None) -> HttpRequest:
        return HttpRequest(
            self._provider.base_url.removesuffix("/v1") + path,
            bearer_headers(self._provider),
            None if body is None else json_body(body),
            method,
        )

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        return (await self._call(self._request(method, path, body))).body

    async def version(self) -> str:
        """Return the server's version."""
        return inventory.version(await self._ask("GET", "/api/version"))


class LlamaSwap(_Service):
    """A llama-swap server; every method raises LLMError."""

    async def models(self) -> tuple[SwapModel, ...]:
        """Return all models it lists, loaded or not."""
        return inventory.swap_models(await self._ask("GET", "/v1/models"))

    async def running(self) -> tuple[RunningModel, ...]:
        """Return the models that have a process."""
        return inventory.running_models(await self._ask("GET", "/running"))

    async def unload(self, model: str | None = None) -> None:
        """Stop a model (an alias will do), or all; streams from it break off.

        Raises: ModelNotFoundError; a model that is not running is no error.
        """
        path = "/api/models/unload"
        await self._ask("POST", path if model is None else f"{path}/{_name(model)}")

    async def health(self) -> bool:
        """Say whether the server answers that it is well; it needs no key for that."""
        try:
            return (await self._ask("GET", "/health")).strip() == b"OK"
        except ProviderError:
            return False

    async def props(self, model: str) -> Props:
        """Return what the model's llama.cpp server says of itself; this loads the model."""
        return inventory.props(await self._ask("GET", f"/upstream/{_name(model)}/props"))

    async def logs(
        self, source: Literal["", "proxy", "upstream"] | str = "", *, history: bool = True
    ) -> AsyncGenerator[str, None]:
        """Follow the log: of the proxy, of all upstreams, of one model, or "" for everything.

        The text comes in pieces, first what was logged before unless `history` is off. Leave it
        with `contextlib.aclosing` to close the connection at once.
        """
        path = f"/logs/stream/{_name(source)}" if source else "/logs/stream"
        text = codecs.getincrementaldecoder("utf-8")("replace")
        query = "" if history else "?no-history"
        reply = await self._stream(self._request("GET", path + query))
        try:
            while data := await reply.read():
                if piece := text.decode(data):
                    yield piece
        finally:
            reply.close()

    async def events(self) -> AsyncGenerator[SwapEvent, None]:
        """Follow what happens on the server, beginning with its present state.

        Leave it with `contextlib.aclosing` to close the connection at once.
        """
        framer = SSE()
        reply = await self._stream(self._request("GET", "/api/events"))
        try:
            while data := await reply.read():
                for frame in framer.feed(data):
                    yield inventory.event(frame)
        finally:
            reply.close()


class Ollama(_Service):
    """An Ollama server, or one that speaks its API; every method raises LLMError."""

    async def models(self) -> tuple[OllamaModel, ...]:
        """Return all models it has."""
        return inventory.ollama_models(await self._ask("GET", "/api/tags"))

    async def running(self) -> tuple[LoadedModel, ...]:
        """Return the models it holds in memory."""
        return inventory.loaded_models(await self._ask("GET", "/api/ps"))

    async def show(self, model: str) -> ModelInfo:
        """Return what it knows of a model. Raises: ModelNotFoundError."""
        return inventory.model_info(await self._ask("POST", "/api/show", {"model": model}))

    async def unload(self, model: str | None = None) -> None:
        """Let a model go, or all; a stream that is under way ends first.

        Raises: ModelNotFoundError; a model that is not loaded is no error.
        """
        names = [model] if model is not None else [each.name for each in await self.running()]
        for name in names:
            body = {"model": name, "keep_alive": 0, "stream": False}
            await self._ask("POST", "/api/generate", body)


def _name(model: str) -> str:
    """Return a name as one path segment: neither `/` nor `..` in it leads elsewhere."""
    if model in ("", ".", ".."):
        raise ConfigError(f"{model!r} is no model name")
    return quote(model, safe="")
