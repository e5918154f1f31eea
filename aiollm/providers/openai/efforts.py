"""Efforts: how a request for reasoning, or for none, is put into the words of a host.

Sources, as of November 2026: the vendors' documentation, and reports of requests they refused.
"""

from __future__ import annotations

from typing import Any

import msgspec

from aiollm.providers.encoding import Warnings
from aiollm.providers.openai.dialects import Dialect
from aiollm.providers.openai.models import EFFORTS, Model, Thinking
from aiollm.types import Effort, Request

_BUDGETS: tuple[tuple[int, Effort], ...] = ((0, "none"), (4096, "low"), (16384, "medium"))
"""Effort words for budgets up to this many tokens, for hosts that accept only words."""

_TOKENS: dict[Effort, int] = {"minimal": 1024, "low": 4096, "medium": 16384}
"""Budgets for effort words, for models that accept only tokens; any higher effort has no limit."""


def thinking(
    request: Request, dialect: Dialect, model: Model, warnings: Warnings
) -> dict[str, Any]:
    """Return the fields that set the effort or budget of reasoning."""
    asked = request.reasoning
    if asked is None and not request.tools:
        return {}
    way = model.thinking or dialect.thinking
    if request.tools:
        if must_not_reason(request, model, warnings):
            return _without(way)
        if (plain := _plainly(asked, model, warnings)) is not None:
            return plain
    if asked is None:
        return {}
    if model.chat_efforts:
        model = msgspec.structs.replace(model, efforts=model.chat_efforts)
    return _fields(asked, way, dialect, model, warnings)


def _fields(
    asked: Effort | int, way: Thinking, dialect: Dialect, model: Model, warnings: Warnings
) -> dict[str, Any]:
    """Return the fields for an effort or a budget, in a host's way."""
    if isinstance(asked, int) and asked > 0 and dialect.budget:
        if dialect.thinking == "openrouter":
            return {"reasoning": {dialect.budget: asked}}
        warnings.add("llama.cpp enforces a reasoning budget; other servers may ignore it")
        return {dialect.budget: asked}
    if way in ("switch", "toggle", "adaptive"):
        return _switched(way, asked, dialect, warnings)
    if way == "tokens" and model.efforts:
        return _in_tokens(asked, model, warnings)
    effort = effort_of(asked, dialect, model, warnings)
    if effort is None:
        return {}
    if effort == "none" and way in ("deepseek", "words"):
        return _without(way)
    plain = _WITH.get(way, {}) | {"reasoning_effort": effort}
    return {"reasoning": {"effort": effort}} if way == "openrouter" else plain


_WITH: dict[Thinking, dict[str, Any]] = {
    "deepseek": {"thinking": {"type": "enabled"}},
    "toggle": {"thinking": {"type": "enabled"}},
    "adaptive": {"thinking": {"type": "adaptive"}},
    "words": {"enable_thinking": True},
    "tokens": {"enable_thinking": True},
}
"""What switches reasoning on, where the effort alone does not."""

_WITHOUT: dict[Thinking, dict[str, Any]] = {
    "switch": {"reasoning_effort": "none"},
    "words": {"enable_thinking": False},
    "tokens": {"enable_thinking": False},
}


def _without(way: Thinking) -> dict[str, Any]:
    """Return what switches reasoning off."""
    return _WITHOUT.get(way, {"thinking": {"type": "disabled"}})


def _switched(
    way: Thinking, asked: Effort | int, dialect: Dialect, warnings: Warnings
) -> dict[str, Any]:
    if asked in ("none", 0):
        return _without(way)
    can = "off" if way == "switch" else "on and off"
    warnings.add(f"{dialect.name} can only switch this model's reasoning {can}")
    return _WITH.get(way, {})


def must_not_reason(request: Request, model: Model, warnings: Warnings) -> bool:
    """Return whether a model is made to call a tool, and would refuse that while it reasons."""
    if model.forced or request.reasoning in ("none", 0):
        return False
    choice = request.tool_choice
    if (choice if isinstance(choice, str | None) else choice[0]) in (None, "auto", "none"):
        return False
    warnings.add("this model cannot be made to call a tool while it reasons, which is now off")
    return True


def _in_tokens(asked: Effort | int, model: Model, warnings: Warnings) -> dict[str, Any]:
    """Return a switch and a budget; without a budget the model may reason as long as it can."""
    if asked in ("none", 0):
        if "none" in model.efforts:
            return _without("tokens")
        warnings.add("this model always reasons: reasoning 'none' is dropped")
        return {}
    budget = asked if isinstance(asked, int) else _TOKENS.get(asked)
    return _WITH["tokens"] | ({"thinking_budget": budget} if budget else {})


def _plainly(asked: Effort | int | None, model: Model, warnings: Warnings) -> dict[str, Any] | None:
    """Return what a model needs beside tools that it does not call while it reasons, if it does."""
    if not model.plain_tools:
        return None
    if model.plain_tools == "off":
        if asked not in ("none", 0):
            warnings.add(f"{_PLAIN}, which is now off: {_BOTH}")
        return {"reasoning_effort": "none"}
    if asked is None or (asked in ("none", 0) and not model.quiet):
        return None
    if asked not in ("none", 0):
        warnings.add(f"{_PLAIN} being set: {asked!r} is dropped; {_BOTH}")
    return {}


_PLAIN = "this model calls tools in chat completions only without reasoning"
_BOTH = "api=responses supports both"


def effort_of(
    asked: Effort | int, dialect: Dialect, model: Model, warnings: Warnings
) -> Effort | None:
    """Return the word for an effort or a budget among those accepted, None if there are none."""
    efforts = tuple(word for word in dialect.efforts if word in model.efforts)
    if not efforts:
        warnings.add(f"{dialect.name} does not let this model's reasoning be set: dropped")
        return None
    name = dialect.name
    if isinstance(asked, int):
        wanted: Effort = next((word for limit, word in _BUDGETS if asked <= limit), "high")
        if asked > 0:
            warnings.add(f"{name} has no reasoning budget: effort {wanted!r} is sent instead")
    else:
        wanted = asked
    rank = EFFORTS.index(wanted)
    near = min(efforts, key=lambda word: _distance(EFFORTS.index(word), rank))
    if near != wanted:
        warnings.add(f"{name} has no reasoning effort {wanted!r}: {near!r} is sent")
    return near


def _distance(rank: int, wanted: int) -> tuple[int, int]:
    """Order efforts by distance, the higher one first among equals."""
    return (abs(rank - wanted), -rank)
