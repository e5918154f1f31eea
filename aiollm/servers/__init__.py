"""Clients for your own model servers: list, load and unload models on llama-swap and Ollama.

`Registry.llama_swap` and `Registry.ollama` return them; the other names are their result types.
"""

from aiollm.servers.llama_swap import (
    ActivityLogged,
    InFlight,
    InFlightRequest,
    LlamaSwap,
    LogData,
    ModelsChanged,
    ModelState,
    OtherEvent,
    ProcessState,
    ProfileChanged,
    Props,
    RunningModel,
    SwapEvent,
    SwapModel,
)
from aiollm.servers.ollama import LoadedModel, ModelDetails, ModelInfo, Ollama, OllamaModel

__all__ = [
    "ActivityLogged",
    "InFlight",
    "InFlightRequest",
    "LlamaSwap",
    "LoadedModel",
    "LogData",
    "ModelDetails",
    "ModelInfo",
    "ModelState",
    "ModelsChanged",
    "Ollama",
    "OllamaModel",
    "OtherEvent",
    "ProcessState",
    "ProfileChanged",
    "Props",
    "RunningModel",
    "SwapEvent",
    "SwapModel",
]
