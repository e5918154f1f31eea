"""Anthropic's own tools: their types, and what a request says of them."""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.errors import UnsupportedError
from aiollm.hosted import CodeExecution, FileSearch, Hosted, HostedTool, WebSearch
from aiollm.providers.anthropic.messages import FAMILY
from aiollm.providers.hosted import approximate, form_of, lacking
from aiollm.types import Request


class Version(msgspec.Struct, frozen=True):
    """The type that a tool has for the models whose names match."""

    tool: str
    type: str
    models: str = "*"
    as_of: str = ""


VERSIONS = (
    Version("web_search", "web_search_20250305", as_of="2026-11"),
    Version("code_execution", "code_execution_20250825", as_of="2026-11"),
)
"""The first match applies. From Anthropic's pages on each tool and the types of its SDK.

Of the searches this one is the same at all models and hosts, Vertex included. The later ones, of
February and March 2026, let some models filter what they find by code, which is kept for a while at
Anthropic; `HostedTool` asks for them."""


def tool_of(tool: Hosted, model: str) -> dict[str, Any]:
    """Return a tool as Anthropic takes it. Raises: UnsupportedError."""
    match tool:
        case WebSearch():
            return _typed(tool, model) | _search_options(tool)
        case CodeExecution():
            return _typed(tool, model)
        case FileSearch():
            raise lacking(tool, "Anthropic has no stores of files; send documents, or results")
        case HostedTool():
            return form_of(tool, FAMILY)


def container_of(request: Request) -> dict[str, str]:
    """Return the field for the container that code is to run in, none if the caller names none."""
    for tool in request.tools:
        if isinstance(tool, CodeExecution) and tool.container:
            return {"container": tool.container}
    return {}


def called(request: Request, name: str) -> str:
    """Return what Anthropic calls the tool that a choice names."""
    for tool in request.tools:
        if isinstance(tool, HostedTool) and tool.name == name:
            return str(form_of(tool, FAMILY).get("name") or name)
    return name


def _typed(tool: Hosted, model: str) -> dict[str, Any]:
    for row in VERSIONS:
        if row.tool == tool.name and matches(model, row.models):
            return {"type": row.type, "name": tool.name}
    raise UnsupportedError(f"Anthropic has no tool {tool.name!r}")


def _search_options(tool: WebSearch) -> dict[str, Any]:
    options: dict[str, Any] = {}
    if tool.max_uses is not None:
        options["max_uses"] = tool.max_uses
    if tool.allowed_domains:
        options["allowed_domains"] = tool.allowed_domains
    if tool.blocked_domains:
        options["blocked_domains"] = tool.blocked_domains
    if tool.location is not None:
        options["user_location"] = approximate(tool.location)
    return options
