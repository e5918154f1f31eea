"""llama-swap: the types of its replies and events, its API, and the capabilities it reports."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, ClassVar, Literal, TypeAlias

import msgspec

from aiollm._http.turns import FIRST, PIECE, Turns
from aiollm._wire.framing import SSE, check_density
from aiollm._wire.lenient import load, mend
from aiollm.errors import ProtocolError, ProviderError
from aiollm.providers.urls import model_path
from aiollm.servers.base import Server, read

ProcessState: TypeAlias = Literal["starting", "ready", "stopping", "stopped", "shutdown"] | str


class SwapModel(msgspec.Struct, frozen=True):
    """A model that llama-swap lists; `kind` is model, alias, peer, selector or profile.

    `capabilities` (such as `vision` and `function_calling`), `input_modalities` and
    `context_length` (in tokens) are empty if its configuration does not set them.
    """

    id: str
    name: str = ""
    description: str = ""
    loaded: bool = False
    kind: str = "model"
    aliases: tuple[str, ...] = ()
    context_length: int | None = None
    capabilities: tuple[str, ...] = ()
    input_modalities: tuple[str, ...] = ()
    metadata: dict[str, Any] = {}

    @property
    def facts(self) -> dict[str, Any]:
        """The capabilities that the configuration sets, as keywords of `Capabilities`."""
        facts: dict[str, Any] = {"tools": True} if "function_calling" in self.capabilities else {}
        if (self.context_length or 0) > 0:
            facts["context_length"] = self.context_length
        if self.input_modalities:
            facts["images"] = "image" in self.input_modalities
            facts["audio"] = "audio" in self.input_modalities
        return facts


# A list of thousands would start the collector, which takes 10 ms: hence `gc=False` below.
class RunningModel(msgspec.Struct, frozen=True, gc=False):
    """A model process of llama-swap; `ttl` is the idle time in seconds it is kept, 0 = forever."""

    model: str = ""
    state: ProcessState = ""
    ttl: int = 0
    name: str = ""
    description: str = ""
    cmd: str = ""
    proxy: str = ""


class Props(msgspec.Struct, frozen=True):
    """What a llama.cpp server behind llama-swap reports about itself.

    `context_length` is in tokens per slot; `facts` holds keywords of `Capabilities`.
    """

    context_length: int | None = None
    slots: int | None = None
    model_path: str = ""
    build: str = ""
    facts: dict[str, Any] = {}


class ModelState(msgspec.Struct, frozen=True, gc=False):
    """A model in `ModelsChanged`; `peer` names the llama-swap it lives on, "" for this one."""

    id: str = ""
    name: str = ""
    description: str = ""
    state: ProcessState = ""
    unlisted: bool = False
    peer: str = msgspec.field(default="", name="peerID")


class ModelsChanged(msgspec.Struct, frozen=True):
    """All models with their states, sent at the start and after every change."""

    models: tuple[ModelState, ...]


class LogData(msgspec.Struct, frozen=True, gc=False):
    """A piece of the log; `source` is proxy or upstream."""

    source: str = ""
    text: str = msgspec.field(default="", name="data")


class ActivityLogged(msgspec.Struct, frozen=True, gc=False):
    """A request ended; `id` is its number in the activity log."""

    id: int = 0


class InFlightRequest(msgspec.Struct, frozen=True, gc=False):
    """A request in progress; its headers are left out because they may hold keys."""

    id: str = ""
    model: str = ""
    method: str = ""
    path: str = msgspec.field(default="", name="req_path")
    response_bytes: int = msgspec.field(default=0, name="resp_bytes")
    elapsed_ms: int = 0


class InFlight(msgspec.Struct, frozen=True):
    """Requests in progress: a full `snapshot`, one to `upsert`, or the `id` of one to `remove`."""

    operation: Literal["snapshot", "upsert", "remove"] | str = ""
    requests: tuple[InFlightRequest, ...] = ()
    request: InFlightRequest | None = None
    id: str = ""


class ProfileChanged(msgspec.Struct, frozen=True):
    """The active profile changed; None means that there is none."""

    active: str | None = None


class OtherEvent(msgspec.Struct, frozen=True, gc=False):
    """An event of any other type; `json` is what it holds, as it came."""

    type: str
    json: bytes = b"null"

    @property
    def data(self) -> Any:
        """The decoded JSON, None if it is none; it is decoded each time that you ask for it."""
        return load(self.json)


SwapEvent: TypeAlias = (
    ModelsChanged | LogData | ActivityLogged | InFlight | ProfileChanged | OtherEvent
)


class _Status(msgspec.Struct, frozen=True):
    value: str = ""


class _Meta(msgspec.Struct, frozen=True):
    llamaswap: dict[str, Any] = {}


class _Architecture(msgspec.Struct, frozen=True):
    input_modalities: tuple[str, ...] = ()


class _Listed(msgspec.Struct, frozen=True):
    id: str = ""
    name: str = ""
    description: str = ""
    status: _Status = _Status()
    meta: _Meta = _Meta()
    architecture: _Architecture = _Architecture()
    context_length: int | None = None
    capabilities: dict[str, Any] = {}

    def model(self) -> SwapModel:
        metadata = dict(self.meta.llamaswap)
        aliases = metadata.pop("aliases", None)
        return SwapModel(
            self.id,
            self.name,
            self.description,
            self.status.value == "loaded",
            str(metadata.pop("type", "model")),
            tuple(map(str, aliases)) if isinstance(aliases, list) else (),
            self.context_length,
            tuple(name for name, value in self.capabilities.items() if value),
            self.architecture.input_modalities,
            metadata,
        )


class _ModelList(msgspec.Struct, frozen=True):
    data: tuple[_Listed, ...]


class _RunningList(msgspec.Struct, frozen=True):
    running: tuple[RunningModel, ...]


class _Settings(msgspec.Struct, frozen=True):
    n_ctx: int | None = None


class _RawProps(msgspec.Struct, frozen=True):
    default_generation_settings: _Settings = _Settings()
    total_slots: int | None = None
    model_path: str = ""
    build_info: str = ""
    modalities: dict[str, bool] = {}

    def props(self) -> Props:
        known = {"vision": "images", "audio": "audio"}
        facts: dict[str, Any] = {
            known[name]: value for name, value in self.modalities.items() if name in known
        }
        context = self.default_generation_settings.n_ctx
        if (context or 0) > 0:
            facts["context_length"] = context
        return Props(context, self.total_slots, self.model_path, self.build_info, facts)


_EVENTS: dict[str, type[LogData | ActivityLogged | InFlight | ProfileChanged]] = {
    "logData": LogData,
    "activity": ActivityLogged,
    "inflight": InFlight,
    "profileChanged": ProfileChanged,
}


class _Envelope(msgspec.Struct, frozen=True):
    type: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class LlamaSwap(Server):
    """A llama-swap server; every method raises LLMError."""

    schemes: ClassVar[tuple[str, ...]] = ("llama-swap", "llama-swaps")

    async def models(self) -> tuple[SwapModel, ...]:
        """Return all models it lists, loaded or not."""
        body = await self._ask("GET", "/v1/models")
        return tuple(each.model() for each in read(body, _ModelList).data)

    async def running(self) -> tuple[RunningModel, ...]:
        """Return the models that have a running process."""
        return read(await self._ask("GET", "/running"), _RunningList).running

    async def load(self, model: str) -> None:
        """Start a model (an alias will do) and wait until it is ready; this may stop others.

        Raises: ModelNotFoundError, ServerError when it does not start.
        """
        try:
            await self._ask_slow("GET", f"/upstream/{model_path(model)}/health")
        except ProviderError as error:
            # An upstream that does not have this route may still be ready.
            if _is_own(error) or not await self._is_ready(model):
                raise

    async def _is_ready(self, model: str) -> bool:
        ready = {each.model for each in await self.running() if each.state == "ready"}
        return model in ready or not ready.isdisjoint(
            each.id for each in await self.models() if model in each.aliases
        )

    async def unload(self, model: str | None = None) -> None:
        """Stop a model (an alias will do), or all; streams from it break off.

        Raises: ModelNotFoundError; a model that is not running is not an error.
        """
        path = "/api/models/unload"
        await self._ask("POST", path if model is None else f"{path}/{model_path(model)}")

    async def health(self) -> bool:
        """Return whether the server reports that it is healthy; this does not need a key."""
        try:
            return (await self._ask("GET", "/health")).strip() == b"OK"
        except ProviderError:
            return False

    async def props(self, model: str) -> Props:
        """Return what the model's llama.cpp server reports about itself; this loads the model."""
        body = await self._ask_slow("GET", f"/upstream/{model_path(model)}/props")
        return read(body, _RawProps).props()

    async def facts(self, model: str) -> dict[str, Any]:
        """Return what the server reports about a model for `Capabilities`, without loading it.

        It comes from the configuration and, for a loaded model, from its llama.cpp server.
        """
        listed = [each for each in await self.models() if model in (each.id, *each.aliases)]
        facts: dict[str, Any] = {}
        for each in listed:
            facts |= each.facts
            if each.loaded:
                with suppress(ProviderError, ProtocolError):  # may not be llama.cpp
                    facts |= (await self.props(model)).facts
        return facts

    async def logs(
        self, source: Literal["", "proxy", "upstream"] | str = "", *, history: bool = True
    ) -> AsyncGenerator[str, None]:
        """Follow the log of the proxy, of all upstreams, of one model, or "" for everything.

        The text comes in pieces; it begins with earlier text unless `history` is off. There is no
        deadline. Use `contextlib.aclosing` to close the connection as soon as you leave the loop.
        """
        path = f"/logs/stream/{model_path(source)}" if source else "/logs/stream"
        text = codecs.getincrementaldecoder("utf-8")("replace")
        query = "" if history else "?no-history"
        reply = await self._stream(self._request("GET", path + query))
        turns = Turns(reply.read)
        try:
            while data := await turns.read():
                if piece := text.decode(data):
                    yield piece
        finally:
            reply.close()

    async def events(self) -> AsyncGenerator[SwapEvent, None]:
        """Follow what happens on the server, starting with its current state.

        Use `contextlib.aclosing` to close the connection as soon as you leave the loop.
        """
        framer = SSE()
        reply = await self._stream(self._request("GET", "/api/events"))
        turns = Turns(reply.read, piece=FIRST, most=PIECE)
        try:
            while data := await turns.read():
                for frame in framer.feed(data):
                    yield _event(frame)
        finally:
            reply.close()


def _is_own(error: ProviderError) -> bool:
    """Return whether an error comes from llama-swap itself, not from the server behind it."""
    match load(error.body):
        case {"src": "llama-swap"}:
            return True
        case _:
            return False


def _event(frame: bytes) -> SwapEvent:
    """Read an event, whose data is JSON in a JSON string. Raises: ProtocolError."""
    envelope = read(frame, _Envelope)
    # Nobody knows how much of it is wanted: to make an object of each value could take the
    # collector, and so the event loop, ten milliseconds.
    data = bytes(envelope.data)
    if data.startswith(b'"'):
        data = mend(read(data, str)).encode()
    match envelope.type:
        case "modelStatus":
            check_density(data)
            return ModelsChanged(read(data, tuple[ModelState, ...]))
        case kind if kind in _EVENTS:
            check_density(data)
            return read(data, _EVENTS[kind])
        case kind:
            return OtherEvent(kind, data)
