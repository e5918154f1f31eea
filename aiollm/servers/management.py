"""Management of model servers: what llama-swap and Ollama have, run, and let go of.

The classes ask through functions that their owner gives them: `call` sends a request and returns
its whole reply, `stream` returns the reply once its headers are in, `wait` is `call` with the time
that loading a model takes. All raise for an error reply and hold the deadlines.
"""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Literal, TypeAlias
from urllib.parse import quote

from aiollm._wire.body import json_body
from aiollm._wire.framing import SSE
from aiollm._wire.lenient import load
from aiollm.errors import ConfigError, ProtocolError, ProviderError
from aiollm.provider import HttpReply, HttpRequest, Provider, Reply
from aiollm.providers.encoding import bearer_headers
from aiollm.servers import inventory
from aiollm.servers.inventory import (
    LoadedModel,
    ModelInfo,
    OllamaModel,
    Props,
    RunningModel,
    SwapEvent,
    SwapModel,
)

Call: TypeAlias = Callable[[HttpRequest], Awaitable[HttpReply]]
Open: TypeAlias = Callable[[HttpRequest], Awaitable[Reply]]


class _Service:
    """What both kinds of server share: requests with the provider's token, typed replies."""

    def __init__(
        self, provider: Provider, call: Call, stream: Open, wait: Call | None = None
    ) -> None:
        self._provider = provider
        self._call = call
        self._stream = stream
        self._wait = wait or call

    def _request(self, method: str, path: str, body: Any = None) -> HttpRequest:
        return HttpRequest(
            self._provider.base_url.removesuffix("/v1") + path,
            bearer_headers(self._provider),
            None if body is None else json_body(body),
            method,
        )

    async def _ask(self, method: str, path: str, body: Any = None) -> bytes:
        return (await self._call(self._request(method, path, body))).body

    async def _ask_slow(self, method: str, path: str, body: Any = None) -> bytes:
        return (await self._wait(self._request(method, path, body))).body

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

    async def load(self, model: str) -> None:
        """Start a model (an alias will do) and wait until it is ready; others may have to go.

        Raises: ModelNotFoundError, ServerError when it does not start.
        """
        try:
            await self._ask_slow("GET", f"/upstream/{_name(model)}/health")
        except ProviderError as error:
            # An upstream without such a route is no less ready.
            if _is_own(error) or not await self._is_ready(model):
                raise

    async def _is_ready(self, model: str) -> bool:
        ready = {each.model for each in await self.running() if each.state == "ready"}
        return model in ready or not ready.isdisjoint(
            each.id for each in await self.models() if model in each.aliases
        )

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
        return inventory.props(await self._ask_slow("GET", f"/upstream/{_name(model)}/props"))

    async def facts(self, model: str) -> dict[str, Any]:
        """Return what is known of a model for `Capabilities`, without loading it.

        That is what the configuration says and, once it is loaded, its llama.cpp server.
        """
        listed = [each for each in await self.models() if model in (each.id, *each.aliases)]
        facts: dict[str, Any] = {}
        for each in listed:
            facts |= each.facts
            if each.loaded:
                with suppress(ProviderError, ProtocolError):  # it need not be llama.cpp
                    facts |= (await self.props(model)).facts
        return facts

    async def logs(
        self, source: Literal["", "proxy", "upstream"] | str = "", *, history: bool = True
    ) -> AsyncGenerator[str, None]:
        """Follow the log: of the proxy, of all upstreams, of one model, or "" for everything.

        The text comes in pieces, first what was logged before unless `history` is off. A quiet log
        may wait for ever. Leave it with `contextlib.aclosing` to close the connection at once.
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

    async def load(self, model: str, keep_alive: str | float | None = None) -> None:
        """Load a model; `keep_alive` is how long it stays: seconds, "30m", -1 for ever.

        Without it the server decides, by default five minutes after its last use.
        Raises: ModelNotFoundError.
        """
        body: dict[str, Any] = {"model": model, "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        await self._ask_slow("POST", "/api/generate", body)

    async def facts(self, model: str) -> dict[str, Any]:
        """Return what is known of a model for `Capabilities`, without loading it.

        The context length is that of the loaded model: it may have less than it was made for.
        """
        facts = (await self.show(model)).facts
        with suppress(ProviderError, ProtocolError):  # not all that speak its API have this
            for each in await self.running():
                if each.name == _tagged(model) and each.context_length:
                    facts["context_length"] = each.context_length
        return facts

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


def _tagged(model: str) -> str:
    """Return the name of an Ollama model with its tag."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"


def _is_own(error: ProviderError) -> bool:
    """Say whether llama-swap itself made an error, rather than the server behind it."""
    match load(error.body):
        case {"src": "llama-swap"}:
            return True
        case _:
            return False
