"""Ollama's native API: /api/chat as JSON lines; foreman and Ollama's cloud use it, too."""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from aiollm._wire.body import json_body
from aiollm._wire.lenient import decode, mend
from aiollm._wire.runs import LineRuns
from aiollm._wire.schema import json_schema
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider
from aiollm.providers.encoding import (
    Warnings,
    bearer_headers,
    merge,
    object_schema,
    with_output_in_prompt,
)
from aiollm.providers.error_replies import error_from
from aiollm.providers.hosted import functions_of, hosted_of, lacking
from aiollm.providers.ollama.decode import OllamaDecoder
from aiollm.providers.ollama.errors import RULES
from aiollm.providers.ollama.messages import FAMILY, messages
from aiollm.providers.tool_choice import only_chosen
from aiollm.types import Effort, Request, Target, Tool

_THINK: dict[Effort, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}


class OllamaCodec(Codec):
    """Chat over Ollama's native API; a token is sent as Bearer."""

    family = FAMILY

    def framing(self) -> LineRuns:
        """Return a new framer for one reply."""
        return LineRuns()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        warnings = Warnings()
        facts = provider.capabilities(target.model)
        body: dict[str, Any] = {
            "model": target.model,
            "messages": messages(request, warnings),
            "stream": True,
        }
        asks = request.tools or request.tool_choice is not None
        if asks and (tools := _tools(request, warnings)):
            body["tools"] = tools
        if request.output is not None:
            _ask_for_output(body, request, warnings)
        if options := _options(request):
            body["options"] = options
        if request.reasoning is not None:
            think = _think(request.reasoning, warnings)
            if think and not facts.reasoning:
                warnings.add(f"{target.model} does not think: reasoning is dropped")
            else:
                body["think"] = think
        merge(body, request.extra)
        return HttpRequest(
            f"{provider.base_url}/api/chat",
            bearer_headers(provider),
            json_body(body),
            warnings=tuple(warnings),
            decoder=partial(OllamaDecoder, _context(body) or facts.context_length or 0),
        )

    def decoder(self) -> OllamaDecoder:
        """Return a new decoder for one reply."""
        return OllamaDecoder()

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return error_from(reply, RULES)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        return HttpRequest(f"{provider.base_url}/api/tags", bearer_headers(provider), method="GET")

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""
        names = (model.name for model in decode(reply.body, _TAGS).models)
        return tuple(mend(name) for name in names if name)


def _ask_for_output(body: dict[str, Any], request: Request, warnings: Warnings) -> None:
    """Set the format, which would hold a call of a tool to it, too, so that there is none."""
    if "tools" in body:
        reason = "Ollama does not enforce JSON where tools may be called"
        plain = with_output_in_prompt(request, reason, warnings)
        body["messages"] = messages(plain, warnings)
    else:
        body["format"] = json_schema(request.output)


def _tools(request: Request, warnings: Warnings) -> list[dict[str, Any]]:
    if request.tool_choice == "none":
        return []
    request = only_chosen(request)
    for tool in hosted_of(request):
        raise lacking(tool, "Ollama runs no tools itself")
    if request.tool_choice not in (None, "auto"):
        raise UnsupportedError(
            f"Ollama cannot force a tool call (tool_choice={request.tool_choice!r}): use 'auto'"
        )
    if request.tools and request.parallel_tool_calls is False:
        warnings.add("Ollama cannot forbid parallel tool calls: parallel_tool_calls is dropped")
    return [_tool(tool, warnings) for tool in functions_of(request)]


def _tool(tool: Tool, warnings: Warnings) -> dict[str, Any]:
    if tool.strict:
        warnings.add("Ollama does not enforce a tool's schema: strict is dropped")
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": object_schema(tool.parameters),
    }
    return {"type": "function", "function": function}


def _options(request: Request) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if request.max_output_tokens is not None:
        options["num_predict"] = request.max_output_tokens
    if request.temperature is not None:
        options["temperature"] = request.temperature
    if request.top_p is not None:
        options["top_p"] = request.top_p
    if request.stop:
        options["stop"] = request.stop
    if request.seed is not None:
        options["seed"] = request.seed
    return options


def _context(body: dict[str, Any]) -> int:
    """Return the context that the request sets, in tokens, 0 if it does not."""
    match body.get("options"):
        case {"num_ctx": int() as tokens}:
            return tokens
        case _:
            return 0


def _think(reasoning: Effort | int, warnings: Warnings) -> bool | str:
    if isinstance(reasoning, int):
        if reasoning > 0:
            warnings.add("Ollama has no thinking budget: thinking is switched on without one")
        return reasoning > 0
    think = _THINK[reasoning]
    if think not in (False, reasoning):
        warnings.add(f"Ollama has no reasoning effort {reasoning!r}: {think!r} is sent")
    return think


class _Model(msgspec.Struct):
    name: str = ""


class _Tags(msgspec.Struct):
    models: list[_Model]


_TAGS = msgspec.json.Decoder(_Tags)
