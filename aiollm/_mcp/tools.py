"""A server's tools as tools of agents: valid names, mended schemas, and what calls them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Awaitable, Callable, Container, Sequence
from fnmatch import fnmatchcase
from typing import Any

import msgspec

from aiollm._agent.served_tools import ServedTool
from aiollm._mcp.schemas import mended
from aiollm._validation import is_tool_name
from aiollm._wire.printable import printable
from aiollm.errors import ConfigError
from aiollm.types import ToolResultPart, _shown

MAX_DESCRIPTION = 8 * 1024
"""Characters of a description that a model gets."""

_LARGE = 16 * 1024
"""Bytes from which a schema is mended in a thread: others have a turn every few milliseconds. So is
one with references, of which each may double what is made of it."""

_log = logging.getLogger("aiollm")


class Listed(msgspec.Struct, frozen=True):
    """A tool as its server lists it."""

    name: str
    description: str
    schema: Any


class Remote:
    """What calls a tool of a server."""

    def __init__(
        self, name: str, call: Callable[[str, dict[str, Any]], Awaitable[ToolResultPart]]
    ) -> None:
        self._name = name
        self._call = call

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, Callable[..., Any]]:
        return self._name, self._call

    async def __call__(self, /, **arguments: Any) -> ToolResultPart:
        """Call the tool. Raises: LLMError where its server fails."""
        return await self._call(self._name, arguments)


class Book(msgspec.Struct, frozen=True):
    """The tools of a server that can be used, and why others cannot."""

    tools: dict[str, ServedTool] = {}
    """By the names that the server has for them."""
    refused: dict[str, str] = {}


async def book_of(
    server: str,
    listed: Sequence[Listed],
    call: Callable[[str, dict[str, Any]], Awaitable[ToolResultPart]],
    seconds: float | None,
) -> Book:
    """Return the tools of a server's list; what is wrong with others goes into the log, too."""
    tools: dict[str, ServedTool] = {}
    refused: dict[str, str] = {}
    taken: set[str] = set()
    for each in listed:
        await asyncio.sleep(0)
        if each.name in tools or each.name in refused:
            _log.warning("MCP server %r lists a tool twice: %s", server, _shown(each.name))
            continue
        try:
            schema = await _mended(each.schema)
        except ConfigError as error:
            refused[each.name] = error.message
            reason = (server, _shown(each.name), error.message)
            _log.warning("MCP server %r: tool %s is left out: %s", *reason)
            continue
        name = valid_name(each.name, taken)
        taken.add(name)
        description = printable(each.description[:MAX_DESCRIPTION])
        remote = Remote(each.name, call)
        made = (name, description, schema)
        tools[each.name] = ServedTool(*made, function=remote, timeout=seconds, server=server)
    return Book(tools, refused)


async def _mended(schema: Any) -> Any:
    """Return a schema that providers take. Raises: ConfigError."""
    try:
        data = msgspec.json.encode(schema)
    except (ValueError, TypeError, RecursionError):
        data = b""
    takes_long = len(data) > _LARGE or b'"$ref"' in data
    return await asyncio.to_thread(mended, schema) if takes_long else mended(schema)


def valid_name(name: str, taken: Container[str] = ()) -> str:
    """Return a name that every provider accepts and that is not taken."""
    made = name if is_tool_name(name) else re.sub(r"[^A-Za-z0-9_-]", "_", name)
    if not re.match(r"[A-Za-z_]", made):
        made = f"_{made}"
    if len(made) <= 64 and made not in taken:
        return made
    # The same name each time, whatever else is listed: a prompt cache holds it.
    ending = hashlib.sha256(name.encode("utf-8", "replace")).hexdigest()[:8]
    hashed = f"{made[:55]}_{ending}"
    return hashed if hashed not in taken else valid_name(f"{name}_", taken)


def chosen(server: str, book: Book, patterns: Sequence[str]) -> list[ServedTool]:
    """Return the tools that patterns choose; one that begins with `!` leaves some out.

    Raises: ConfigError for a pattern that is none of a known tool's.
    """
    for pattern in patterns:
        _check(server, book, pattern)
    wanted = [each for each in patterns if not each.startswith("!")] or ["*"]
    unwanted = [each[1:] for each in patterns if each.startswith("!")]
    return [
        tool
        for name, tool in book.tools.items()
        if any(fnmatchcase(name, each) for each in wanted)
        and not any(fnmatchcase(name, each) for each in unwanted)
    ]


def _check(server: str, book: Book, pattern: object) -> None:
    if not isinstance(pattern, str):
        raise ConfigError(f"a pattern of tools is a str, not of type {type(pattern).__name__}")
    plain = pattern.removeprefix("!")
    if plain in book.refused:
        why = book.refused[plain]
        raise ConfigError(f"tool {plain!r} of MCP server {server!r} cannot be used: {why}")
    if pattern.startswith("!") or any(fnmatchcase(name, plain) for name in book.tools):
        return
    known = ", ".join(book.tools) or "none"
    raise ConfigError(f"MCP server {server!r} has no tool {plain!r:.80}; it has: {known:.1000}")
