"""Tools of `ask` and `chat`: of MCP servers, and functions of the user's own modules."""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from aiollm._agent.loop import RunEvent
from aiollm._agent.tool_calls import ToolEnded, ToolStarted
from aiollm._agent.tools import as_tool
from aiollm.cli.safe_text import one_line
from aiollm.errors import ConfigError
from aiollm.registry import Registry
from aiollm.types import AnyTool

_SHOWN = 200
"""Characters of arguments and results that are shown."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "--mcp",
        action="append",
        default=[],
        metavar="SERVER",
        help="tools of an MCP server, such as 'stdio:uvx mcp-server-git': a command, a URL, or "
        "NAME of AIOLLM_MCP_<NAME>; may be repeated",
    )
    add(
        "--tools",
        action="append",
        default=[],
        metavar="MODULE:FUNCTION",
        help="a function that the model may call, such as my_tools:weather; may be repeated",
    )


async def open_tools(options: argparse.Namespace, registry: Registry) -> list[AnyTool]:
    """Return all tools of the options; the registry closes their servers.

    Raises: ConfigError, ConnectError, DeadlineError.
    """
    tools = [_imported(name) for name in options.tools]
    for address in options.mcp:
        tools += await registry.mcp(address).tools()
    return tools


def described(event: RunEvent) -> str:
    """Return what is shown of a call as it runs, "" for other events."""
    match event:
        case ToolStarted(call=call):
            return f"-> {one_line(call.name)} {_short(call.arguments)}"
        case ToolEnded(result=result, seconds=seconds):
            others = len(result.content) - sum(hasattr(part, "text") for part in result.content)
            files = f" [{others} files]" if others else ""
            failed = " failed:" if result.is_error else ""
            name = one_line(result.name)
            return f"<- {name} ({seconds:.1f} s){failed} {_short(result.text)}{files}".rstrip()
        case _:
            return ""


def _short(text: str) -> str:
    shown = one_line(text[:_SHOWN])
    return shown if len(text) <= _SHOWN else f"{shown}..."


def _imported(name: str) -> AnyTool:
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise ConfigError(f"--tools {name}: expected MODULE:FUNCTION")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # where a user's own modules are, as with `python -m`
    reason = ""
    found: Any = None
    try:
        found = importlib.import_module(module)
        for each in path.split("."):
            found = getattr(found, each)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        reason = f"--tools {name}: {type(error).__name__}: {error}"
    if reason:
        raise ConfigError(reason)
    return as_tool(found)
