"""OpenTelemetry's GenAI conventions: the attributes of targets, requests, responses and usage.

They follow open-telemetry/semantic-conventions-genai as of 2026, which is still in development.
When its names change, these will, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from aiollm._settings.wildcards import matches
from aiollm.errors import OutputError, ProviderError
from aiollm.events import ApprovalAsked, ApprovalDecided, HistoryCompacted, RunSteered
from aiollm.images import ImageRequest
from aiollm.provider import Provider
from aiollm.retrieval import EmbedRequest, RerankRequest
from aiollm.types import (
    AnyTool,
    AudioPart,
    CachePoint,
    DocumentPart,
    ImagePart,
    Message,
    Part,
    ReasoningPart,
    RefusalPart,
    Request,
    Response,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

Attributes: TypeAlias = dict[str, Any]

_HOSTS = (
    ("*.openai.azure.com", "azure.ai.openai"),
    ("*.models.ai.azure.com", "azure.ai.inference"),
    ("bedrock*.amazonaws.com", "aws.bedrock"),
    ("*aiplatform.googleapis.com", "gcp.vertex_ai"),
    ("api.cohere.*", "cohere"),
    ("api.deepseek.com", "deepseek"),
    ("api.groq.com", "groq"),
    ("api.mistral.ai", "mistral_ai"),
    ("api.moonshot.*", "moonshot_ai"),
    ("api.perplexity.ai", "perplexity"),
    ("api.x.ai", "x_ai"),
)
"""Services that share a scheme with another."""

_SCHEMES = {"google": "gcp.gemini", "gemini": "gcp.gemini", "llama-swaps": "llama-swap"}
"""Schemes that go by another name in the conventions."""

_PORTS = {"http": 80, "https": 443}


def target_attributes(target: Target, provider: Provider | None) -> Attributes:
    """Return a target's service and model and, if `provider` is known, its server."""
    attributes: Attributes = {
        "gen_ai.provider.name": _service(provider) if provider else target.provider,
        "gen_ai.request.model": target.model,
    }
    url = urlsplit(provider.base_url if provider else "")
    if url.hostname:
        attributes["server.address"] = url.hostname
        if port := url.port or _PORTS.get(url.scheme):
            attributes["server.port"] = port
    return attributes


def request_attributes(request: Any) -> Attributes:
    """Return the settings of a request."""
    match request:
        case Request():
            settings: Attributes = {
                "stream": True,
                "max_tokens": request.max_output_tokens,
                "temperature": request.temperature,
                "top_p": request.top_p,
                "seed": request.seed,
                "stop_sequences": list(request.stop) or None,
            }
            output = "json" if request.output is not None else None
        case ImageRequest():
            count = request.count if request.count != 1 else None
            settings = {"seed": request.seed, "choice.count": count}
            output = "image"
        case EmbedRequest():
            width = request.dimensions
            return {} if width is None else {"gen_ai.embeddings.dimension.count": width}
        case RerankRequest():
            return {} if request.top is None else {"gen_ai.retrieval.top_k": request.top}
        case _:
            return {}
    named: Attributes = {f"gen_ai.request.{name}": value for name, value in settings.items()}
    named["gen_ai.output.type"] = output
    return {name: value for name, value in named.items() if value is not None}


def response_attributes(response: Response) -> Attributes:
    """Return the facts of a response, even a partial one, without its content."""
    attributes: Attributes = usage_attributes(response.usage)
    if response.finish_reason is not None:
        attributes["gen_ai.response.finish_reasons"] = [response.finish_reason]
    if response.target is not None:
        attributes["gen_ai.response.model"] = response.target.model
    if response.cost.total is not None:
        attributes["aiollm.cost.usd"] = response.cost.total
    if response.cached:
        attributes["aiollm.response_cache.hit"] = True
    if response.timings.first_output is not None:
        attributes["gen_ai.response.time_to_first_chunk"] = response.timings.first_output
    return attributes


def run_note(
    event: ApprovalAsked | ApprovalDecided | HistoryCompacted | RunSteered,
) -> tuple[str, Attributes]:
    """Return the name and the attributes of a span's event for what happened to a run."""
    match event:
        case ApprovalAsked(name=name, tool_call=call):
            return "aiollm.approval.asked", _call_attributes(name, call)
        case ApprovalDecided(name=name, tool_call=call, decision=decision):
            decided: Attributes = {"aiollm.approval.decision": decision}
            return "aiollm.approval.decided", _call_attributes(name, call) | decided
        case HistoryCompacted(turn=turn, before=before, after=after):
            lengths = {"aiollm.messages.before": before, "aiollm.messages.after": after}
            return "aiollm.compacted", {"aiollm.turn": turn} | lengths
        case RunSteered(turn=turn):
            return "aiollm.steered", {"aiollm.turn": turn}


def _call_attributes(name: str, call: ToolCallPart) -> Attributes:
    return {"gen_ai.tool.name": name, "gen_ai.tool.call.id": call.id}


def usage_attributes(usage: Usage) -> Attributes:
    """Return the token counts that are known."""
    if usage.certainty == "missing":
        return {}
    counts = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }
    shares = {
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
    }
    return counts | {name: count for name, count in shares.items() if count}


def error_attributes(error: BaseException | None) -> Attributes:
    """Return the class of an error, and its HTTP status."""
    attributes: Attributes = {"error.type": type(error).__name__ if error else "_OTHER"}
    if isinstance(error, ProviderError) and error.status:
        attributes["http.response.status_code"] = error.status
    return attributes


def request_content(request: Any) -> Attributes:
    """Return the messages, system prompt and tools of a request, or its texts."""
    match request:
        case Request():
            attributes = {"gen_ai.input.messages": _json([*map(_message, request.messages)])}
            if request.system:
                attributes["gen_ai.system_instructions"] = _json([_part(TextPart(request.system))])
            if request.tools:
                tools = [{"type": _kind_of(tool), "name": tool.name} for tool in request.tools]
                attributes["gen_ai.tool.definitions"] = _json(tools)
            return attributes
        case ImageRequest():
            parts = [_part(TextPart(request.prompt)), *map(_part, request.images)]
            return {"gen_ai.input.messages": _json([{"role": "user", "parts": parts}])}
        case EmbedRequest():
            parts = [
                _part(TextPart(each) if isinstance(each, str) else each) for each in request.inputs
            ]
            return {"gen_ai.input.messages": _json([{"role": "user", "parts": parts}])}
        case RerankRequest():
            documents = [
                {"id": str(n), "content": text} for n, text in enumerate(request.documents)
            ]
            return {
                "gen_ai.retrieval.query.text": request.query,
                "gen_ai.retrieval.documents": _json(documents),
            }
        case _:
            return {}


def response_content(response: Response) -> Attributes:
    """Return the message of a response."""
    if not response.message.parts:
        return {}
    said = _message(response.message) | {"finish_reason": response.finish_reason or "error"}
    return {"gen_ai.output.messages": _json([said])}


def tool_result_content(result: ToolResultPart) -> Attributes:
    """Return the content of a tool's result."""
    content = _result(result)
    text = content if isinstance(content, str) else _json(content)
    return {"gen_ai.tool.call.result": text}


def _kind_of(tool: AnyTool) -> str:
    """Return `function`, or the name of what the provider runs, which has no type of its own."""
    return "function" if isinstance(tool, Tool) else tool.name


def _service(provider: Provider) -> str:
    host = urlsplit(provider.base_url).hostname or ""
    known = (name for pattern, name in _HOSTS if matches(host, pattern))
    return next(known, _SCHEMES.get(provider.scheme, provider.scheme))


def _message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": _parts(message.parts)}


def _parts(parts: Iterable[Part]) -> list[dict[str, Any]]:
    return [_part(part) for part in parts if type(part) is not CachePoint]


def _part(part: Part) -> dict[str, Any]:
    match part:
        case TextPart(text=text):
            return {"type": "text", "content": text}
        case ReasoningPart(text=text):
            return {"type": "reasoning", "content": text}
        case RefusalPart(text=text):
            return {"type": "refusal", "content": text}
        case ToolCallPart():
            call = {"type": "tool_call", "id": part.id, "name": part.name}
            return call | {"arguments": _arguments(part)}
        case ToolResultPart():
            return {"type": "tool_call_response", "id": part.id, "response": _result(part)}
        case ImagePart() | DocumentPart() | AudioPart():
            return _file(part)
        case _:
            return {"type": "opaque"}


def _arguments(call: ToolCallPart) -> Any:
    try:
        return call.parsed()
    except OutputError:
        return call.arguments


def _result(result: ToolResultPart) -> Any:
    if all(isinstance(part, TextPart | CachePoint) for part in result.content):
        return result.text
    return _parts(result.content)


def _file(part: ImagePart | DocumentPart | AudioPart) -> dict[str, Any]:
    """Return a file's URL or its size: megabytes of base64 do not belong on a span."""
    modality = type(part).__name__.removesuffix("Part").lower()
    known = {"modality": modality} | ({"mime_type": part.mime} if part.mime else {})
    if part.url and not part.url.startswith("data:"):
        return {"type": "uri", "uri": part.url} | known
    return {"type": modality, "bytes": len(part.data or part.url)} | known


def _json(value: Any) -> str:
    # Not msgspec: a lone surrogate in a text must not lose the span.
    return json.dumps(value)
