"""A choice among several tools, for wires with and without a form for it."""

from __future__ import annotations

import msgspec

from aiollm.errors import UnsupportedError
from aiollm.types import AnyTool, Request


class Several(msgspec.Struct, frozen=True):
    """The tools that may be called, of which one `must` be."""

    tools: tuple[AnyTool, ...]
    must: bool


def several(request: Request) -> Several | None:
    """Return a choice among several tools, None where the request has no such choice.

    Raises: UnsupportedError for a tool that is in `extra`, whose form only its wire knows.
    """
    choice = request.tool_choice
    if choice is None or isinstance(choice, str):
        return None
    must = choice[0] != "auto"
    names = set(choice if must else choice[1:])
    chosen = tuple(tool for tool in request.tools if tool.name in names)
    if len(chosen) < len(names):
        missing = ", ".join(sorted(names - {tool.name for tool in chosen}))
        raise UnsupportedError(f"a tool in extra cannot be chosen among several: {missing:.300}")
    return Several(chosen, must)


def only_chosen(request: Request) -> Request:
    """Return a request with just the tools that are chosen among, for a wire without a list.

    What the model can do is the same. A prompt cache that holds all the tools is not read, though.
    """
    choice = several(request)
    if choice is None:
        return request
    word = "auto" if not choice.must else "required"
    if choice.must and len(choice.tools) == 1:
        word = choice.tools[0].name
    return msgspec.structs.replace(request, tools=choice.tools, tool_choice=word)
