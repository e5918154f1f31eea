"""Asyncio-native streaming for every LLM provider through one canonical API."""

import typing

from aiollm._failover.candidates import CallOptions, OnInterrupt, OnRefusal, OnUnsupported
from aiollm._failover.snapshots import FleetStatus, HealthState, TargetHealth, TargetLimits
from aiollm._resources import Closeable
from aiollm._streams.stream import Stream
from aiollm._validation import RequestLike
from aiollm.capabilities import Capabilities
from aiollm.dsn import Dsn, Limits, Network, Secret
from aiollm.errors import (
    AuthenticationError,
    BusyError,
    BusyKind,
    ClosedError,
    ConfigError,
    ConnectError,
    ContentFilterError,
    ContextLengthError,
    DeadlineError,
    DeadlineName,
    FailoverError,
    GenerationError,
    InvalidRequestError,
    LLMError,
    LocalError,
    ModelNotFoundError,
    OutputError,
    OverloadedError,
    ProtocolError,
    ProviderError,
    QuotaError,
    RateLimitError,
    RequestTooLargeError,
    ServerError,
    SpecError,
    StreamInterrupted,
    TransportError,
    TurnLimitError,
    UnsupportedError,
    UnsupportedFeatureError,
    Verdict,
    classify,
    http_status,
)
from aiollm.images import (
    ImageBackground,
    ImageFormat,
    ImageQuality,
    ImageRequest,
    ImageResult,
    ImageSize,
    PartialImage,
)
from aiollm.provider import Provider
from aiollm.providers.catalog import SchemeFactory
from aiollm.registry import Registry
from aiollm.spec import Plan, Step
from aiollm.types import (
    Attempt,
    AudioPart,
    CachePoint,
    Certainty,
    Chunk,
    Citation,
    CitationChunk,
    DocumentPart,
    Effort,
    Finish,
    FinishReason,
    Harm,
    ImageChunk,
    ImagePart,
    Message,
    OpaquePart,
    Outcome,
    Part,
    PartChunk,
    PromptCache,
    ProviderData,
    ReasoningDelta,
    ReasoningPart,
    RefusalDelta,
    RefusalPart,
    Request,
    Response,
    Restart,
    Role,
    Status,
    Target,
    TextDelta,
    TextPart,
    Timeouts,
    Timings,
    TokenCount,
    Tool,
    ToolCallDelta,
    ToolCallPart,
    ToolResultPart,
    Usage,
    assistant,
    system,
    tool_results,
    user,
)

if typing.TYPE_CHECKING:
    from aiollm._agent.loop import RunEvent, RunResult, TurnEnded
    from aiollm._agent.run import AgentRun
    from aiollm._agent.tool_calls import ToolEnded, ToolStarted
    from aiollm._agent.tools import FunctionTool, tool
    from aiollm._failover.keywords import (
        CountOptions,
        GenerateOptions,
        RequestFields,
        RunOptions,
        StreamOptions,
    )
    from aiollm._serialization import from_json, to_json
    from aiollm._streams.image_stream import ImageStream
    from aiollm.providers.openai.histories import messages_from_openai
    from aiollm.servers import LlamaSwap, Ollama

__version__ = "0.1.0"

_LAZY = {
    "AgentRun": "aiollm._agent.run",
    "CountOptions": "aiollm._failover.keywords",
    "FunctionTool": "aiollm._agent.tools",
    "GenerateOptions": "aiollm._failover.keywords",
    "ImageStream": "aiollm._streams.image_stream",
    "LlamaSwap": "aiollm.servers",
    "Ollama": "aiollm.servers",
    "RequestFields": "aiollm._failover.keywords",
    "RunEvent": "aiollm._agent.loop",
    "RunOptions": "aiollm._failover.keywords",
    "RunResult": "aiollm._agent.loop",
    "StreamOptions": "aiollm._failover.keywords",
    "ToolEnded": "aiollm._agent.tool_calls",
    "ToolStarted": "aiollm._agent.tool_calls",
    "TurnEnded": "aiollm._agent.loop",
    "from_json": "aiollm._serialization",
    "messages_from_openai": "aiollm.providers.openai.histories",
    "to_json": "aiollm._serialization",
    "tool": "aiollm._agent.tools",
}
"""Names whose modules are loaded when they are first used, such as those of agents and images."""


if not typing.TYPE_CHECKING:  # a type checker would take any name for one of ours

    def __getattr__(name: str) -> typing.Any:
        module = _LAZY.get(name)
        if module is None:
            raise AttributeError(f"module 'aiollm' has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(module), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *_LAZY})


__all__ = [
    "AgentRun",
    "Attempt",
    "AudioPart",
    "AuthenticationError",
    "BusyError",
    "BusyKind",
    "CachePoint",
    "CallOptions",
    "Capabilities",
    "Certainty",
    "Chunk",
    "Citation",
    "CitationChunk",
    "Closeable",
    "ClosedError",
    "ConfigError",
    "ConnectError",
    "ContentFilterError",
    "ContextLengthError",
    "CountOptions",
    "DeadlineError",
    "DeadlineName",
    "DocumentPart",
    "Dsn",
    "Effort",
    "FailoverError",
    "Finish",
    "FinishReason",
    "FleetStatus",
    "FunctionTool",
    "GenerateOptions",
    "GenerationError",
    "Harm",
    "HealthState",
    "ImageBackground",
    "ImageChunk",
    "ImageFormat",
    "ImagePart",
    "ImageQuality",
    "ImageRequest",
    "ImageResult",
    "ImageSize",
    "ImageStream",
    "InvalidRequestError",
    "LLMError",
    "Limits",
    "LlamaSwap",
    "LocalError",
    "Message",
    "ModelNotFoundError",
    "Network",
    "Ollama",
    "OnInterrupt",
    "OnRefusal",
    "OnUnsupported",
    "OpaquePart",
    "Outcome",
    "OutputError",
    "OverloadedError",
    "Part",
    "PartChunk",
    "PartialImage",
    "Plan",
    "PromptCache",
    "ProtocolError",
    "Provider",
    "ProviderData",
    "ProviderError",
    "QuotaError",
    "RateLimitError",
    "ReasoningDelta",
    "ReasoningPart",
    "RefusalDelta",
    "RefusalPart",
    "Registry",
    "Request",
    "RequestFields",
    "RequestLike",
    "RequestTooLargeError",
    "Response",
    "Restart",
    "Role",
    "RunEvent",
    "RunOptions",
    "RunResult",
    "SchemeFactory",
    "Secret",
    "ServerError",
    "SpecError",
    "Status",
    "Step",
    "Stream",
    "StreamInterrupted",
    "StreamOptions",
    "Target",
    "TargetHealth",
    "TargetLimits",
    "TextDelta",
    "TextPart",
    "Timeouts",
    "Timings",
    "TokenCount",
    "Tool",
    "ToolCallDelta",
    "ToolCallPart",
    "ToolEnded",
    "ToolResultPart",
    "ToolStarted",
    "TransportError",
    "TurnEnded",
    "TurnLimitError",
    "UnsupportedError",
    "UnsupportedFeatureError",
    "Usage",
    "Verdict",
    "__version__",
    "assistant",
    "classify",
    "from_json",
    "http_status",
    "messages_from_openai",
    "system",
    "to_json",
    "tool",
    "tool_results",
    "user",
]
