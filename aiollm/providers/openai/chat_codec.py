"""OpenAI's chat completions, the wire of most servers and routers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from aiollm._wire.body import json_body
from aiollm._wire.conversations import FILE, anew, to_look_at
from aiollm._wire.framing import SSE
from aiollm._wire.schema import json_schema, schema_name, strict
from aiollm.errors import LLMError, UnsupportedError
from aiollm.provider import Codec, HttpRequest, HttpResponse, Provider, TokenCodec
from aiollm.providers.encoder import ReachesBack
from aiollm.providers.encoding import (
    Warnings,
    bearer_headers,
    merge,
    object_schema,
    output_note,
    tools_on_offer,
)
from aiollm.providers.hosted import functions_of
from aiollm.providers.model_lists import listed_names
from aiollm.providers.openai.caching import add_fields, finish, marks_of
from aiollm.providers.openai.chat_decode import ChatDecoder
from aiollm.providers.openai.chat_messages import messages
from aiollm.providers.openai.chat_think import ThinkBlock
from aiollm.providers.openai.dialects import (
    COMPATIBLE,
    Dialect,
    dialect_of,
    model_of,
    suited,
)
from aiollm.providers.openai.efforts import thinking
from aiollm.providers.openai.errors import reply_error
from aiollm.providers.openai.models import Model
from aiollm.providers.tool_choice import only_chosen
from aiollm.types import AudioPart, DocumentPart, Part, Request, Target, Tool, ToolResultPart

_FILES = frozenset({AudioPart, DocumentPart})

_PLAIN: tuple[dict[str, Any], str] = ({}, "")
"""The format of an answer that is just text, and what the system prompt says about it."""


class ChatCodec(Codec):
    """Chat completions; `dialect` overrides the one that the provider's host implies."""

    family = "openai"

    def __init__(self, dialect: Dialect | None = None) -> None:
        self._dialect = dialect

    def framing(self) -> SSE:
        """Return a new framer for one reply."""
        return SSE()

    def encode(self, provider: Provider, target: Target, request: Request) -> HttpRequest:
        """Translate a request. Raises: UnsupportedError, ConfigError."""
        dialect = suited(self._dialect or dialect_of(provider.host), target.model)
        warnings = Warnings()
        headers = bearer_headers(provider)
        try:
            body = self.encode_body(provider, target, request, dialect, headers, warnings)
        except ReachesBack:
            return self.encode(provider, target, anew(request))
        return HttpRequest(
            f"{provider.base_url}/chat/completions",
            headers,
            json_body(body),
            warnings=tuple(warnings),
            decoder=self._decoder_of(body, dialect) if "n" in body or dialect.think else None,
        )

    def encode_body(
        self,
        provider: Provider,
        target: Target,
        request: Request,
        dialect: Dialect,
        headers: dict[str, str],
        warnings: Warnings,
    ) -> dict[str, Any]:
        """Return the body, and add to the headers. Raises: UnsupportedError, ConfigError."""
        model = model_of(target.model, dialect)
        check_media(provider, target, request)
        form, note = _PLAIN
        if request.output is not None:
            form, note = _response_format(request, dialect, warnings)
        marks = marks_of(request, dialect, target.model) if dialect.cache_key else None
        body: dict[str, Any] = {
            "model": target.model,
            "messages": messages(request, dialect, self.family, warnings, note, marks),
            "stream": True,
            **_limits(request, dialect),
            **sampling(request, model, warnings),
            **form,
            **thinking(request, dialect, model, warnings),
        }
        if request.tools or request.extra:
            request = _choosable(request, dialect)
            body |= _tools(request, dialect, target.model, warnings)
        if dialect.cache_key:
            add_fields(body, headers, request, dialect)
            if marks is not None:
                finish(marks, body, request, dialect, warnings)
        return merge(body, request.extra) if request.extra else body

    def _decoder_of(self, body: dict[str, Any], dialect: Dialect) -> Callable[[], ChatDecoder]:
        """Return a function that makes the decoder of a reply that is not read like most."""
        asked = body.get("n")
        choices = asked if isinstance(asked, int) else 1
        tags = dialect.think
        return lambda: ChatDecoder(self.family, choices, tags and ThinkBlock(tags))

    def decoder(self) -> ChatDecoder:
        """Return a new decoder for one reply."""
        return ChatDecoder(self.family)

    def error(self, reply: HttpResponse) -> LLMError:
        """Translate an error reply."""
        return reply_error(reply)

    def models(self, provider: Provider) -> HttpRequest:
        """Return the request that lists the models."""
        return models_request(provider)

    def model_names(self, reply: HttpResponse) -> tuple[str, ...]:
        """Read the reply to `models`. Raises: ProtocolError."""
        return listed_names(reply.body)

    def counters(self, provider: Provider) -> tuple[TokenCodec, ...]:
        """Return the codecs that count at servers of your own; no vendor counts for chat."""
        dialect = self._dialect or dialect_of(provider.host)
        if dialect is not COMPATIBLE:
            return ()
        from aiollm.providers.openai.chat_counting import ChatCounts, TokenizeCounts  # few count

        return ChatCounts(self.encode_body), TokenizeCounts(self.encode_body)


JSON_OR_TOOLS = "does not enforce JSON where tools may be called"


def models_request(provider: Provider) -> HttpRequest:
    """Return the request that lists an OpenAI-compatible server's models."""
    return HttpRequest(f"{provider.base_url}/models", bearer_headers(provider), method="GET")


def check_media(provider: Provider, target: Target, request: Request) -> None:
    """Refuse documents and audio that a target does not accept. Raises: UnsupportedError."""
    for message in to_look_at(request, FILE):
        if message.role == "user":
            if not _FILES.isdisjoint(map(type, message.parts)):
                _check_parts(provider, target, message.parts)
        elif message.role == "tool":
            for part in message.parts:
                if isinstance(part, ToolResultPart):
                    _check_parts(provider, target, part.content)


def _check_parts(provider: Provider, target: Target, parts: Sequence[Part]) -> None:
    kinds = _FILES.intersection(map(type, parts))
    if not kinds:
        return
    known = provider.capabilities(target.model)
    if DocumentPart in kinds and not known.documents:
        raise UnsupportedError(f"{target} does not accept documents: send their text or images")
    if AudioPart in kinds and not known.audio:
        raise UnsupportedError(f"{target} does not accept audio: send a transcript")


def sampling(request: Request, model: Model, warnings: Warnings) -> dict[str, float]:
    """Return temperature and top_p, unless the model accepts only its default."""
    if request.temperature is None and request.top_p is None:
        return {}
    wanted = {"temperature": request.temperature, "top_p": request.top_p}
    given = {name: value for name, value in wanted.items() if value is not None}
    stops = "none" in model.efforts and not model.fixed
    if model.sampling or (stops and request.reasoning in ("none", 0)):
        return given
    if model.quiet and request.reasoning is None:
        return given
    for name, value in given.items():
        if value != 1:
            warnings.add(f"a reasoning model accepts only its own {name}: {value} is dropped")
    return {}


def output_schema(output: Any, warnings: Warnings) -> dict[str, Any]:
    """Return name, schema and `strict` of an output type. Raises: ConfigError."""
    name, schema = schema_name(output), json_schema(output)
    try:
        return {"name": name, "schema": strict(schema), "strict": True}
    except UnsupportedError as error:
        warnings.add(f"the schema of the answer is not strictly enforced: {error.message}")
    return {"name": name, "schema": schema, "strict": False}


def function(tool: Tool) -> dict[str, Any]:
    """Return a tool's function. Raises: UnsupportedError for what strict mode cannot express."""
    wire: dict[str, Any] = {"name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    if tool.strict:
        return wire | {"parameters": strict(json_schema(tool.parameters)), "strict": True}
    return wire | {"parameters": object_schema(tool.parameters)}


def _limits(request: Request, dialect: Dialect) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if dialect.usage_option:
        fields["stream_options"] = {"include_usage": True}
        if dialect.padding is not None:
            fields["stream_options"]["include_obfuscation"] = dialect.padding
    if request.max_output_tokens is not None:
        fields[dialect.max_tokens] = request.max_output_tokens
    if request.stop:
        fields["stop"] = request.stop
    if request.seed is not None:
        fields[dialect.seed] = request.seed
    return fields


def _choosable(request: Request, dialect: Dialect) -> Request:
    """Return the request without the tools that its choice leaves out, unless the host has lists.

    Most hosts know no list of tools in a choice, and none takes what it runs itself in one.
    """
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return request
    from aiollm.providers.openai.hosted import chat_choice  # few requests choose among several

    if dialect.chooses and chat_choice(request) is not None:
        return request
    return only_chosen(request)


def _tools(request: Request, dialect: Dialect, model: str, warnings: Warnings) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    if request.tools:
        if all(isinstance(tool, Tool) for tool in request.tools):
            fields["tools"] = [_function(tool) for tool in functions_of(request)]
        else:
            from aiollm.providers.openai.hosted import chat_tools  # most requests have no such

            fields = chat_tools(request, dialect, model, _function, warnings)
    # A model that searches by itself may have no list, and OpenAI refuses a choice without one.
    if "tools" not in fields and not request.extra.get("tools"):
        return fields
    if (choice := _choice(request)) is not None:
        fields["tool_choice"] = choice
    if request.parallel_tool_calls is not None:
        fields["parallel_tool_calls"] = request.parallel_tool_calls
    return fields


def _choice(request: Request) -> Any:
    match request.tool_choice:
        case None | "auto" | "none" | "required" as word:
            return word
        case str() as name:
            return _forced(request, name)
        case _:
            from aiollm.providers.openai.hosted import chat_choice

            return chat_choice(request)


def _function(tool: Tool) -> dict[str, Any]:
    return {"type": "function", "function": function(tool)}


def _forced(request: Request, name: str) -> Any:
    if any(tool.name == name and not isinstance(tool, Tool) for tool in request.tools):
        raise UnsupportedError(f"chat completions cannot be made to call {name!r}: use 'auto'")
    return {"type": "function", "function": {"name": name}}


def _response_format(
    request: Request, dialect: Dialect, warnings: Warnings
) -> tuple[dict[str, Any], str]:
    """Return the field for a structured answer, and a note about it for the system prompt."""
    if tools_on_offer(request) and not dialect.json_with_tools:
        warnings.add(f"{dialect.name} {JSON_OR_TOOLS}: the schema goes into the prompt")
        return {}, output_note(request)
    if dialect.json_schema:
        schema = output_schema(request.output, warnings)
        return {"response_format": {"type": "json_schema", "json_schema": schema}}, ""
    warnings.add(f"{dialect.name} enforces JSON but no schema: the schema goes into the prompt")
    return {"response_format": {"type": "json_object"}}, output_note(request)
