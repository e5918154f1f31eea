"""Anthropic's models: which reasoning, sampling, forced tools and prefill each one accepts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.providers.encoding import Warnings
from aiollm.types import Effort

LEAST_BUDGET = 1024
"""The lowest `budget_tokens` that Anthropic accepts."""

ANSWER = 4096
"""Tokens left for the answer when a thinking budget determines the output limit."""

_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_BUDGETS = (2048, 8192, 16_384, 24_576, 32_768)
"""Token budgets equivalent to efforts, for a model that accepts only one of the two."""


class Model(msgspec.Struct, frozen=True):
    """Facts about the models whose names match."""

    names: tuple[str, ...] = ("*",)
    adaptive: bool = True
    """Whether it accepts adaptive thinking with an effort."""
    budget: bool = False
    """Whether it accepts a thinking budget in tokens."""
    least_budget: int = LEAST_BUDGET
    off: str = "disabled"
    """The thinking type that turns thinking off, "" if it cannot be turned off."""
    thinks: bool = True
    """Whether it thinks by default."""
    efforts: tuple[str, ...] = _EFFORTS
    sampling: bool = False
    """Whether it accepts temperature, top_p and top_k."""
    forced_tools: bool = True
    prefill: bool = False
    """Whether it continues an assistant message that ends the conversation."""
    system_turns: bool = True
    """Whether it accepts a system message after a user's turn."""
    unsigned: bool = False
    """Whether it accepts thoughts back that have no signature."""
    limited: bool = True
    """Whether its service enforces only so much of schemas."""
    max_tokens: int = 64_000
    """The output limit to send if the caller does not set one."""


_5 = Model()
_4_8 = Model(thinks=False)
_4_7 = msgspec.structs.replace(_4_8, system_turns=False)
_4_6 = msgspec.structs.replace(
    _4_7, budget=True, efforts=("low", "medium", "high", "max"), sampling=True
)
_4_5 = msgspec.structs.replace(_4_6, adaptive=False, efforts=(), prefill=True, max_tokens=32_000)


_OTHERS = Model(
    adaptive=False,
    budget=True,
    least_budget=1,
    efforts=(),
    sampling=True,
    prefill=True,
    system_turns=False,
    limited=False,
    max_tokens=8192,
)


def _named(facts: Model, *names: str, **others: Any) -> Model:
    return msgspec.structs.replace(facts, names=names, **others)


MODELS: tuple[Model, ...] = (
    # Since Opus 5.5 thinking cannot be switched off, and a forced tool call is refused.
    _named(
        _5,
        "*opus-5-5*",
        "*fable-5-1*",
        "*fable-5-2*",
        "*mythos-5-1*",
        "*mythos-5-2*",
        off="",
        forced_tools=False,
    ),
    _named(_5, "*sonnet-5-5*", off="between_tools", forced_tools=False),
    # Alone of its generation, Sonnet 5 refuses the role system among the messages.
    _named(_5, "*sonnet-5", "*sonnet-5-2*", "*sonnet-5-v*", system_turns=False),
    _named(_5, "*opus-5*", "*sonnet-5*", "*haiku-5*", "*fable-5*", "*mythos-5*"),
    _named(_4_8, "*opus-4-8*"),
    _named(_4_7, "*opus-4-7*", "*mythos-preview*"),
    _named(_4_6, "*opus-4-6*", "*sonnet-4-6*"),
    _named(_4_5, "*-4-5*", "*opus-4*", "*sonnet-4*", "*claude-3-7*"),
    _named(_4_5, "*claude-3*", "*claude-2*", budget=False, off="", max_tokens=4096),
    # A newer model is asked to continue an assistant's message; it may accept that again.
    _named(_5, "*claude*", prefill=True),
    # Open models, whose services and servers sign no thoughts or check no signature (2026). M3 has
    # a switch alone, off unless told otherwise. Some always think, and refuse to be told not to.
    _named(
        _OTHERS,
        "*minimax-m3*",
        adaptive=True,
        budget=False,
        thinks=False,
        unsigned=True,
    ),
    _named(
        _OTHERS,
        "*glm-5-3*",
        "*kimi-k2-7*",
        "*kimi-k3*",
        "*minimax-m2*",
        off="",
        unsigned=True,
    ),
    _named(
        _OTHERS,
        "*deepseek*",
        "*glm*",
        "*gpt-oss*",
        "*kimi*",
        "*mimo*",
        "*minimax*",
        "*qwen*",
        unsigned=True,
    ),
    _OTHERS,
)
"""The first match applies; the last row is for other models behind this wire.

From Anthropic's documentation and what its servers accepted, as of November 2026. Since 4.6, models
refuse to continue an assistant's message. Since 4.7, they think adaptively and refuse sampling
parameters. Since 4.8, they accept system messages in a conversation."""


@lru_cache(maxsize=256)
def model_facts(model: str) -> Model:
    """Return the facts about a model; dots in its version count as dashes."""
    name = model.lower().replace(".", "-")
    return next(row for row in MODELS if any(matches(name, glob) for glob in row.names))


class Thinking(msgspec.Struct, frozen=True):
    """Fields for the body: the `thinking` object, the effort, the output limit."""

    config: dict[str, Any] | None = None
    effort: str = ""
    max_tokens: int = 0

    @property
    def active(self) -> bool:
        """Whether thinking is on, which excludes sampling parameters."""
        return self.config is not None and self.config["type"] in ("adaptive", "enabled")


def thinking(
    facts: Model, wish: Effort | int | None, limit: int | None, warnings: Warnings
) -> Thinking:
    """Translate a reasoning effort or budget, given the caller's output limit."""
    most = limit if limit is not None else facts.max_tokens
    match wish:
        case None:
            return Thinking(max_tokens=most)
        case "none" | 0:
            return _off(facts, most, warnings)
        case _ if not (facts.adaptive or facts.budget):
            warnings.add("this model does not reason: reasoning is dropped")
            return Thinking(max_tokens=most)
        case _ if facts.adaptive and not facts.efforts:
            warnings.add("this model's reasoning can only be switched on and off")
            return _adaptive("", most)
        case str() if facts.adaptive:
            return _adaptive(_effort(wish, facts.efforts, warnings), most)
        case str():
            return _budgeted(facts, _BUDGETS[_rank(wish)], limit, warnings)
        case _ if facts.budget:
            return _budgeted(facts, wish, limit, warnings)
        case _:
            return _adaptive(_effort_of(wish, facts.efforts, warnings), most)


def _off(facts: Model, most: int, warnings: Warnings) -> Thinking:
    if facts.off:
        return Thinking({"type": facts.off}, max_tokens=most)
    if not (facts.adaptive or facts.budget):
        return Thinking(max_tokens=most)
    if not facts.adaptive:
        warnings.add("this model always reasons: reasoning 'none' is dropped")
        return Thinking(max_tokens=most)
    warnings.add("this model always reasons: reasoning 'none' becomes the lowest effort")
    return _adaptive(facts.efforts[0], most)


def _adaptive(effort: str, most: int) -> Thinking:
    # The newest models omit the text of their thoughts unless a summary is requested.
    return Thinking({"type": "adaptive", "display": "summarized"}, effort, most)


def _rank(effort: str) -> int:
    return _EFFORTS.index(effort) if effort in _EFFORTS else 0


def _effort(wish: str, known: Sequence[str], warnings: Warnings) -> str:
    """Return the requested effort if it is known, else the closest below it, else the lowest."""
    if wish in known:
        return wish
    lower = [effort for effort in known if _rank(effort) <= _rank(wish)]
    found = lower[-1] if lower else known[0]
    warnings.add(f"this model has no reasoning effort {wish!r}: {found!r} is sent")
    return found


def _effort_of(budget: int, known: Sequence[str], warnings: Warnings) -> str:
    ranks = [rank for rank, tokens in enumerate(_BUDGETS) if budget <= tokens]
    effort = _EFFORTS[ranks[0] if ranks else -1]
    warnings.add(f"this model has no reasoning budget: effort {effort!r} is sent instead")
    return _effort(effort, known, warnings)


def _budgeted(facts: Model, wish: int, limit: int | None, warnings: Warnings) -> Thinking:
    """Fit a budget between Anthropic's minimum and the output limit, which includes it."""
    budget = max(wish, facts.least_budget)
    if budget > wish:
        warnings.add(f"this model's lowest reasoning budget, {budget}, is sent")
    if limit is None:
        config = {"type": "enabled", "budget_tokens": budget}
        return Thinking(config, max_tokens=max(facts.max_tokens, budget + ANSWER))
    if limit <= facts.least_budget:
        warnings.add(f"an output limit of {limit} leaves no room for reasoning: it is dropped")
        return Thinking(max_tokens=limit)
    room = max(facts.least_budget, limit - ANSWER, limit // 2)
    if budget > room:
        warnings.add(f"the output limit of {limit} leaves a reasoning budget of {room}")
    config = {"type": "enabled", "budget_tokens": min(budget, room)}
    return Thinking(config, max_tokens=limit)
