"""OpenAI's Responses, the wire of its newer models: tools with reasoning, images in results."""

from __future__ import annotations

from typing import Any

from aiollm._wire.body import json_body
from aiollm._wire.conversations import anew
from aiollm._wire.framing import NamedSSE
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider, TokenCodec
from aiollm.providers.cache_points import CacheMarks, system_blocks
from aiollm.providers.encoder import ReachesBack
from aiollm.providers.encoding import (
    Warnings,
    asks_for_tools,
    bearer_headers,
    merge,
    system_text,
    tools_on_offer,
    with_output_in_prompt,
)
from aiollm.providers.hosted import functions_of
from aiollm.providers.model_lists import listed_names
from aiollm.providers.openai.caching import add_fields, marks_of
from aiollm.providers.openai.chat_codec import (
    JSON_OR_TOOLS,
    check_media,
    function,
    models_request,
    output_schema,
    sampling,
)
from aiollm.providers.openai.dialects import Dialect, dialect_of, model_of
from aiollm.providers.openai.efforts import effort_of, must_not_reason
from aiollm.providers.openai.errors import reply_error
from aiollm.providers.openai.models import Model
from aiollm.providers.openai.responses_decode import ResponsesDecoder
from aiollm.providers.openai.responses_items import input_items
from aiollm.providers.openai.responses_wire import FAMILY
from aiollm.types import AnyTool, Request, Target, Tool

MIN_OUTPUT_TOKENS = 16
"""The lowest limit that OpenAI accepts."""


class ResponsesCodec(Codec):
    """Responses without server-side state: every request has the complete conversation."""

    family = FAMILY

    def framing(self) -> NamedSSE:
        """Return a new framer for one reply."""
        return NamedSSE()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        warnings = Warnings()
        headers = bearer_headers(provider)
        try:
            body = self.encode_body(provider, target, request, headers, warnings)
        except ReachesBack:
            return self.encode(provider, target, anew(request))
        return HttpRequest(
            f"{provider.base_url}/responses",
            headers,
            json_body(body),
            warnings=tuple(warnings),
        )

    def encode_body(
        self,
        provider: Provider,
        target: Target,
        request: Request,
        headers: dict[str, str],
        warnings: Warnings,
    ) -> dict[str, Any]:
        """Return the body, and add to the headers. Raises: UnsupportedError, ConfigError."""
        dialect = dialect_of(provider.host)
        model = model_of(target.model, dialect)
        check_media(provider, target, request)
        if request.output is not None and not dialect.json_with_tools and tools_on_offer(request):
            request = with_output_in_prompt(request, f"{dialect.name} {JSON_OR_TOOLS}", warnings)
        _check(request, warnings)
        marks = marks_of(request, dialect, target.model) if dialect.cache == "openai" else None
        system = _marked_system(request, dialect, marks)
        items = input_items(request, self.family, dialect, warnings, marks)
        if marks is not None and (note := marks.settle()):
            warnings.add(note)
        body: dict[str, Any] = {
            "model": target.model,
            "input": system + items,
            "stream": True,
            "store": False,
            **({} if system else _instructions(request)),
            **_limits(request, dialect, warnings),
            **sampling(request, model, warnings),
            **_text(request, warnings),
            **_reasoning(request, dialect, model, warnings),
        }
        if request.tools or request.extra:
            _add_tools(body, request, dialect, warnings)
        if dialect.padding is not None:
            body["stream_options"] = {"include_obfuscation": dialect.padding}
        if dialect.responses_key:
            add_fields(body, headers, request, dialect)
        return merge(body, request.extra)

    def decoder(self) -> ResponsesDecoder:
        """Return a new decoder for one reply."""
        return ResponsesDecoder()

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        return models_request(provider)

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""
        return listed_names(reply.body)

    def counters(self, provider: Provider) -> tuple[TokenCodec, ...]:  # noqa: ARG002
        """Return the codecs that count at `/responses/input_tokens`."""
        from aiollm.providers.openai.responses_counting import ResponsesCounts  # few programs count

        return (ResponsesCounts(self.encode_body),)


def _check(request: Request, warnings: Warnings) -> None:
    if request.stop:
        raise UnsupportedError("Responses do not support stop sequences: use api=chat")
    if request.seed is not None:
        warnings.add("Responses do not support a seed: dropped")


def _marked_system(
    request: Request, dialect: Dialect, marks: CacheMarks | None
) -> list[dict[str, Any]]:
    """Return a system prompt with cache points as a message: instructions cannot be marked."""
    if marks is None:
        return []
    blocks = system_blocks(request, marks, "input_text")
    marked = any("prompt_cache_breakpoint" in block for block in blocks)
    return [{"role": dialect.system, "content": blocks}] if marked else []


def _instructions(request: Request) -> dict[str, Any]:
    text = system_text(request)
    return {"instructions": text} if text else {}


def _limits(request: Request, dialect: Dialect, warnings: Warnings) -> dict[str, Any]:
    limit = request.max_output_tokens
    if limit is None:
        return {}
    if limit < MIN_OUTPUT_TOKENS and dialect.padding is not None:
        warnings.add(f"max_output_tokens is at least {MIN_OUTPUT_TOKENS}: {limit} is raised")
        limit = MIN_OUTPUT_TOKENS
    return {"max_output_tokens": limit}


def _add_tools(
    body: dict[str, Any], request: Request, dialect: Dialect, warnings: Warnings
) -> None:
    if not dialect.chooses and request.tool_choice not in _WORDS:
        from aiollm.providers.openai.hosted import without_list  # few requests name a tool

        request = without_list(request)
    if request.tools:
        body["tools"] = [_tool(tool) for tool in request.tools]
        if len(functions_of(request)) < len(request.tools):
            _add_hosted(body, request, dialect, warnings)
    if not asks_for_tools(request):
        return
    if (choice := _choice(request)) is not None:
        body["tool_choice"] = choice
    if request.parallel_tool_calls is not None:
        body["parallel_tool_calls"] = request.parallel_tool_calls


_WORDS = (None, "auto", "none", "required")
"""Choices that name no tool."""


def _choice(request: Request) -> Any:
    match request.tool_choice:
        case None | "auto" | "none" | "required" as word:
            return word
        case _:
            from aiollm.providers.openai.hosted import responses_choice  # few requests name a tool

            return responses_choice(request)


def _tool(tool: AnyTool) -> dict[str, Any]:
    if isinstance(tool, Tool):
        return {"type": "function", "strict": tool.strict} | function(tool)
    from aiollm.providers.openai.hosted import responses_tool  # most requests have no such tools

    return responses_tool(tool)


def _add_hosted(
    body: dict[str, Any], request: Request, dialect: Dialect, warnings: Warnings
) -> None:
    from aiollm.providers.openai.hosted import responses_fields  # as above

    fields = responses_fields(request, dialect, warnings)
    if included := fields.pop("include", None):
        body["include"] = [*body.get("include", ()), *included]
    body |= fields


def _text(request: Request, warnings: Warnings) -> dict[str, Any]:
    if request.output is None:
        return {}
    return {"text": {"format": {"type": "json_schema"} | output_schema(request.output, warnings)}}


def _reasoning(
    request: Request, dialect: Dialect, model: Model, warnings: Warnings
) -> dict[str, Any]:
    """Request reasoning that can be read and replayed, if the model reasons."""
    asked = request.reasoning
    if request.tools and must_not_reason(request, model, warnings):
        return {"reasoning": {"effort": "none"}}
    if asked is None and (model.sampling or model.quiet):
        return dict(_SEALED) if model.sealed else {}
    wire: dict[str, Any] = {}
    if asked is not None:
        effort = effort_of(asked, dialect, model, warnings)
        if effort is None:
            return {}
        wire["effort"] = effort
    if wire.get("effort") == "none":
        return {"reasoning": wire}
    return {"reasoning": wire | {"summary": "auto"}} | _SEALED


_SEALED = {"include": ["reasoning.encrypted_content"]}
"""What requests reasoning in the form that can be sent back."""
