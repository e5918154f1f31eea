"""Tools that the host of an OpenAI wire runs itself, and choices among tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.hosted import CodeExecution, FileSearch, Hosted, HostedTool, WebSearch
from aiollm.providers.encoding import Warnings
from aiollm.providers.hosted import approximate, form_of, hosted_of, lacking
from aiollm.providers.openai.dialects import AZURE, OPENAI, OPENROUTER, Dialect
from aiollm.providers.openai.responses_wire import FAMILY
from aiollm.providers.tool_choice import only_chosen, several
from aiollm.types import AnyTool, Request, Tool

Block = dict[str, Any]

CHAT_FAMILY = "openai"

_SEARCH_MODELS = ("*-search-preview*", "*-search-api*")
"""OpenAI's models that search by themselves in chat completions (November 2026)."""

_INCLUDED = {
    "code_execution": "code_interpreter_call.outputs",
    "file_search": "file_search_call.results",
}
"""What OpenAI leaves out of the results of its tools unless it is asked for (November 2026)."""

_TYPES = {
    "web_search": "web_search",
    "code_execution": "code_interpreter",
    "file_search": "file_search",
}

_CHOOSABLE = ("code_interpreter", "file_search", "image_generation", "mcp")
"""The types that a choice may name by themselves; any other stands in a list (its SDK 3.54)."""


def responses_tool(tool: Hosted) -> Block:
    """Return a tool as Responses take it. Raises: UnsupportedError."""
    match tool:
        case WebSearch():
            return {"type": "web_search"} | _search_options(tool)
        case CodeExecution():
            return {"type": "code_interpreter", "container": tool.container or {"type": "auto"}}
        case FileSearch():
            most = {} if tool.max_results is None else {"max_num_results": tool.max_results}
            return {"type": "file_search", "vector_store_ids": tool.stores} | most
        case HostedTool():
            return form_of(tool, FAMILY)


def responses_fields(request: Request, dialect: Dialect, warnings: Warnings) -> Block:
    """Return the fields beside the list of tools: limits, and results that have to be asked for."""
    tools = hosted_of(request)
    fields: Block = {}
    for tool in tools:
        if isinstance(tool, WebSearch) and tool.max_uses is not None:
            if len(tools) == 1:
                fields["max_tool_calls"] = tool.max_uses
            else:
                warnings.add(
                    "Responses limit all hosted tools together: max_uses of one of them is dropped"
                )
    if dialect in (OPENAI, AZURE):
        wanted = [_INCLUDED[tool.name] for tool in tools if tool.name in _INCLUDED]
        if wanted:
            fields["include"] = wanted
    return fields


def without_list(request: Request) -> Request:
    """Return the request for a host whose choices are words and functions: just what is chosen."""
    request = only_chosen(request)
    for tool in hosted_of(request):
        if tool.name == request.tool_choice:
            return msgspec.structs.replace(request, tools=(tool,), tool_choice="required")
    return request


def responses_choice(request: Request) -> Block:
    """Return a choice of one tool, or among several that the body lists."""
    choice = several(request)
    if choice is not None:
        mode = "required" if choice.must else "auto"
        return _allowed(mode, map(_reference, choice.tools))
    tool = next((each for each in request.tools if each.name == request.tool_choice), None)
    if tool is None:  # one in `extra`
        return {"type": "function", "name": request.tool_choice}
    reference = _reference(tool)
    if isinstance(tool, Tool) or reference["type"] in _CHOOSABLE:
        return reference
    return _allowed("required", [reference])


def _reference(tool: AnyTool) -> Block:
    """Return how a choice refers to a tool."""
    match tool:
        case Tool():
            return {"type": "function", "name": tool.name}
        case HostedTool():
            form = form_of(tool, FAMILY)
            return {key: form[key] for key in ("type", "server_label", "name") if key in form}
        case _:
            return {"type": _TYPES[tool.name]}


def _allowed(mode: str, tools: Iterable[Block]) -> Block:
    return {"type": "allowed_tools", "mode": mode, "tools": list(tools)}


def _search_options(tool: WebSearch) -> Block:
    options: Block = {}
    if tool.blocked_domains:
        raise lacking(tool, "Responses limit a search to domains, but do not leave any out")
    if tool.allowed_domains:
        options["filters"] = {"allowed_domains": tool.allowed_domains}
    if tool.location is not None:
        options["user_location"] = approximate(tool.location)
    return options


def chat_tools(
    request: Request,
    dialect: Dialect,
    model: str,
    function: Callable[[Tool], Block],
    warnings: Warnings,
) -> Block:
    """Return the fields for functions and what the host of chat completions runs, in their order.

    Raises: UnsupportedError.
    """
    fields: Block = {}
    tools: list[Block] = []
    for tool in request.tools:
        if isinstance(tool, Tool):
            tools.append(function(tool))
        elif isinstance(tool, WebSearch) and dialect is OPENAI and _searches(model):
            if _may_be_called(tool, request):
                fields["web_search_options"] = _options_of_openai(tool, warnings)
        else:
            tools.append(_chat_tool(tool, dialect, warnings))
    return fields | ({"tools": tools} if tools else {})


def _chat_tool(tool: Hosted, dialect: Dialect, warnings: Warnings) -> Block:
    match tool:
        case HostedTool():
            return form_of(tool, CHAT_FAMILY)
        case WebSearch() if dialect is OPENROUTER:
            return _of_openrouter(tool, warnings)
        case _:
            raise lacking(
                tool,
                "chat completions have no form for it here; use api=responses where the host "
                "has that, or give the host's own form in HostedTool or extra",
            )


def chat_choice(request: Request) -> Block | None:
    """Return a choice among several functions, None where it holds what the host runs."""
    choice = several(request)
    if choice is None or not all(isinstance(tool, Tool) for tool in choice.tools):
        return None
    mode = "required" if choice.must else "auto"
    tools = [{"type": "function", "function": {"name": tool.name}} for tool in choice.tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


def _may_be_called(tool: Hosted, request: Request) -> bool:
    """Return whether the choice, which is only of functions in chat completions, allows a tool."""
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return choice != "none"
    return tool.name in choice


def _searches(model: str) -> bool:
    return any(matches(model, pattern) for pattern in _SEARCH_MODELS)


def _of_openrouter(tool: WebSearch, warnings: Warnings) -> Block:
    """Return OpenRouter's search, which any of its models can call (its docs, November 2026)."""
    options: Block = {}
    if tool.allowed_domains:
        options["allowed_domains"] = tool.allowed_domains
    if tool.blocked_domains:
        options["excluded_domains"] = tool.blocked_domains
    if tool.max_uses is not None:
        warnings.add("chat completions set no limit of searches: max_uses is dropped")
    if tool.location is not None:
        options["user_location"] = approximate(tool.location)
    return {"type": "openrouter:web_search"} | ({"parameters": options} if options else {})


def _options_of_openai(tool: WebSearch, warnings: Warnings) -> Block:
    if tool.allowed_domains or tool.blocked_domains:
        raise lacking(tool, "in chat completions OpenAI's search takes no domains")
    if tool.max_uses is not None:
        warnings.add("chat completions set no limit of searches: max_uses is dropped")
    if tool.location is None:
        return {}
    kind, *place = approximate(tool.location).items()
    return {"user_location": {"type": kind[1], "approximate": dict(place)}}
