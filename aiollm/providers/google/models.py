"""Gemini's models: the generation of a name, and the reasoning settings each family accepts."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from aiollm._settings.wildcards import matches
from aiollm.providers.encoding import Warnings
from aiollm.types import Effort

_LEVELS = ("MINIMAL", "LOW", "MEDIUM", "HIGH", "XHIGH")
_BUDGETS = (512, 1024, 8192, 24_576, 32_768)
"""Token budgets equivalent to levels, for a model that accepts only one of the two. Low, medium and
high are Google's own mapping of OpenAI's efforts."""

_EFFORTS: dict[Effort, int] = {"minimal": 0, "low": 1, "medium": 2, "high": 3, "xhigh": 4, "max": 4}

_GENERATION = re.compile(r"gemini-(\d+)")
_NEWEST = 3


class _Thinking(msgspec.Struct, frozen=True):
    """How the models that match take reasoning: by levels, by a budget in tokens, or not."""

    model: str
    levels: tuple[str, ...] = ()
    budget: tuple[int, int] | None = None
    """The least and the most tokens."""
    stops: bool = False
    """Whether a budget of 0 turns reasoning off."""


_ALL_FOUR = ("MINIMAL", "LOW", "MEDIUM", "HIGH")
_THREE = ("LOW", "MEDIUM", "HIGH")

_ROWS = (
    _Thinking("gemini-3.1-flash-image*", ("MINIMAL", "HIGH")),
    _Thinking("*-image*"),
    _Thinking("gemini-1*"),
    _Thinking("gemini-2.0*"),
    _Thinking("gemma*"),
    _Thinking("gemini-2.5-pro*", budget=(128, 32_768)),
    _Thinking("gemini-2.5-flash-lite*", budget=(512, 24_576), stops=True),
    _Thinking("gemini-2*", budget=(1, 24_576), stops=True),
    _Thinking("gemini-3-pro*", ("LOW", "HIGH")),
    _Thinking("gemini-3-flash*", _ALL_FOUR),
    _Thinking("gemini-3.1-flash*", _ALL_FOUR),
    _Thinking("gemini-3.5-flash*", _ALL_FOUR),
    _Thinking("gemini-3.6-flash*", _ALL_FOUR),
    _Thinking("*", _THREE),
)
"""The first match applies; the last row is for newer models (November 2026)."""


def resource(model: str) -> str:
    """Return the resource name: add `models/` unless the name is complete."""
    return model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"


def generation(model: str) -> int:
    """Return the Gemini generation of a model, the newest for a name without one."""
    found = _GENERATION.match(model.removeprefix("models/"))
    return int(found[1]) if found else _NEWEST


def thinking_config(model: str, wish: Effort | int, warnings: Warnings) -> dict[str, Any] | None:
    """Translate a reasoning effort or budget to what `model` accepts, None to send nothing."""
    model = model.removeprefix("models/")
    row = next(row for row in _ROWS if matches(model, row.model))
    off = wish in ("none", 0)
    if row.budget is None and not row.levels:
        if not off:
            warnings.add(f"{model} has no reasoning setting: reasoning is dropped")
        return None
    setting: dict[str, Any] = {}
    if row.budget is not None:
        setting["thinkingBudget"] = _budget(row, row.budget, wish)
    else:
        setting["thinkingLevel"] = _level(row, wish)
    if not off:
        setting["includeThoughts"] = True
    if not _exact(wish, setting):
        value = setting.get("thinkingLevel", setting.get("thinkingBudget"))
        warnings.add(f"{model} does not take reasoning {wish!r}: {value!r} is sent")
    return setting


def _exact(wish: Effort | int, setting: dict[str, object]) -> bool:
    match wish:
        case "none":
            return setting.get("thinkingBudget") == 0
        case "max":
            return True
        case str():
            return setting.get("thinkingLevel", wish.upper()) == wish.upper()
        case _:
            return setting.get("thinkingBudget") == wish


def _budget(row: _Thinking, bounds: tuple[int, int], wish: Effort | int) -> int:
    least, most = bounds
    match wish:
        case "none" | 0:
            return 0 if row.stops else least
        case "xhigh" | "max":
            return most
        case str():
            return min(most, max(least, _BUDGETS[_EFFORTS[wish]]))
        case _:
            return min(most, max(least, wish))


def _level(row: _Thinking, wish: Effort | int) -> str:
    """Return the row's nearest level, the higher one of two at the same distance."""
    match wish:
        case "none" | 0:
            return row.levels[0]
        case str():
            rank = _EFFORTS[wish]
        case _:
            rank = next((at for at, most in enumerate(_BUDGETS) if wish <= most), 4)

    def distance(level: str) -> tuple[int, int]:
        at = _LEVELS.index(level)
        return abs(at - rank), -at

    return min(row.levels, key=distance)
