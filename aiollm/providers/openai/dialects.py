"""Dialects of chat completions: what the hosts that speak it call things, and take back.

Facts of November 2026: the vendors' pages, and reports of requests they refused. A host without
a row is taken for one of the many servers that ignore what they do not know.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Literal, TypeAlias

import msgspec

from aiollm.providers.encoding import Warnings
from aiollm.providers.openai.chat_replay import (
    Replay,
    as_content,
    as_details,
    as_reasoning_content,
    in_its_field,
)
from aiollm.types import Effort, Request

Thinking: TypeAlias = Literal["reasoning_effort", "openrouter", "deepseek"]

EFFORTS: tuple[Effort, ...] = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Dialect(msgspec.Struct, frozen=True):
    """How one kind of host reads a request; the defaults suit most servers.

    `max_tokens`, `seed` and `budget` (of reasoning, in tokens) name fields, `system` a role.
    `usage_option` says that usage must be asked for, `padding` whether to ask for OpenAI's
    padding of chunks. `replay` is how the host takes reasoning back, None if it does not.
    `short_call_ids` are Mistral's nine letters and digits.
    """

    name: str
    hosts: tuple[str, ...] = ("*",)
    max_tokens: str = "max_tokens"
    seed: str = "seed"
    system: str = "system"
    usage_option: bool = True
    padding: bool | None = None
    thinking: Thinking = "reasoning_effort"
    efforts: tuple[Effort, ...] = EFFORTS
    budget: str = ""
    replay: Replay | None = None
    json_schema: bool = True
    refusals: bool = False
    file_urls: bool = False
    short_call_ids: bool = False


OPENAI = Dialect(
    "OpenAI",
    hosts=("api.openai.com", "*.api.openai.com"),
    max_tokens="max_completion_tokens",
    system="developer",
    padding=False,
    refusals=True,
)
AZURE = Dialect(
    "Azure",
    hosts=("*.openai.azure.com", "*.cognitiveservices.azure.com", "*.services.ai.azure.com"),
    max_tokens="max_completion_tokens",
    system="developer",
    refusals=True,
)
OPENROUTER = Dialect(
    "OpenRouter",
    hosts=("openrouter.ai", "*.openrouter.ai"),
    thinking="openrouter",
    efforts=("none", "minimal", "low", "medium", "high", "xhigh"),
    budget="max_tokens",
    replay=as_details,
    file_urls=True,
)
DEEPSEEK = Dialect(
    "DeepSeek",
    hosts=("api.deepseek.com",),
    thinking="deepseek",
    efforts=("none", "low", "high", "max"),
    replay=as_reasoning_content,
    json_schema=False,
)
GROQ = Dialect(
    "Groq",
    hosts=("api.groq.com",),
    max_tokens="max_completion_tokens",
    efforts=("none", "low", "medium", "high"),
)
MISTRAL = Dialect(
    "Mistral",
    hosts=("api.mistral.ai",),
    seed="random_seed",
    usage_option=False,
    efforts=("none", "low", "medium", "high"),
    replay=as_content,
    short_call_ids=True,
)
STRICT = Dialect(
    "this host",
    hosts=("api.x.ai", "*.x.ai", "api.cerebras.ai", "generativelanguage.googleapis.com"),
)
COMPATIBLE = Dialect("this server", budget="thinking_budget_tokens", replay=in_its_field)

DIALECTS = (OPENAI, AZURE, OPENROUTER, DEEPSEEK, GROQ, MISTRAL, STRICT, COMPATIBLE)
"""The first whose hosts match wins."""


class Model(msgspec.Struct, frozen=True):
    """What OpenAI's own models refuse, in chat and Responses alike; the first match wins.

    `plain_tools`: in chat they call tools only with reasoning switched off in so many words.
    """

    names: tuple[str, ...]
    sampling: bool = True
    efforts: tuple[Effort, ...] = EFFORTS
    plain_tools: bool = False


_WITHOUT_MINIMAL: tuple[Effort, ...] = ("none", "low", "medium", "high", "xhigh", "max")

MODELS = (
    Model(("gpt-5*chat*", "gpt-6*chat*")),
    Model(("gpt-5.6*", "gpt-6*"), sampling=False, efforts=_WITHOUT_MINIMAL, plain_tools=True),
    Model(("gpt-5*", "o1*", "o3*", "o4*"), sampling=False),
    Model(("*",)),
)

_BUDGETS: tuple[tuple[int, Effort], ...] = ((0, "none"), (4096, "low"), (16384, "medium"))
"""Effort words for budgets up to so many tokens, where a host knows only words."""


@lru_cache(maxsize=256)
def dialect_of(host: str) -> Dialect:
    """Return the dialect of a `host[:port]`."""
    name = host.rpartition(":")[0] or host
    return next(row for row in DIALECTS if any(fnmatchcase(name, own) for own in row.hosts))


@lru_cache(maxsize=256)
def model_of(name: str, dialect: Dialect) -> Model:
    """Return what is known of a model, which is something only at OpenAI and Azure."""
    if dialect not in (OPENAI, AZURE):
        return MODELS[-1]
    return next(row for row in MODELS if any(fnmatchcase(name, own) for own in row.names))


def thinking(
    request: Request, dialect: Dialect, model: Model, warnings: Warnings
) -> dict[str, Any]:
    """Return the fields that set the reasoning's effort or budget."""
    asked = request.reasoning
    if asked is None:
        return _silent(warnings) if model.plain_tools and request.tools else {}
    if isinstance(asked, int) and asked > 0 and dialect.budget:
        if dialect.thinking == "openrouter":
            return {"reasoning": {dialect.budget: asked}}
        warnings.add("llama.cpp keeps to a reasoning budget; another server may ignore it")
        return {dialect.budget: asked}
    efforts = tuple(word for word in dialect.efforts if word in model.efforts)
    effort = effort_for(asked, efforts, dialect.name, warnings)
    match dialect.thinking:
        case "openrouter":
            return {"reasoning": {"effort": effort}}
        case "deepseek" if effort == "none":
            return {"thinking": {"type": "disabled"}}
        case "deepseek":
            return {"thinking": {"type": "enabled"}, "reasoning_effort": effort}
        case _:
            return {"reasoning_effort": effort}


def _silent(warnings: Warnings) -> dict[str, Any]:
    warnings.add(
        "this model calls tools in chat completions only without reasoning, which is off: "
        "api=responses has both"
    )
    return {"reasoning_effort": "none"}


def effort_for(
    asked: Effort | int, efforts: tuple[Effort, ...], name: str, warnings: Warnings
) -> Effort:
    """Return the word for an effort or a budget among those a host knows."""
    if isinstance(asked, int):
        wanted: Effort = next((word for limit, word in _BUDGETS if asked <= limit), "high")
        if asked > 0:
            warnings.add(f"{name} takes no reasoning budget: effort {wanted!r} is sent for it")
    else:
        wanted = asked
    rank = EFFORTS.index(wanted)
    near = min(efforts, key=lambda word: _distance(EFFORTS.index(word), rank))
    if near != wanted:
        warnings.add(f"{name} has no reasoning effort {wanted!r}: {near!r} is sent")
    return near


def _distance(rank: int, wanted: int) -> tuple[int, int]:
    """Order efforts by nearness, the higher first among equals."""
    return (abs(rank - wanted), -rank)
