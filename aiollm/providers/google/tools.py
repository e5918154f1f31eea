"""Gemini, tools: declarations of functions, Google's own tools, and what may be called."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._wire.schema import loosened, type_schema
from aiollm.errors import UnsupportedError
from aiollm.hosted import CodeExecution, FileSearch, Hosted, HostedTool, WebSearch
from aiollm.provider import Provider
from aiollm.providers.encoding import Warnings, asks_for_tools
from aiollm.providers.google.models import generation
from aiollm.providers.google.wire import FAMILY
from aiollm.providers.hosted import form_of, functions_of, hosted_of, lacking
from aiollm.providers.tool_choice import only_chosen, several
from aiollm.types import Request, Tool

VERTEX = "aiplatform.googleapis.com"

_MODES = {"none": "NONE", "required": "ANY"}


def tool_fields(
    provider: Provider, model: str, request: Request, warnings: Warnings
) -> dict[str, Any]:
    """Return the fields for a request's tools. Raises: UnsupportedError."""
    if hosted_of(request):
        request = _choosable(request)
    functions = functions_of(request)
    tools = [_own(tool, provider, warnings) for tool in hosted_of(request)]
    mixed = bool(functions and tools)
    if functions:
        tools.insert(0, {"functionDeclarations": [_declaration(f, warnings) for f in functions]})
    config: dict[str, Any] = {}
    if asks_for_tools(request) and (calling := _calling(request, warnings, mixed=mixed)):
        config["functionCallingConfig"] = calling
    if mixed:
        config |= _mixed(provider, model)
    fields = {"tools": tools, "toolConfig": config}
    return {name: field for name, field in fields.items() if field}


def _choosable(request: Request) -> Request:
    """Return the request with what its choice leaves of Google's own tools.

    Lists of names are of functions alone, and nothing makes a model call what Google runs.
    """
    wanted, functions = request.tool_choice, functions_of(request)
    if wanted == "none":  # the mode NONE forbids functions alone
        return msgspec.structs.replace(request, tools=tuple(functions))
    choice = several(request)
    if choice is not None and not choice.must:
        return only_chosen(request)
    named = (wanted,) if choice is None else [tool.name for tool in choice.tools]
    known = {None, "auto", *(tool.name for tool in functions)}
    if all(name in known for name in named) or (functions and wanted == "required"):
        return request
    raise UnsupportedError(
        f"Gemini cannot be made to call what Google runs itself (tool_choice={wanted!r}): use "
        "'auto' and ask for it in the prompt"
    )


def _mixed(provider: Provider, model: str) -> dict[str, Any]:
    """Return the setting for functions beside Google's own tools, which Vertex does not have.

    Gemini 3 was the first to take both (Google's page on combining tools, March 2026), and without
    the setting refuses them.
    """
    if generation(model) < 3:
        raise UnsupportedError(f"{model} takes either functions or Google's own tools, not both")
    return {} if provider.host.endswith(VERTEX) else {"includeServerSideToolInvocations": True}


def _own(tool: Hosted, provider: Provider, warnings: Warnings) -> dict[str, Any]:
    """Return a tool that Google runs. Raises: UnsupportedError."""
    vertex = provider.host.endswith(VERTEX)
    match tool:
        case WebSearch():
            return {"googleSearch": _search_options(tool, warnings, vertex=vertex)}
        case CodeExecution(container=id_) if id_:
            raise lacking(tool, "Gemini has no containers to name")
        case CodeExecution():
            return {"codeExecution": {}}
        case FileSearch() if vertex:
            raise lacking(tool, "Vertex has no stores of this kind; give its own in HostedTool")
        case FileSearch():
            most = {} if tool.max_results is None else {"topK": tool.max_results}
            return {"fileSearch": {"fileSearchStoreNames": tool.stores} | most}
        case HostedTool():
            return form_of(tool, FAMILY)


def _search_options(tool: WebSearch, warnings: Warnings, *, vertex: bool) -> dict[str, Any]:
    if tool.allowed_domains or (tool.blocked_domains and not vertex):
        raise lacking(tool, "Google's search cannot be limited to domains")
    if tool.max_uses is not None:
        warnings.add("Gemini sets no limit of searches: max_uses is dropped")
    if tool.location is not None:
        warnings.add("Google's search does not accept a location by name: location is dropped")
    return {"excludeDomains": tool.blocked_domains} if tool.blocked_domains else {}


def _declaration(tool: Tool, warnings: Warnings) -> dict[str, Any]:
    wire: dict[str, Any] = {"name": tool.name}
    if tool.description:
        wire["description"] = tool.description
    if not _takes_nothing(tool.parameters):
        given = tool.parameters
        loops = "$defs" in given or "definitions" in given
        wire["parametersJsonSchema"] = loosened_schema(given, warnings) if loops else given
    return wire


def loosened_schema(kind: Any, warnings: Warnings) -> dict[str, Any]:
    """Return the schema of a type as Gemini takes it, which loops in optional properties alone."""
    schema, names = loosened(type_schema(kind))
    if names:
        warnings.add(
            f"Gemini takes a type inside itself only in optional properties: {', '.join(names)} "
            "may be missing"
        )
    return schema


def _takes_nothing(schema: dict[str, Any]) -> bool:
    """Return whether a schema is an object without properties, which older models refuse."""
    keywords = {key for key, value in schema.items() if value}
    return keywords <= {"type", "title", "description", "$schema"} and (
        schema.get("type", "object") == "object"
    )


def _calling(request: Request, warnings: Warnings, *, mixed: bool) -> dict[str, Any]:
    """Return how functions may be called."""
    if request.parallel_tool_calls is False:
        warnings.add("Gemini cannot forbid parallel tool calls: parallel_tool_calls is dropped")
    match request.tool_choice:
        case None | "auto":
            return _freely(request, mixed=mixed)
        case "none" | "required" as word:
            return {"mode": _MODES[word]}
        case str() as name:
            return {"mode": "ANY", "allowedFunctionNames": [name]}
        case _:
            choice = several(request)
            assert choice is not None
            names = [tool.name for tool in choice.tools]
            return {"mode": "ANY" if choice.must else "VALIDATED", "allowedFunctionNames": names}


def _freely(request: Request, *, mixed: bool) -> dict[str, Any]:
    """Return the mode in which a model decides; beside Google's own tools it is never AUTO."""
    functions = functions_of(request)
    if any(tool.strict for tool in functions):
        return {"mode": "VALIDATED"}
    if request.tool_choice is None or (request.tools and not functions):
        return {}
    return {"mode": "VALIDATED" if mixed else "AUTO"}
