"""Anthropic's models: what each generation is sent for reasoning, limits and sampling."""

from __future__ import annotations

import json
from typing import Any

import pytest

from aiollm.provider import HttpRequest, Provider
from aiollm.providers.anthropic.codec import AnthropicCodec
from aiollm.types import Request, Target

CODEC = AnthropicCodec()
PROVIDER = Provider("anthropic", "anthropic", "https://api.anthropic.com/v1", CODEC)
ADAPTIVE = {"type": "adaptive", "display": "summarized"}


def send(model: str, **fields: Any) -> tuple[dict[str, Any], HttpRequest]:
    http = CODEC.encode(PROVIDER, Target("anthropic", model), Request("hi", **fields))
    assert http.body is not None
    return json.loads(bytes(http.body)), http


def test_without_a_wish_nothing_is_said_of_thinking() -> None:
    for model in ("claude-opus-5-5", "claude-opus-4-6", "claude-haiku-4-5", "qwen3"):
        assert not {"thinking", "output_config"} & send(model)[0].keys()


@pytest.mark.parametrize(
    ("model", "effort", "thinking", "sent"),
    [
        ("claude-opus-5-5", "low", ADAPTIVE, "low"),
        ("claude-sonnet-5-5", "none", {"type": "between_tools"}, None),
        ("claude-haiku-5-5", "none", {"type": "disabled"}, None),
        ("claude-sonnet-5", "max", ADAPTIVE, "max"),
        ("claude-opus-4-8", "xhigh", ADAPTIVE, "xhigh"),
        ("claude-sonnet-4-6", "max", ADAPTIVE, "max"),
        ("claude-haiku-4-5", "low", {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-haiku-4-5-20251001", "max", {"type": "enabled", "budget_tokens": 32768}, None),
        ("claude-sonnet-4-5", "none", {"type": "disabled"}, None),
        ("claude-someday-7", "high", ADAPTIVE, "high"),
        ("anthropic/claude-opus-4.6", "high", ADAPTIVE, "high"),
        ("some-local-model", "medium", {"type": "enabled", "budget_tokens": 8192}, None),
    ],
)
def test_an_effort_becomes_what_the_model_takes(
    model: str, effort: Any, thinking: Any, sent: str | None
) -> None:
    made, http = send(model, reasoning=effort)
    assert made["thinking"] == thinking
    assert made.get("output_config", {}).get("effort") == sent
    assert http.warnings == ()


@pytest.mark.parametrize("wish", ["high", 5000])
def test_a_switch_is_switched(wish: Any) -> None:
    made, http = send("MiniMax-M3", reasoning=wish)
    assert made["thinking"]["type"] == "adaptive"
    assert "output_config" not in made
    assert "on and off" in http.warnings[0]
    assert send("MiniMax-M3", reasoning="none")[0]["thinking"] == {"type": "disabled"}


@pytest.mark.parametrize("model", ["glm-5.3-flash", "kimi-k3", "kimi-k2.7-code", "MiniMax-M2.7"])
def test_a_model_that_always_reasons_is_not_told_otherwise(model: str) -> None:
    """z.ai refuses to be told so (September 2026)."""
    made, http = send(model, reasoning="none")
    assert "thinking" not in made
    assert "always reasons" in http.warnings[0]


def test_a_model_that_never_reasons_needs_no_word_to_turn_it_off() -> None:
    made, http = send("claude-3-haiku-20240307", reasoning="none")
    assert "thinking" not in made
    assert http.warnings == ()


@pytest.mark.parametrize(
    ("model", "effort", "sent"),
    [
        ("claude-opus-5-5", "minimal", "low"),
        ("claude-opus-5-5", "none", "low"),
        ("claude-opus-4-6", "xhigh", "high"),
        ("claude-3-5-haiku-latest", "high", None),
    ],
)
def test_an_effort_that_the_model_lacks_becomes_the_closest_with_a_warning(
    model: str, effort: Any, sent: str | None
) -> None:
    made, http = send(model, reasoning=effort)
    assert made.get("output_config", {}).get("effort") == sent
    assert ("thinking" in made) == (sent is not None)
    assert len(http.warnings) == 1


@pytest.mark.parametrize(
    ("model", "budget", "thinking", "effort"),
    [
        ("claude-haiku-4-5", 10_000, {"type": "enabled", "budget_tokens": 10_000}, None),
        ("claude-haiku-4-5", 16, {"type": "enabled", "budget_tokens": 1024}, None),
        ("claude-haiku-4-5", 0, {"type": "disabled"}, None),
        ("claude-opus-4-6", 10_000, {"type": "enabled", "budget_tokens": 10_000}, None),
        ("claude-opus-4-7", 10_000, ADAPTIVE, "high"),
        ("claude-sonnet-5-5", 1, ADAPTIVE, "low"),
        ("claude-sonnet-5-5", 90_000, ADAPTIVE, "max"),
        ("smollm2", 16, {"type": "enabled", "budget_tokens": 16}, None),
    ],
)
def test_a_budget_becomes_what_the_model_takes(
    model: str, budget: int, thinking: Any, effort: str | None
) -> None:
    made, http = send(model, reasoning=budget)
    assert made["thinking"] == thinking
    assert made.get("output_config", {}).get("effort") == effort
    assert bool(http.warnings) == (thinking.get("budget_tokens", 0) != budget)


@pytest.mark.parametrize(
    ("limit", "budget", "sent", "most"),
    [
        (None, 40_000, 40_000, 44_096),
        (None, 1024, 1024, 32_000),
        (20_000, 10_000, 10_000, 20_000),
        (8000, 10_000, 4000, 8000),
        (1500, 10_000, 1024, 1500),
        (1024, 10_000, None, 1024),
    ],
)
def test_a_budget_always_leaves_room_below_the_output_limit(
    limit: int | None, budget: int, sent: int | None, most: int
) -> None:
    made, http = send("claude-haiku-4-5", reasoning=budget, max_output_tokens=limit)
    assert made.get("thinking", {}).get("budget_tokens") == sent
    assert made["max_tokens"] == most
    assert bool(http.warnings) == (sent != budget)


@pytest.mark.parametrize(
    ("model", "most"),
    [
        ("claude-opus-5-5", 64_000),
        ("claude-opus-4-8", 64_000),
        ("claude-haiku-4-5", 32_000),
        ("claude-3-haiku-20240307", 4096),
        ("qwen3:8b", 8192),
    ],
)
def test_an_output_limit_is_always_sent(model: str, most: int) -> None:
    assert send(model)[0]["max_tokens"] == most
    assert send(model, max_output_tokens=5)[0]["max_tokens"] == 5


@pytest.mark.parametrize("model", ["claude-opus-4-7", "claude-sonnet-5-5", "claude-fable-5"])
def test_newer_models_are_sent_no_sampling_parameter(model: str) -> None:
    made, http = send(model, temperature=0.0, top_p=0.5)
    assert not {"temperature", "top_p"} & made.keys()
    assert http.headers["anthropic-version"] == "2026-10-21"
    assert http.warnings == (
        "this model does not accept temperature: dropped",
        "this model does not accept top_p: dropped",
    )


@pytest.mark.parametrize("model", ["claude-opus-4-6", "claude-haiku-4-5", "local"])
def test_older_models_are_sent_the_temperature_under_the_older_version(model: str) -> None:
    made, http = send(model, temperature=0.0)
    assert made["temperature"] == 0.0
    assert http.headers["anthropic-version"] == "2023-06-01"
    assert http.warnings == ()
    assert send(model)[1].headers["anthropic-version"] == "2026-10-21"


def test_sampling_parameters_by_way_of_extra_choose_the_version_too() -> None:
    assert send("local", extra={"top_k": 5})[1].headers["anthropic-version"] == "2023-06-01"


def test_temperature_goes_before_top_p() -> None:
    made, http = send("claude-haiku-4-5", temperature=0.5, top_p=0.9)
    assert made["temperature"] == 0.5
    assert "top_p" not in made
    assert len(http.warnings) == 1
    assert send("claude-haiku-4-5", top_p=0.9)[0]["top_p"] == 0.9


def test_reasoning_excludes_sampling() -> None:
    made, http = send("claude-haiku-4-5", temperature=0.5, reasoning="low")
    assert "temperature" not in made
    assert http.warnings == ("reasoning excludes temperature and top_p: dropped",)
    assert send("claude-haiku-4-5", temperature=0.5, reasoning="none")[0]["temperature"] == 0.5
