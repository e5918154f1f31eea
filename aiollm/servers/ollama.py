"""Ollama: the types of its replies, its API, and what it reports about its models."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from aiollm.errors import ProtocolError, ProviderError
from aiollm.provider import Provider
from aiollm.servers.base import Server, read


# A list of thousands would start the collector, which takes 10 ms: hence `gc=False` below.
class ModelDetails(msgspec.Struct, frozen=True, gc=False):
    """The format, family, size and quantization of an Ollama model."""

    format: str = ""
    family: str = ""
    families: tuple[str, ...] = ()
    parameter_size: str = ""
    quantization_level: str = ""
    context_length: int | None = None


class OllamaModel(msgspec.Struct, frozen=True, gc=False):
    """A model that Ollama has on disk; `size` is in bytes, older servers omit `capabilities`."""

    name: str = ""
    size: int = 0
    digest: str = ""
    modified_at: datetime | None = None
    details: ModelDetails = ModelDetails()
    capabilities: tuple[str, ...] = ()


class LoadedModel(msgspec.Struct, frozen=True, gc=False):
    """A model that Ollama holds in memory: `size` bytes, `size_vram` of them on a GPU."""

    name: str = ""
    size: int = 0
    size_vram: int = 0
    digest: str = ""
    expires_at: datetime | None = None
    context_length: int | None = None
    details: ModelDetails = ModelDetails()


class ModelInfo(msgspec.Struct, frozen=True):
    """What Ollama reports about a model; older servers omit `capabilities`."""

    capabilities: tuple[str, ...] = ()
    model_info: dict[str, Any] = {}
    details: ModelDetails = ModelDetails()
    parameters: str = ""
    template: str = ""

    @property
    def context_length(self) -> int | None:
        """The context in tokens that the model was made for; it may be loaded with less."""
        name = f"{self.model_info.get('general.architecture')}.context_length"
        length = self.model_info.get(name)
        return length if isinstance(length, int) else None

    @property
    def facts(self) -> dict[str, Any]:
        """The capabilities that the server reports, as keywords of `Capabilities`."""
        if not self.capabilities:
            return {}
        return {
            "images": "vision" in self.capabilities,
            "tools": "tools" in self.capabilities,
            "reasoning": "thinking" in self.capabilities,
        }


class _ModelList(msgspec.Struct, frozen=True):
    models: tuple[OllamaModel, ...]


class _LoadedList(msgspec.Struct, frozen=True):
    models: tuple[LoadedModel, ...]


class Ollama(Server):
    """An Ollama server, or one that speaks its API; every method raises LLMError."""

    schemes: ClassVar[tuple[str, ...]] = ("ollama", "ollama-cloud", "foreman")

    async def models(self) -> tuple[OllamaModel, ...]:
        """Return all models on disk."""
        return read(await self._ask("GET", "/api/tags"), _ModelList).models

    async def running(self) -> tuple[LoadedModel, ...]:
        """Return the models in memory."""
        return read(await self._ask("GET", "/api/ps"), _LoadedList).models

    async def show(self, model: str) -> ModelInfo:
        """Return what the server reports about a model. Raises: ModelNotFoundError."""
        return read(await self._ask("POST", "/api/show", {"model": model}), ModelInfo)

    async def load(self, model: str, keep_alive: str | float | None = None) -> None:
        """Load a model; `keep_alive` is how long it stays: seconds, "30m", or -1 for forever.

        By default the server decides, usually to unload it five minutes after its last use.
        Raises: ModelNotFoundError.
        """
        body: dict[str, Any] = {"model": model, "stream": False}
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        await self._ask_slow("POST", "/api/generate", body)

    async def unload(self, model: str | None = None) -> None:
        """Unload a model, or all; streams in progress end first.

        Raises: ModelNotFoundError; a model that is not loaded is not an error.
        """
        names = [model] if model is not None else [each.name for each in await self.running()]
        for name in names:
            body = {"model": name, "keep_alive": 0, "stream": False}
            await self._ask("POST", "/api/generate", body)

    async def facts(self, model: str) -> dict[str, Any]:
        """Return what the server reports about a model for `Capabilities`, without loading it.

        The context length is that of the loaded model, which may be less than it was made for.
        """
        facts = (await self.show(model)).facts
        with suppress(ProviderError, ProtocolError):  # not every server of its API has this
            for each in await self.running():
                if each.name == _tagged(model) and (each.context_length or 0) > 0:
                    facts["context_length"] = each.context_length
        return facts


def is_hosted(provider: Provider, model: str) -> bool:
    """Return whether a model runs in Ollama's cloud, which loads it by itself."""
    return (
        provider.scheme == "ollama-cloud"
        or provider.host == "ollama.com"
        or model.endswith("cloud")
    )


def _tagged(model: str) -> str:
    """Return the name of a model with its tag."""
    return model if ":" in model.rpartition("/")[2] else f"{model}:latest"
