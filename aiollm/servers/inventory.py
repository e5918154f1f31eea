"""What model servers report of themselves: models, processes, events; JSON to structs."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, TypeAlias, TypeVar

import msgspec

from aiollm._wire.body import json_body
from aiollm._wire.lenient import decode, load, mend

T = TypeVar("T")

State: TypeAlias = Literal["starting", "ready", "stopping", "stopped", "shutdown"] | str


class SwapModel(msgspec.Struct, frozen=True):
    """A model that llama-swap lists; `kind` is model, alias, peer, selector or profile.

    `capabilities` (such as `vision` and `function_calling`), `input_modalities` and
    `context_length` (tokens) are empty where its configuration does not name them.
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
        """What the configuration says for `Capabilities`; nothing where it is silent."""
        facts: dict[str, Any] = {"tools": True} if "function_calling" in self.capabilities else {}
        if self.context_length:
            facts["context_length"] = self.context_length
        if self.input_modalities:
            facts["images"] = "image" in self.input_modalities
            facts["audio"] = "audio" in self.input_modalities
        return facts


class RunningModel(msgspec.Struct, frozen=True):
    """A model process of llama-swap; `ttl` is the idle seconds it is kept for, 0 for ever."""

    model: str = ""
    state: State = ""
    ttl: int = 0
    name: str = ""
    description: str = ""
    cmd: str = ""
    proxy: str = ""


class Props(msgspec.Struct, frozen=True):
    """What a llama.cpp server behind llama-swap says of itself.

    `context_length` counts the tokens of one slot; `facts` are for `Capabilities`.
    """

    context_length: int | None = None
    slots: int | None = None
    model_path: str = ""
    build: str = ""
    facts: dict[str, Any] = {}


class ModelState(msgspec.Struct, frozen=True):
    """A model in `ModelsChanged`; `peer` names the llama-swap it lives on, "" for this one."""

    id: str = ""
    name: str = ""
    description: str = ""
    state: State = ""
    unlisted: bool = False
    peer: str = msgspec.field(default="", name="peerID")


class ModelsChanged(msgspec.Struct, frozen=True):
    """All models with their states, at the beginning and after every change."""

    models: tuple[ModelState, ...]


class LogData(msgspec.Struct, frozen=True):
    """A piece of log; `source` is proxy or upstream."""

    source: str = ""
    text: str = msgspec.field(default="", name="data")


class ActivityLogged(msgspec.Struct, frozen=True):
    """A request came to its end and has the number `id` in the activity log."""

    id: int = 0


class InFlightRequest(msgspec.Struct, frozen=True):
    """A request under way; headers are left out, for they may hold keys."""

    id: str = ""
    model: str = ""
    method: str = ""
    path: str = msgspec.field(default="", name="req_path")
    response_bytes: int = msgspec.field(default=0, name="resp_bytes")
    elapsed_ms: int = 0


class InFlight(msgspec.Struct, frozen=True):
    """Requests under way: a whole `snapshot`, one to `upsert`, or the `id` of one to `remove`."""

    operation: Literal["snapshot", "upsert", "remove"] | str = ""
    requests: tuple[InFlightRequest, ...] = ()
    request: InFlightRequest | None = None
    id: str = ""


class ProfileChanged(msgspec.Struct, frozen=True):
    """The active profile, None when there is none."""

    active: str | None = None


class OtherEvent(msgspec.Struct, frozen=True):
    """An event of a type that has no class of its own; `data` is its decoded JSON."""

    type: str
    data: Any = None


SwapEvent: TypeAlias = (
    ModelsChanged | LogData | ActivityLogged | InFlight | ProfileChanged | OtherEvent
)


class ModelDetails(msgspec.Struct, frozen=True):
    """How an Ollama model is made."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | None = None


class OllamaModel(msgspec.Struct, frozen=True):
    """A model that Ollama has on disk; `size` in bytes; newer servers name `capabilities`."""

    name: str = ""
    size: int = 0
    digest: str = ""
    modified_at: datetime | None = None
    details: ModelDetails = ModelDetails()
    capabilities: tuple[str, ...] = ()


class LoadedModel(msgspec.Struct, frozen=True):
    """A model that Ollama holds in memory: `size` bytes, `size_vram` of them on a GPU."""

    name: str = ""
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    expires_at: datetime | None = None
    context_length: int | None = None
    details: ModelDetails = ModelDetails()


class ModelInfo(msgspec.Struct, frozen=True):
    """What Ollama knows of a model; `capabilities` is empty on servers that do not tell."""

    capabilities: tuple[str, ...] = ()
    model_info: dict[str, Any] = {}
    details: ModelDetails = ModelDetails()
    parameters: str = ""
    template: str = ""

    @property
    def context_length(self) -> int | None:
        """The tokens the model was made for; what is loaded may have fewer."""
        name = f"{self.model_info.get('general.architecture')}.context_length"
        length = self.model_info.get(name)
        return length if isinstance(length, int) else None

    @property
    def facts(self) -> dict[str, Any]:
        """What the server says for `Capabilities`; nothing where it is silent."""
        if not self.capabilities:
            return {}
        return {
            "images": "vision" in self.capabilities,
            "tools": "tools" in self.capabilities,
            "reasoning": "thinking" in self.capabilities,
        }


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
        if context:
            facts["context_length"] = context
        return Props(context, self.total_slots, self.model_path, self.build_info, facts)


class _Version(msgspec.Struct, frozen=True):
    version: str = ""


_EVENTS: dict[str, type[LogData | ActivityLogged | InFlight | ProfileChanged]] = {
    "logData": LogData,
    "activity": ActivityLogged,
    "inflight": InFlight,
    "profileChanged": ProfileChanged,
}


class _Envelope(msgspec.Struct, frozen=True):
    type: str = ""
    data: Any = None


class _OllamaList(msgspec.Struct, frozen=True):
    models: tuple[OllamaModel, ...]


class _LoadedList(msgspec.Struct, frozen=True):
    models: tuple[LoadedModel, ...]


def swap_models(body: bytes) -> tuple[SwapModel, ...]:
    """Read llama-swap's /v1/models. Raises: ProtocolError."""
    return tuple(listed.model() for listed in _read(body, _ModelList).data)


def running_models(body: bytes) -> tuple[RunningModel, ...]:
    """Read llama-swap's /running. Raises: ProtocolError."""
    return _read(body, _RunningList).running


def props(body: bytes) -> Props:
    """Read llama.cpp's /props. Raises: ProtocolError."""
    return _read(body, _RawProps).props()


def ollama_models(body: bytes) -> tuple[OllamaModel, ...]:
    """Read Ollama's /api/tags. Raises: ProtocolError."""
    return _read(body, _OllamaList).models


def loaded_models(body: bytes) -> tuple[LoadedModel, ...]:
    """Read Ollama's /api/ps. Raises: ProtocolError."""
    return _read(body, _LoadedList).models


def model_info(body: bytes) -> ModelInfo:
    """Read Ollama's /api/show. Raises: ProtocolError."""
    return _read(body, ModelInfo)


def version(body: bytes) -> str:
    """Read the version of either server. Raises: ProtocolError."""
    return _read(body, _Version).version


def event(frame: bytes) -> SwapEvent:
    """Read an event of llama-swap, whose data is JSON in a JSON string. Raises: ProtocolError."""
    envelope = _read(frame, _Envelope)
    data = envelope.data
    inner = mend(data).encode() if isinstance(data, str) else bytes(json_body(data))
    match envelope.type:
        case "modelStatus":
            return ModelsChanged(_read(inner, tuple[ModelState, ...]))
        case kind if kind in _EVENTS:
            return _read(inner, _EVENTS[kind])
        case kind:
            return OtherEvent(kind, load(inner))


def _read(body: bytes, kind: type[T]) -> T:
    return decode(body, msgspec.json.Decoder(kind))
