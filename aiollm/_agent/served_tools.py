"""Tools that a server runs, and how those with one name are told apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable

import msgspec

from aiollm._agent.tools import FunctionTool
from aiollm._validation import is_tool_name
from aiollm.types import AnyTool


class ServedTool(FunctionTool, frozen=True):
    """A tool of an MCP server; if another tool has its name, the server's name goes before it."""

    server: str = ""


def told_apart(tools: Iterable[AnyTool]) -> tuple[AnyTool, ...]:
    """Return tools with different names, as far as they come from servers; each of them once."""
    given = tuple(tools)
    counts = Counter(tool.name for tool in given)
    if all(count == 1 for count in counts.values()):
        return given
    taken = {name for name, count in counts.items() if count == 1}
    made: list[AnyTool] = []
    for tool in given:
        if isinstance(tool, ServedTool) and counts[tool.name] > 1:
            if any(tool.function == getattr(other, "function", None) for other in made):
                continue
            tool = prefixed(tool, tool.server, taken)  # noqa: PLW2901 - by another name
            taken.add(tool.name)
        made.append(tool)
    return tuple(made)


def prefixed(tool: ServedTool, prefix: str, taken: Container[str] = ()) -> ServedTool:
    """Return a tool with a name that begins with `prefix` and is not taken."""
    base = f"{prefix}_{tool.name}"
    base = base if is_tool_name(base[:64]) else f"_{base}"
    names = (base[:64], *(f"{base[:60]}_{number}" for number in range(2, 1000)))
    name = next(each for each in names if each not in taken)
    return msgspec.structs.replace(tool, name=name)
