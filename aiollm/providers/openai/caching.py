"""Prompt caching in OpenAI's wires: keys, lifetimes and marks, as far as a host has them.

Groq, Cerebras and others refuse fields that they do not know (reports of 2025 and 2026): a host
whose dialect names none is sent none.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from aiollm._settings.wildcards import matches
from aiollm._wire.body import JsonItems
from aiollm.providers.cache_points import CacheMarks, has_points, nearest
from aiollm.providers.encoder import ReachesBack
from aiollm.providers.encoding import Warnings
from aiollm.providers.openai.dialects import Dialect
from aiollm.types import Request

Block: TypeAlias = dict[str, Any]

CHAT_LIFETIMES = ("30m",)
RESPONSES_LIFETIMES = ("30m", "12h")
"""Chat refuses 12h (OpenAI, November 2026)."""

_WITH_OPTIONS = ("gpt-5.[6-9]*", "gpt-[6-9]*", "gpt-[1-9][0-9]*")
"""The models that take options and marks, from gpt-5.6 on (OpenAI, November 2026)."""

_WRITES = 3
"""The marks that OpenAI writes beside its own; it finds older ones that stay in their places."""

_ROLES = {"user", "tool", "system", "developer"}
_RESULTS = {"function_call_output", "custom_tool_call_output"}
"""Messages and items of Responses that hold parts with marks."""

_CLAUDE = "*anthropic/*"
_CLAUDE_LIFETIMES = ("5m", "1h")
_CLAUDE_MARKS = 4
"""OpenRouter's models that cache only what is marked, and their limits."""


def add_fields(body: Block, headers: dict[str, str], request: Request, dialect: Dialect) -> None:
    """Add the key of a request's cache, and how long that is kept."""
    model = body["model"]
    is_chat = "messages" in body
    name = dialect.cache_key if is_chat else dialect.responses_key
    if request.cache_key and any(matches(model, known) for known in dialect.key_models):
        if "-" not in name:
            body[name] = request.cache_key
        elif name not in {each.lower() for each in headers}:  # the provider's own wins
            headers[name] = request.cache_key
    wish = request.prompt_cache
    if wish is None or wish == "auto" or not _takes_options(dialect, model):
        return
    lifetime = nearest(wish, CHAT_LIFETIMES if is_chat else RESPONSES_LIFETIMES)
    # Without marks, `explicit` means that nothing is cached.
    body["prompt_cache_options"] = {"ttl": lifetime} if lifetime else {"mode": "explicit"}


def marks_of(request: Request, dialect: Dialect, model: str) -> CacheMarks | None:
    """Return the marks for a request's cache points, None where there are none to be sent."""
    wish = request.prompt_cache
    if wish == "off" or not dialect.cache:
        return None
    if dialect.cache == "openai":
        if not _takes_options(dialect, model) or not has_points(request):
            return None
        mark = {"prompt_cache_breakpoint": {"mode": "explicit"}}
        return CacheMarks(mark, _WRITES, keeps=True)
    if not _marks_itself(request, model) and not has_points(request):
        return None
    lifetime = nearest(wish, _CLAUDE_LIFETIMES) if matches(model, _CLAUDE) else ""
    control = {"type": "ephemeral"} | ({"ttl": lifetime} if lifetime else {})
    return CacheMarks({"cache_control": control}, _CLAUDE_MARKS)


def finish(
    marks: CacheMarks, body: Block, request: Request, dialect: Dialect, warnings: Warnings
) -> None:
    """Add the marks of tools and the automatic one, and warn of too many; OpenAI has neither."""
    if dialect.cache == "anthropic":
        tools = body.get("tools", ())
        pairs = zip(request.tools, tools, strict=True)
        marks.begin(wire for tool, wire in pairs if tool.cache_point)
        if _marks_itself(request, body["model"]):
            mark_before(marks, body["messages"], "text")
    if note := marks.settle():
        warnings.add(note)


def mark_before(marks: CacheMarks, out: list[Any], kind: str, *, is_first: bool = True) -> None:
    """Mark the last text or file that somebody else than the assistant gave.

    `kind` is the type of a text part. Responses has no marks for what the assistant said.
    Raises: ReachesBack where that was encoded before, in an item of `out` or before the first.
    """
    for item in reversed(out):
        if type(item) is JsonItems:
            raise ReachesBack
        field = "output" if item.get("type") in _RESULTS else "content"
        content = item.get(field)
        if not content or (field == "content" and item.get("role") not in _ROLES):
            continue
        blocks = [{"type": kind, "text": content}] if isinstance(content, str) else content
        marks.end(blocks)
        item[field] = blocks
        return
    if not is_first:
        raise ReachesBack


def _takes_options(dialect: Dialect, model: str) -> bool:
    return dialect.cache == "openai" and any(matches(model, own) for own in _WITH_OPTIONS)


def _marks_itself(request: Request, model: str) -> bool:
    """Return whether the end of a prompt is marked without a cache point, as OpenRouter needs."""
    return request.prompt_cache not in {None, "off"} and matches(model, _CLAUDE)
