"""Reasoning efforts and budgets to what each family of models takes."""

from __future__ import annotations

from typing import Any

import pytest

from aiollm.providers.encoding import Warnings
from aiollm.providers.google.models import generation, thinking_config


@pytest.mark.parametrize(("model", "number"), [
    ("gemini-2.5-flash", 2), ("gemini-1.5-pro", 1), ("gemini-3-pro-preview", 3),
    ("models/gemini-4-argon", 4), ("gemini-nano-banana-2.1", 3), ("gemini-flash-latest", 3),
])  # fmt: skip
def test_a_name_tells_its_generation_or_passes_for_the_newest(model: str, number: int) -> None:
    assert generation(model) == number


def level(word: str) -> dict[str, Any]:
    return {"thinkingLevel": word, "includeThoughts": True}


def budget(tokens: int) -> dict[str, Any]:
    return {"thinkingBudget": tokens, "includeThoughts": True}


@pytest.mark.parametrize(("model", "wish", "setting"), [
    ("gemini-3.8-flash", "low", level("LOW")),
    ("gemini-3.8-flash", "high", level("HIGH")),
    ("gemini-3.8-flash", "max", level("HIGH")),
    ("gemini-3.6-flash", "minimal", level("MINIMAL")),
    ("gemini-3.5-flash-lite", "minimal", level("MINIMAL")),
    ("gemini-3.1-pro-preview", "medium", level("MEDIUM")),
    ("gemini-3-pro-preview", "high", level("HIGH")),
    ("models/gemini-3-pro-preview", "low", level("LOW")),
    ("gemini-2.5-flash", "none", {"thinkingBudget": 0}),
    ("gemini-2.5-flash", 0, {"thinkingBudget": 0}),
    ("gemini-2.5-flash", 5000, budget(5000)),
    ("gemini-2.5-flash", "minimal", budget(512)),
    ("gemini-2.5-flash-lite", "low", budget(1024)),
    ("gemini-2.5-pro", "medium", budget(8192)),
    ("gemini-2.5-pro", "high", budget(24_576)),
    ("gemini-2.5-pro", "max", budget(32_768)),
    ("gemini-2.5-flash-image", "none", None),
    ("gemini-2.0-flash", 0, None),
])  # fmt: skip
def test_what_a_model_takes_is_sent_without_a_word(model: str, wish: Any, setting: object) -> None:
    warnings = Warnings()
    assert thinking_config(model, wish, warnings) == setting
    assert list(warnings) == []


@pytest.mark.parametrize(("model", "wish", "setting"), [
    ("gemini-3-pro-preview", "medium", level("HIGH")),
    ("gemini-3-pro-preview", "minimal", level("LOW")),
    ("gemini-3.8-flash", "minimal", level("LOW")),
    ("gemini-3.8-flash", "xhigh", level("HIGH")),
    ("gemini-3.1-flash-image", "medium", level("HIGH")),
    ("gemini-3.8-flash", "none", {"thinkingLevel": "LOW"}),
    ("gemini-3.6-flash", 0, {"thinkingLevel": "MINIMAL"}),
    ("gemini-3.6-flash", 1, level("MINIMAL")),
    ("gemini-3.6-flash", 1024, level("LOW")),
    ("gemini-3.6-flash", 2000, level("MEDIUM")),
    ("gemini-3.6-flash", 10_000, level("HIGH")),
    ("gemini-3.6-flash", 10**6, level("HIGH")),
    ("gemini-2.5-pro", "none", {"thinkingBudget": 128}),
    ("gemini-2.5-pro", 10**6, budget(32_768)),
    ("gemini-2.5-flash-lite", 100, budget(512)),
])  # fmt: skip
def test_the_nearest_setting_is_sent_with_a_warning(model: str, wish: Any, setting: object) -> None:
    warnings = Warnings()
    assert thinking_config(model, wish, warnings) == setting
    assert len(list(warnings)) == 1


@pytest.mark.parametrize("model", ["gemini-2.0-flash", "gemini-3-pro-image", "gemma-3-27b-it"])
def test_a_model_without_reasoning_gets_no_setting(model: str) -> None:
    warnings = Warnings()
    assert thinking_config(model, "high", warnings) is None
    assert len(list(warnings)) == 1
