"""Encode requests for Anthropic: the body around the messages, and the headers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aiollm._settings.hidden import HiddenValues
from aiollm._wire.body import json_body
from aiollm._wire.schema import bounded, json_schema
from aiollm.dsn import Secret
from aiollm.errors import UnsupportedError
from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.grammar import fitted, within
from aiollm.providers.anthropic.messages import UNMARKED, Block, container, messages
from aiollm.providers.anthropic.models import Model, Thinking, model_facts, thinking
from aiollm.providers.cache_points import CacheMarks, has_points, nearest, system_blocks
from aiollm.providers.encoding import (
    Warnings,
    asks_for_tools,
    merge,
    sole_text,
    system_text,
    with_output_in_prompt,
)
from aiollm.providers.tool_choice import only_chosen
from aiollm.types import AnyTool, Effort, Request, Target, Tool

VERSION = "2026-10-21"
SAMPLING_VERSION = "2023-06-01"
"""The older of the two current versions, because the newer one refuses sampling parameters."""

OWN_HOST = "api.anthropic.com"

_SAMPLING = ("temperature", "top_p", "top_k")

LIFETIMES = ("5m", "1h")
MAX_MARKS = 4
"""The cache points of a request (Anthropic, November 2026); the automatic one is one of them."""


def encode(provider: Provider, target: Target, request: Request) -> HttpRequest:
    """Translate a request. Raises: UnsupportedError, ConfigError."""
    warnings = Warnings()
    body = encode_body(provider, target, request, warnings)
    return HttpRequest(
        f"{provider.base_url}/messages",
        headers(provider, body),
        json_body(body),
        warnings=tuple(warnings),
    )


def encode_body(
    provider: Provider, target: Target, request: Request, warnings: Warnings
) -> dict[str, Any]:
    """Return the body for a request. Raises: UnsupportedError, ConfigError."""
    body = _body(request, target.model, warnings)
    return merge({"model": _model(provider, target.model)} | body, request.extra)


def headers(provider: Provider, body: Mapping[str, Any] = {}) -> dict[str, str]:
    """Return the headers of a request with that body, including the key."""
    older = not body.keys().isdisjoint(_SAMPLING)
    given = HiddenValues(
        {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "anthropic-version": SAMPLING_VERSION if older else VERSION,
        }
    )
    if provider.token is not None and not _carries_key(provider.headers):
        given.update(_key(provider.token))
    given.update(provider.headers)
    return given


def _carries_key(headers: dict[str, str]) -> bool:
    return bool(headers) and any(name.lower() in ("authorization", "x-api-key") for name in headers)


def _key(token: Secret) -> dict[str, str]:
    """Send OAuth tokens and explicit `Bearer ...` tokens as Bearer, and keys as x-api-key."""
    value = token.reveal()
    if value.startswith("Bearer "):
        return {"Authorization": value}
    if value.startswith("sk-ant-oat"):
        return {"Authorization": f"Bearer {value}"}
    return {"x-api-key": value}


def _model(provider: Provider, model: str) -> str:
    """Write the version with dashes for Anthropic itself, whose names have no dots."""
    return re.sub(r"(?<=\d)\.(?=\d)", "-", model) if provider.host == OWN_HOST else model


def _body(request: Request, model: str, warnings: Warnings) -> dict[str, Any]:
    facts = model_facts(model)
    choice = None
    if (request.tools or request.extra) and asks_for_tools(request):
        request = only_chosen(request)
        if facts.limited:
            request = within(request, warnings)
        choice = _tool_choice(request, facts)
    thoughts = _thinking(request, facts, choice, warnings)
    body = _prompt(request, model, facts, warnings)
    body["max_tokens"] = thoughts.max_tokens
    body["stream"] = True
    if choice:
        body["tool_choice"] = choice
    if thoughts.config:
        body["thinking"] = thoughts.config
    if len(request.messages) > 1 and (id_ := container(request)):
        body["container"] = id_
    if request.output is not None or thoughts.effort:
        config = _output_config(request, facts, thoughts)
        if isinstance(config.get("format"), UnsupportedError):
            prompted = with_output_in_prompt(request, config["format"].message, warnings)
            return _body(prompted, model, warnings)
        body["output_config"] = config
    if request.stop and (stops := _stops(request, warnings)):
        body["stop_sequences"] = stops
    if request.seed is not None:
        warnings.add("Anthropic does not accept a seed: dropped")
    return body | _sampling(request, facts, thoughts, warnings)


def _prompt(request: Request, model: str, facts: Model, warnings: Warnings) -> dict[str, Any]:
    """Return messages, system prompt and tools, and the container of tools that run code."""
    text = sole_text(request)
    if (not text or request.tools or request.prompt_cache) and (marks := _marks(request)):
        return _cached(request, model, warnings, marks)
    body: dict[str, Any] = {}
    if text:
        body["messages"] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    else:
        body["messages"] = messages(request, facts, warnings)
    if system := system_text(request):
        body["system"] = system
    if request.tools:
        body["tools"] = [_tool(tool, model, warnings) for tool in request.tools]
        body |= _container(request)
    return body


def _marks(request: Request) -> CacheMarks | None:
    wish = request.prompt_cache
    if wish == "off" or (wish is None and not has_points(request)):
        return None
    lifetime = nearest(wish, LIFETIMES)
    control = {"type": "ephemeral"} | ({"ttl": lifetime} if lifetime else {})
    own = "cache_control" in request.extra  # the body's field, which takes a mark as well
    return CacheMarks({"cache_control": control}, MAX_MARKS - own)


def _cached(request: Request, model: str, warnings: Warnings, marks: CacheMarks) -> dict[str, Any]:
    """Return the prompt with a mark at the end of each piece that is cached.

    The automatic mark goes on the last block, as the field `cache_control` of the body asks the
    server to do: hosts that only speak this wire know that of blocks alone.
    """
    prefix = _prefix(request, model, warnings, marks)
    body: dict[str, Any] = {name: blocks for name, blocks in prefix.items() if blocks}
    turns = body["messages"] = messages(request, model_facts(model), warnings, marks)
    body |= _container(request)
    if request.prompt_cache:
        any(marks.end(turn["content"], UNMARKED) for turn in reversed(turns))
    if note := marks.settle():
        warnings.add(note)
    return body


def _prefix(
    request: Request, model: str, warnings: Warnings, marks: CacheMarks
) -> dict[str, list[Block]]:
    """Return what comes before the messages, in the order in which Anthropic caches it."""
    tools: list[Block] = []
    for tool in request.tools:
        tools.append(_tool(tool, model, warnings))
        if tool.cache_point:
            marks.end(tools)
    return {"tools": tools, "system": system_blocks(request, marks, "text", tools)}


def _stops(request: Request, warnings: Warnings) -> list[str]:
    stops = [stop for stop in request.stop if stop.strip()]
    if len(stops) < len(request.stop):
        warnings.add("Anthropic does not accept a stop sequence of only white space: dropped")
    return stops


def _container(request: Request) -> dict[str, str]:
    if all(isinstance(tool, Tool) for tool in request.tools):
        return {}
    from aiollm.providers.anthropic.hosted import container_of  # as below

    return container_of(request)


def _called(request: Request, name: Any) -> str:
    from aiollm.providers.anthropic.hosted import called  # as below

    return called(request, name)


def _tool(tool: AnyTool, model: str, warnings: Warnings) -> dict[str, Any]:
    if not isinstance(tool, Tool):
        from aiollm.providers.anthropic.hosted import tool_of  # most requests have no such tools

        return tool_of(tool, model)
    made: dict[str, Any] = {"name": tool.name}
    if tool.description:
        made["description"] = tool.description
    made["input_schema"] = {"type": "object"} | tool.parameters
    if tool.strict:
        try:
            made["input_schema"] = bounded(json_schema(tool.parameters))
            made["strict"] = True
        except UnsupportedError as error:
            warnings.add(f"tool {tool.name!r} is not strict: {error.message}")
    return made


def _tool_choice(request: Request, facts: Model) -> dict[str, Any] | None:
    match request.tool_choice:
        case None | "auto":
            choice: dict[str, Any] = {"type": "auto"}
            wanted = request.parallel_tool_calls is False
        case "none":
            return {"type": "none"}
        case _ if not facts.forced_tools:
            raise UnsupportedError(
                "this model cannot be forced to call a tool: use tool_choice 'auto' and ask for "
                "the call in the prompt"
            )
        case "required":
            choice, wanted = {"type": "any"}, True
        case name:
            choice, wanted = {"type": "tool", "name": _called(request, name)}, True
    if request.parallel_tool_calls is False:
        choice["disable_parallel_tool_use"] = True
    return choice if wanted or request.tool_choice else None


def _thinking(
    request: Request, facts: Model, choice: dict[str, Any] | None, warnings: Warnings
) -> Thinking:
    limit = request.max_output_tokens
    forced = choice is not None and choice["type"] in ("any", "tool")
    if not forced:
        return thinking(facts, request.reasoning, limit, warnings)
    if request.reasoning not in (None, "none", 0):
        return _thinking_before_a_call(request.reasoning, facts, limit, warnings)
    return _no_thinking(facts, limit, warnings)


def _thinking_before_a_call(
    wish: Effort | int, facts: Model, limit: int | None, warnings: Warnings
) -> Thinking:
    """Drop a budget, which excludes a forced tool call; adaptive thinking does not.

    Opus 4.6 takes both (recorded in 2026), and Anthropic documents only the budget's limit.
    """
    notes = Warnings()
    thoughts = thinking(facts, wish, limit, notes)
    if thoughts.config is None or thoughts.config["type"] != "enabled":
        warnings.update(notes)
        return thoughts
    warnings.add("a forced tool call excludes a reasoning budget: reasoning is dropped")
    return _no_thinking(facts, limit, warnings)


def _no_thinking(facts: Model, limit: int | None, warnings: Warnings) -> Thinking:
    """Switch thinking off for models that think by default."""
    return thinking(facts, "none" if facts.thinks and facts.off else None, limit, warnings)


def _output_config(request: Request, facts: Model, thoughts: Thinking) -> dict[str, Any]:
    """Return effort and format, or in place of the format why no schema can say it."""
    config: dict[str, Any] = {}
    if thoughts.effort:
        config["effort"] = thoughts.effort
    if request.output is not None:
        schema = json_schema(request.output)
        try:
            made = fitted(schema) if facts.limited else bounded(schema)
            config["format"] = {"type": "json_schema", "schema": made}
        except UnsupportedError as error:
            config["format"] = error
    return config


def _sampling(
    request: Request, facts: Model, thoughts: Thinking, warnings: Warnings
) -> dict[str, float]:
    if request.temperature is None and request.top_p is None:
        return {}
    wished = {"temperature": request.temperature, "top_p": request.top_p}
    given = {name: value for name, value in wished.items() if value is not None}
    if not facts.sampling:
        for name in given:
            warnings.add(f"this model does not accept {name}: dropped")
        return {}
    if given and thoughts.active:
        warnings.add("reasoning excludes temperature and top_p: dropped")
        return {}
    if len(given) == 2:
        warnings.add("Anthropic accepts temperature or top_p, not both: top_p is dropped")
        del given["top_p"]
    return given
