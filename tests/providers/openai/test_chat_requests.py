"""Chat requests: what goes over the wire, to OpenAI and in the dialects of other hosts."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aiollm.errors import ConfigError, ProtocolError, UnsupportedError
from aiollm.provider import HttpResponse, Provider
from aiollm.providers.openai.chat_codec import ChatCodec
from aiollm.providers.openai.dialects import DIALECTS, Dialect, dialect_of
from aiollm.types import (
    AudioPart,
    DocumentPart,
    ImagePart,
    OpaquePart,
    ProviderData,
    ReasoningPart,
    RefusalPart,
    Request,
    Target,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
    assistant,
    system,
    tool_results,
    user,
)

TESTS = Path(__file__).parents[2]
OPENAI = "https://api.openai.com/v1"
LOCAL = "http://127.0.0.1:8080/v1"
GROQ = "https://api.groq.com/openai/v1"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PNG_URI = f"data:image/png;base64,{base64.b64encode(PNG).decode()}"
WEATHER = Tool(
    "get_weather",
    "d",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    strict=True,
)


class City(msgspec.Struct):
    city: str


def test_a_request_is_what_the_official_library_sends(chat) -> None:
    recorded = json.loads((TESTS / "fixtures" / "requests" / "openai_chat.json").read_text())
    wanted = recorded["body"]
    wanted["stream_options"]["include_obfuscation"] = False
    extra = {key: wanted[key] for key in ("prompt_cache_key", "safety_identifier", "verbosity")}
    schema = wanted["response_format"]["json_schema"]["schema"]
    sent = chat.send(
        model=wanted["model"],
        system="Be brief",
        messages=(
            user("Co to?", ImagePart(PNG, detail="high")),
            assistant(ToolCallPart("call_1", "get_weather", '{"city":"Łódź"}')),
            tool_results(ToolResultPart("call_1", "12°C")),
        ),
        tools=(WEATHER,),
        tool_choice="get_weather",
        parallel_tool_calls=True,
        output=schema | {"title": "out"},
        max_output_tokens=500,
        seed=7,
        stop="X",
        extra=extra | {"service_tier": "auto"},
    )
    schema["title"] = "out"
    assert sent.body == wanted
    assert sent.http.url == "https://api.openai.com/v1/chat/completions"
    assert sent.http.headers["Authorization"] == "Bearer sk-test"
    assert sent.http.headers["Content-Type"] == "application/json"
    assert not sent.warnings


def test_organization_and_project_go_as_headers() -> None:
    codec = ChatCodec()
    provider = Provider("x", "openai", OPENAI, codec, headers={"OpenAI-Project": "p"})
    headers = codec.models(provider).headers
    assert headers["OpenAI-Project"] == "p"
    assert "Authorization" not in headers


def test_a_plain_request_has_no_more_than_it_needs(chat) -> None:
    assert chat.send(LOCAL, model="m").body == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_extra_is_merged_into_the_body_object_by_object(chat) -> None:
    extra = {"stream_options": {"include_usage": False}, "top_k": 5, "model": "other"}
    body = chat.send(extra=extra).body
    assert body["stream_options"] == {"include_usage": False, "include_obfuscation": False}
    assert (body["top_k"], body["model"]) == (5, "other")


@pytest.mark.parametrize(
    ("host", "name", "fields"),
    [
        ("api.openai.com", "OpenAI", {"max_completion_tokens": 9, "seed": 3}),
        ("eu.api.openai.com", "OpenAI", {"max_completion_tokens": 9, "seed": 3}),
        ("x.openai.azure.com", "Azure", {"max_completion_tokens": 9, "seed": 3}),
        ("openrouter.ai", "OpenRouter", {"max_tokens": 9, "seed": 3}),
        ("api.deepseek.com", "DeepSeek", {"max_tokens": 9, "seed": 3}),
        ("api.groq.com", "Groq", {"max_completion_tokens": 9, "seed": 3}),
        ("api.mistral.ai", "Mistral", {"max_tokens": 9, "random_seed": 3}),
        ("api.x.ai", "this host", {"max_tokens": 9, "seed": 3}),
        ("127.0.0.1:9931", "this server", {"max_tokens": 9, "seed": 3}),
        ("evil-api.openai.com.example", "this server", {"max_tokens": 9, "seed": 3}),
    ],
)
def test_the_host_decides_the_dialect(chat, host, name, fields) -> None:
    assert dialect_of(host).name == name
    body = chat.send(f"https://{host}/v1", system="s", max_output_tokens=9, seed=3).body
    tokens = ("max_tokens", "max_completion_tokens", "seed", "random_seed")
    assert {key: value for key, value in body.items() if key in tokens} == fields
    role = "developer" if name in ("OpenAI", "Azure") else "system"
    assert body["messages"][0] == {"role": role, "content": "s"}


@pytest.mark.parametrize(
    ("model", "limit", "role"),
    [
        ("Ministral-3B", "max_tokens", "system"),
        ("mistral-large-3", "max_tokens", "system"),
        ("DeepSeek-V4-Pro", "max_tokens", "system"),
        ("gpt-5.4", "max_completion_tokens", "developer"),
        ("our-deployment", "max_completion_tokens", "developer"),
    ],
)
def test_azure_reads_openai_s_names_for_openai_s_models(chat, model, limit, role) -> None:
    """Its Mistral models refuse them; a deployment may have any name, though."""
    url = "https://x.services.ai.azure.com/openai/v1"
    body = chat.send(url, model=model, system="s", max_output_tokens=9).body
    assert (body.get(limit), body["messages"][0]["role"]) == (9, role)


def test_a_dialect_may_be_given(chat) -> None:
    codec = ChatCodec(Dialect("mine", max_tokens="limit"))
    here = type(chat)(codec, str)
    assert here.send(OPENAI, max_output_tokens=9).body["limit"] == 9


def test_the_last_dialect_is_for_every_other_host() -> None:
    assert DIALECTS[-1].hosts == ("*",)


def test_mistral_is_not_asked_for_usage_which_it_refuses(chat) -> None:
    assert "stream_options" not in chat.send("https://api.mistral.ai/v1").body


REASONING: list[tuple[str, Any, dict[str, Any], str]] = [
    (OPENAI, "high", {"reasoning_effort": "high"}, ""),
    (OPENAI, 0, {"reasoning_effort": "none"}, ""),
    (OPENAI, 2000, {"reasoning_effort": "low"}, "no reasoning budget"),
    (OPENAI, 9000, {"reasoning_effort": "medium"}, "no reasoning budget"),
    (OPENAI, 90000, {"reasoning_effort": "high"}, "no reasoning budget"),
    ("https://openrouter.ai/api/v1", "low", {"reasoning": {"effort": "low"}}, ""),
    ("https://openrouter.ai/api/v1", 2000, {"reasoning": {"max_tokens": 2000}}, ""),
    ("https://ai-gateway.vercel.sh/v1", "low", {"reasoning": {"effort": "low"}}, ""),
    ("https://ai-gateway.vercel.sh/v1", 2000, {"reasoning": {"max_tokens": 2000}}, ""),
    ("https://openrouter.ai/api/v1", 0, {"reasoning": {"effort": "none"}}, ""),
    ("https://openrouter.ai/api/v1", "max", {"reasoning": {"effort": "max"}}, ""),
    ("https://api.deepseek.com", "none", {"thinking": {"type": "disabled"}}, ""),
    ("https://api.deepseek.com", "medium",
     {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, "'medium'"),
    ("https://api.deepseek.com", 2000,
     {"thinking": {"type": "enabled"}, "reasoning_effort": "low"}, "budget"),
    ("https://api.groq.com/openai/v1", "minimal", {"reasoning_effort": "low"}, "'minimal'"),
    ("https://api.groq.com/openai/v1", "max", {"reasoning_effort": "high"}, "'max'"),
    ("https://api.x.ai/v1", "minimal", {"reasoning_effort": "low"}, "'minimal'"),
    ("https://api.x.ai/v1", "max", {"reasoning_effort": "high"}, "'max'"),
    (LOCAL, "minimal", {"reasoning_effort": "minimal"}, ""),
    (LOCAL, 0, {"reasoning_effort": "none"}, ""),
    (LOCAL, 2000, {"thinking_budget_tokens": 2000}, "llama.cpp"),
]  # fmt: skip


REASONING_KEYS = (
    *("reasoning_effort", "reasoning", "thinking", "thinking_budget_tokens"),
    *("enable_thinking", "thinking_budget"),
)


@pytest.mark.parametrize(("url", "asked", "fields", "warning"), REASONING)
def test_reasoning_is_asked_for_in_each_hosts_words(chat, url, asked, fields, warning) -> None:
    sent = chat.send(url, reasoning=asked)
    assert {key: value for key, value in sent.body.items() if key in REASONING_KEYS} == fields
    assert warning in " ".join(sent.warnings)
    assert bool(sent.warnings) == bool(warning)


XAI, MOONSHOT, ZAI = "https://api.x.ai/v1", "https://api.moonshot.ai/v1", "https://api.z.ai/v4"
DEEPSEEK, MINIMAX = "https://api.deepseek.com", "https://api.minimax.io/v1"
ALIBABA = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
PLAN = "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1"
SILICONFLOW = "https://api.siliconflow.cn/v1"
GROQ, CEREBRAS = "https://api.groq.com/openai/v1", "https://api.cerebras.ai/v1"
MISTRAL, PERPLEXITY = "https://api.mistral.ai/v1", "https://api.perplexity.ai"
GEMINI = "https://generativelanguage.googleapis.com/v1beta/openai"
ARK = "https://ark.cn-beijing.volces.com/api/v3"
COHERE = "https://api.cohere.ai/compatibility/v1"
MIMO = "https://api.xiaomimimo.com/v1"
OFF, ON = {"enable_thinking": False}, {"enable_thinking": True}

VENDORS: list[tuple[str, str, Any, dict[str, Any], str]] = [
    (XAI, "grok-4.6", "none", {"reasoning_effort": "low"}, "'none'"),
    (XAI, "grok-4.6", "max", {"reasoning_effort": "xhigh"}, "'max'"),
    (XAI, "grok-4.5", "xhigh", {"reasoning_effort": "high"}, "'xhigh'"),
    (XAI, "grok-4.3", "none", {"reasoning_effort": "none"}, ""),
    (XAI, "grok-4-1-fast", "high", {}, "dropped"),
    (XAI, "grok-4.20-0309-non-reasoning", "none", {}, "dropped"),
    (MOONSHOT, "kimi-k3", "medium", {"reasoning_effort": "high"}, "'medium'"),
    (MOONSHOT, "kimi-k3", "none", {"reasoning_effort": "low"}, "'none'"),
    (MOONSHOT, "kimi-k3", 2000, {"reasoning_effort": "low"}, "budget"),
    (MOONSHOT, "kimi-k2.6", "none", {"thinking": {"type": "disabled"}}, ""),
    (MOONSHOT, "kimi-k2.6", "high", {"thinking": {"type": "enabled"}}, "on and off"),
    (MOONSHOT, "kimi-k2.6", 2000, {"thinking": {"type": "enabled"}}, "on and off"),
    (MOONSHOT, "kimi-k2.7-code", "none", {}, "dropped"),
    (MOONSHOT, "kimi-k9", "medium", {"reasoning_effort": "medium"}, ""),
    (ZAI, "glm-5.3", 0, {"reasoning_effort": "low"}, "'none'"),
    (ZAI, "glm-5.2", "low", {"reasoning_effort": "high"}, "'low'"),
    (ZAI, "glm-4.7", "none", {"thinking": {"type": "disabled"}}, ""),
    (ZAI, "glm-5-turbo", "none", {"thinking": {"type": "disabled"}}, ""),
    (XAI, "grok-4.7", "xhigh", {"reasoning_effort": "xhigh"}, ""),
    (XAI, "grok-build-0.1", "high", {}, "dropped"),
    (XAI, "grok-4.20-multi-agent-0309", "xhigh", {"reasoning_effort": "xhigh"}, ""),
    (MOONSHOT, "kimi-k2-thinking", "low", {}, "dropped"),
    (OPENAI, "gpt-5-mini", "none", {"reasoning_effort": "minimal"}, "'none'"),
    (OPENAI, "gpt-5-2025-08-07", "xhigh", {"reasoning_effort": "high"}, "'xhigh'"),
    (OPENAI, "o3", "minimal", {"reasoning_effort": "low"}, "'minimal'"),
    (OPENAI, "gpt-5.1", "xhigh", {"reasoning_effort": "high"}, "'xhigh'"),
    (OPENAI, "gpt-5.4-nano", "minimal", {"reasoning_effort": "low"}, "'minimal'"),
    (OPENAI, "gpt-5.5", "max", {"reasoning_effort": "xhigh"}, "'max'"),
    (OPENAI, "gpt-5-pro", "low", {"reasoning_effort": "high"}, "'low'"),
    (OPENAI, "gpt-5.4-pro", "none", {"reasoning_effort": "medium"}, "'none'"),
    (OPENAI, "gpt-5.1-codex-max", "none", {"reasoning_effort": "low"}, "'none'"),
    (OPENAI, "gpt-5.3-codex", "xhigh", {"reasoning_effort": "xhigh"}, ""),
    (OPENAI, "gpt-6-astra", "none", {"reasoning_effort": "low"}, "'none'"),
    (OPENAI, "gpt-6-astra", "max", {"reasoning_effort": "xhigh"}, "'max'"),
    (OPENAI, "gpt-6.2-sol", "max", {"reasoning_effort": "max"}, ""),
    (OPENAI, "gpt-5.7", "max", {"reasoning_effort": "max"}, ""),
    (GROQ, "openai/gpt-oss-120b", "none", {"reasoning_effort": "low"}, "'none'"),
    (GROQ, "llama-3.3-70b-versatile", "high", {}, "dropped"),
    (CEREBRAS, "gpt-oss-120b", "max", {"reasoning_effort": "high"}, "'max'"),
    (CEREBRAS, "zai-glm-4.7", "none", {"reasoning_effort": "none"}, ""),
    (CEREBRAS, "zai-glm-4.7", "high", {}, "only switch"),
    (CEREBRAS, "qwen-3-235b-a22b-instruct-2507", "none", {}, "dropped"),
    (MISTRAL, "mistral-small-2603", "medium", {"reasoning_effort": "high"}, "'medium'"),
    (MISTRAL, "mistral-medium-3-5", 2000, {"reasoning_effort": "high"}, "no reasoning budget"),
    (MISTRAL, "magistral-medium-latest", "high", {}, "dropped"),
    (MISTRAL, "zai-glm-5-3", "medium", {"reasoning_effort": "high"}, "'medium'"),
    (GEMINI, "gemini-3.8-flash", "none", {"reasoning_effort": "low"}, "'none'"),
    (GEMINI, "gemini-3.6-flash", "minimal", {"reasoning_effort": "minimal"}, ""),
    (GEMINI, "google/gemini-3.1-pro-preview", "max", {"reasoning_effort": "high"}, "'max'"),
    (GEMINI, "gemini-2.5-flash", "none", {"reasoning_effort": "none"}, ""),
    (GEMINI, "gemini-2.5-pro", 0, {"reasoning_effort": "minimal"}, "'none'"),
    (OPENAI, "gpt-5.2-chat-latest", "high", {"reasoning_effort": "medium"}, "'high'"),
    (PERPLEXITY, "sonar-deep-research", "max", {"reasoning_effort": "high"}, "'max'"),
    (PERPLEXITY, "sonar-pro", "low", {}, "dropped"),
    (ARK, "doubao-seed-2-0-lite", "none", {"thinking": {"type": "disabled"}}, ""),
    (ARK, "doubao-seed-2-0-lite", "xhigh",
     {"thinking": {"type": "enabled"}, "reasoning_effort": "high"}, "'xhigh'"),
    (ARK, "deepseek-v4-pro-260425", "max",
     {"thinking": {"type": "enabled"}, "reasoning_effort": "max"}, ""),
    (COHERE, "command-a-reasoning-08-2025", "medium", {"reasoning_effort": "high"}, "'medium'"),
    (LOCAL, "openai/gpt-oss-20b", "xhigh", {"reasoning_effort": "high"}, "'xhigh'"),
    (ALIBABA, "qwen3.6-plus", "none", OFF, ""),
    (ALIBABA, "qwen3.7-max", 0, OFF, ""),
    (PLAN, "qwen3.5-plus", "low", ON | {"thinking_budget": 4096}, ""),
    (ALIBABA, "qwen3.5-27b", 2000, ON | {"thinking_budget": 2000}, ""),
    (ALIBABA, "qwen-plus", "high", ON, ""),
    (ALIBABA, "qwen3-next-80b-a3b-thinking", "none", {}, "always reasons"),
    (ALIBABA, "qwen3-next-80b-a3b-thinking", "minimal", ON | {"thinking_budget": 1024}, ""),
    (ALIBABA, "qwen3.8-max", "none", OFF, ""),
    (ALIBABA, "qwen3.8-max-2026-08-01", "xhigh", ON | {"reasoning_effort": "xhigh"}, ""),
    (ALIBABA, "qwen3.8-flash", 2000, ON | {"reasoning_effort": "low"}, "no reasoning budget"),
    (ALIBABA, "qwen3.8-max-preview", "none", ON | {"reasoning_effort": "low"}, "'none'"),
    (ALIBABA, "deepseek-v4-pro", "medium", ON | {"reasoning_effort": "high"}, "'medium'"),
    (ALIBABA, "deepseek-v4-pro", "none", OFF, ""),
    (ALIBABA, "glm-5.1", 9000, ON | {"thinking_budget": 9000}, ""),
    (ALIBABA, "glm-5.2", "max", ON | {"reasoning_effort": "max"}, ""),
    (ALIBABA, "kimi-k3", "none", {"reasoning_effort": "low"}, "'none'"),
    (ALIBABA, "qwen3-coder-plus", "high", {}, "dropped"),
    (SILICONFLOW, "Qwen/Qwen3-32B", "none", OFF, ""),
    (SILICONFLOW, "Pro/deepseek-ai/DeepSeek-V4-Pro", "low",
     ON | {"reasoning_effort": "high"}, "'low'"),
    (SILICONFLOW, "Qwen/Qwen3-Coder-30B-A3B-Instruct", "high", {}, "dropped"),
    (SILICONFLOW, "openai/gpt-oss-120b", "low", {"reasoning_effort": "low"}, ""),
    (MINIMAX, "MiniMax-M3", "none", {"thinking": {"type": "disabled"}}, ""),
    (MINIMAX, "MiniMax-M3", "high", {"thinking": {"type": "adaptive"}}, "on and off"),
    (MINIMAX, "MiniMax-M2.7", "none", {}, "dropped"),
    (MIMO, "mimo-v2.5-pro", "none", {"thinking": {"type": "disabled"}}, ""),
]  # fmt: skip


@pytest.mark.parametrize(("url", "model", "asked", "fields", "warning"), VENDORS)
def test_a_vendor_s_model_is_not_sent_what_it_refuses(
    chat, url, model, asked, fields, warning
) -> None:
    sent = chat.send(url, model=model, reasoning=asked)
    assert {key: value for key, value in sent.body.items() if key in REASONING_KEYS} == fields
    assert warning in " ".join(sent.warnings)
    assert bool(warning) == bool(sent.warnings)


@pytest.mark.parametrize(
    ("choice", "asked", "fields"),
    [
        ("required", None, {"thinking": {"type": "disabled"}}),
        ("get_weather", None, {"thinking": {"type": "disabled"}}),
        (("get_weather",), None, {"thinking": {"type": "disabled"}}),
        ("get_weather", "high", {"thinking": {"type": "disabled"}}),
        ("auto", None, {}),
        (("auto", "get_weather"), None, {}),
        ("none", None, {}),
        (None, None, {}),
    ],
)
def test_kimi_does_not_reason_before_a_call_it_is_made_to_make(chat, choice, asked, fields) -> None:
    """It refuses both together, and reasons unless told not to."""
    wish = {"tools": (WEATHER,), "tool_choice": choice, "reasoning": asked}
    sent = chat.send(MOONSHOT, model="kimi-k2.6", **wish)
    assert {key: value for key, value in sent.body.items() if key in REASONING_KEYS} == fields
    assert bool(sent.warnings) == bool(fields)


@pytest.mark.parametrize("asked", [None, "high", 2000])
@pytest.mark.parametrize(
    ("url", "model", "off"),
    [
        (DEEPSEEK, "deepseek-v4-pro", {"thinking": {"type": "disabled"}}),
        (ALIBABA, "qwen3.6-plus", OFF),
        (ALIBABA, "qwen3.8-max", OFF),
        (ALIBABA, "deepseek-v4-flash", OFF),
    ],
)
def test_a_model_that_reasons_by_itself_does_not_before_a_call_it_must_make(
    chat, url, model, off, asked
) -> None:
    """DeepSeek and Alibaba refuse both together, whether the effort was asked for or not."""
    sent = chat.send(url, model=model, tools=(WEATHER,), tool_choice="required", reasoning=asked)
    assert {key: value for key, value in sent.body.items() if key in REASONING_KEYS} == off
    assert sent.body["tool_choice"] == "required"
    assert "now off" in " ".join(sent.warnings)


@pytest.mark.parametrize("asked", ["none", 0])
def test_reasoning_that_nobody_wants_is_switched_off_before_a_call_without_a_warning(
    chat, asked
) -> None:
    sent = chat.send(DEEPSEEK, tools=(WEATHER,), tool_choice="required", reasoning=asked)
    assert sent.body["thinking"] == {"type": "disabled"}
    assert not sent.warnings


@pytest.mark.parametrize(
    ("url", "model"),
    [(ALIBABA, "qwen3-coder-plus"), (ALIBABA, "kimi-k3"), (SILICONFLOW, "Qwen/Qwen3-32B")],
)
def test_other_models_are_just_made_to_call(chat, url, model) -> None:
    sent = chat.send(url, model=model, tools=(WEATHER,), tool_choice="get_weather")
    assert not sent.body.keys() & set(REASONING_KEYS)


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.7-code", "kimi-k2.6"])
@pytest.mark.parametrize("reasoning", [None, "none", "high"])
def test_kimi_takes_no_temperature_but_its_own(chat, model, reasoning) -> None:
    sent = chat.send(MOONSHOT, model=model, temperature=0, top_p=0.5, reasoning=reasoning)
    assert not sent.body.keys() & {"temperature", "top_p"}
    assert "own temperature: 0 is dropped" in " ".join(sent.warnings)
    other = chat.send(MOONSHOT, model="moonshot-v1-8k", temperature=0, reasoning=reasoning)
    assert other.body["temperature"] == 0


@pytest.mark.parametrize(
    ("asked", "fields", "warning"),
    [
        ("none", {"reasoning_effort": "none"}, ""),
        (0, {"reasoning_effort": "none"}, ""),
        ("low", {}, "only switch"),
        (2000, {}, "only switch"),
    ],
)
def test_qwen_on_groq_has_no_effort_but_none(chat, asked, fields, warning) -> None:
    sent = chat.send(GROQ, model="qwen/qwen3-32b", reasoning=asked)
    assert {key: sent.body[key] for key in sent.body if key == "reasoning_effort"} == fields
    assert warning in " ".join(sent.warnings)
    assert bool(sent.warnings) == bool(warning)


@pytest.mark.parametrize(
    ("model", "reasoning"),
    [
        ("gpt-5", None),
        ("gpt-5-mini", None),
        ("gpt-5.1-codex", None),
        ("gpt-5.4-pro", None),
        ("gpt-5.5", None),
        ("gpt-6-sol", None),
        ("gpt-5.4-nano", "low"),
        ("gpt-5.1", 2000),
    ],
)
def test_reasoning_models_keep_their_own_sampling(chat, model, reasoning) -> None:
    sent = chat.send(model=model, temperature=0.2, top_p=1.0, reasoning=reasoning)
    assert not sent.body.keys() & {"temperature", "top_p"}
    assert "own temperature: 0.2 is dropped" in " ".join(sent.warnings)


@pytest.mark.parametrize(
    ("url", "model", "reasoning"),
    [
        (OPENAI, "gpt-4.1", None),
        (OPENAI, "gpt-5.2-chat-latest", None),
        (OPENAI, "gpt-5.4", "none"),
        (OPENAI, "gpt-5.4-nano", None),
        (OPENAI, "gpt-5.1", None),
        (OPENAI, "gpt-7", None),
        (LOCAL, "gpt-5.4", None),
        ("https://openrouter.ai/api/v1", "openai/gpt-5.4", None),
    ],
)
def test_other_models_take_any_temperature(chat, url, model, reasoning) -> None:
    sent = chat.send(url, model=model, temperature=0.2, reasoning=reasoning)
    assert sent.body["temperature"] == 0.2
    assert not sent.warnings


@pytest.mark.parametrize(("model", "is_kept"), [("gpt-5.4", True), ("gpt-5-mini", False)])
def test_a_model_that_cannot_but_reason_keeps_its_own_sampling(chat, model, is_kept) -> None:
    sent = chat.send(model=model, temperature=0.2, reasoning="none")
    assert ("temperature" in sent.body) == is_kept


def test_the_newest_models_have_no_minimal_effort(chat) -> None:
    assert chat.send(model="gpt-6-sol", reasoning="minimal").body["reasoning_effort"] == "low"
    assert chat.send(model="gpt-5-mini", reasoning="minimal").body["reasoning_effort"] == "minimal"


def test_tools_on_the_newest_models_switch_reasoning_off_in_so_many_words(chat) -> None:
    """They refuse tools in chat otherwise, even where nothing is said of reasoning."""
    sent = chat.send(model="gpt-6-sol", tools=(WEATHER,))
    assert sent.body["reasoning_effort"] == "none"
    assert "api=responses" in sent.warnings[0]
    assert "reasoning_effort" not in chat.send(model="gpt-5.4", tools=(WEATHER,)).body


@pytest.mark.parametrize(
    ("model", "asked", "fields", "warning"),
    [
        ("gpt-6-sol", "high", {"reasoning_effort": "none"}, "is now off"),
        ("gpt-6-sol", "none", {"reasoning_effort": "none"}, ""),
        ("gpt-5.4", "high", {}, "'high' is dropped"),
        ("gpt-5.4-mini", 2000, {}, "2000 is dropped"),
        ("gpt-5.4", "none", {}, ""),
        ("gpt-5.5", "low", {}, "'low' is dropped"),
        ("gpt-5.5", "none", {"reasoning_effort": "none"}, ""),
        ("gpt-5.5", None, {}, ""),
        ("gpt-5.2", "high", {"reasoning_effort": "high"}, ""),
    ],
)
def test_an_effort_that_is_refused_beside_tools_in_chat_is_dropped(
    chat, model, asked, fields, warning
) -> None:
    sent = chat.send(model=model, tools=(WEATHER,), reasoning=asked)
    assert {key: sent.body[key] for key in sent.body if key == "reasoning_effort"} == fields
    assert warning in " ".join(sent.warnings)
    assert bool(sent.warnings) == bool(warning)


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_is_a_word_or_a_function(chat, choice) -> None:
    assert chat.send(tools=(WEATHER,), tool_choice=choice).body["tool_choice"] == choice
    assert "tool_choice" not in chat.send(tools=(WEATHER,)).body


def test_nothing_is_said_of_tools_without_tools(chat) -> None:
    body = chat.send(tool_choice="none", parallel_tool_calls=False).body
    assert not body.keys() & {"tools", "tool_choice", "parallel_tool_calls"}
    with_own = chat.send(parallel_tool_calls=False, extra={"tools": [{"type": "web"}]}).body
    assert with_own["parallel_tool_calls"] is False


def test_a_loose_tool_goes_as_it_is(chat) -> None:
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {}}}
    (tool,) = chat.send(tools=(Tool("f", "", schema),)).body["tools"]
    assert tool == {"type": "function", "function": {"name": "f", "parameters": schema}}


def test_a_strict_tool_that_strict_mode_cannot_say_is_refused(chat) -> None:
    free = {"type": "object", "additionalProperties": {"type": "string"}}
    with pytest.raises(UnsupportedError):
        chat.send(tools=(Tool("f", "", free, strict=True),))


def test_an_output_that_strict_mode_cannot_say_is_asked_for_loosely(chat) -> None:
    class Free(msgspec.Struct):
        counts: dict[str, int]

    sent = chat.send(output=Free)
    form = sent.body["response_format"]["json_schema"]
    assert (form["name"], form["strict"]) == ("Free", False)
    assert "strictly" in sent.warnings[0]
    with pytest.raises(ConfigError):
        chat.send(output=int)


@pytest.mark.parametrize(
    ("url", "native"),
    [
        (OPENAI, True),
        ("https://openrouter.ai/api/v1", True),
        ("https://api.x.ai/v1", True),
        (LOCAL, False),
        ("https://api.groq.com/openai/v1", False),
        ("https://api.deepseek.com", False),
    ],
)
def test_an_output_beside_tools_is_enforced_only_where_they_can_still_be_called(
    chat, responses, url, native
) -> None:
    tools = (Tool("f"),)
    sent = chat.send(url, output=City, tools=tools, system="Be brief")
    told = responses.send(url, output=City, tools=tools, system="Be brief")
    assert ("response_format" in sent.body, "text" in told.body) == (native, native)
    asked = sent.body["messages"][0]["content"], told.body["instructions"]
    for text in asked:
        assert text.startswith("Be brief\n\nCall tools as you need them.") == (not native)
    assert any("schema goes into the prompt" in each for each in sent.warnings) == (not native)
    assert any("schema goes into the prompt" in each for each in told.warnings) == (not native)
    alone = chat.send(url, output=City, tools=tools, tool_choice="none")
    assert "response_format" in alone.body


def test_a_host_without_schemas_is_told_of_it(chat) -> None:
    sent = chat.send("https://api.deepseek.com", output=City, system="Be brief")
    assert sent.body["response_format"] == {"type": "json_object"}
    note = sent.body["messages"][0]["content"]
    assert note.startswith("Be brief\n\n")
    assert "JSON" in note
    assert '"city"' in note
    assert "DeepSeek" in sent.warnings[0]


def messages(chat, *history: Any, url: str = OPENAI, **fields: Any) -> list[dict[str, Any]]:
    return chat.send(url, messages=history, **fields).body["messages"]


def test_system_messages_at_the_head_join_the_system_prompt(chat) -> None:
    sent = messages(chat, system("b"), user("q"), assistant("a"), system("c"), system="a")
    assert sent[0] == {"role": "developer", "content": "a\n\nb"}
    assert sent[3] == {"role": "developer", "content": "c"}


def test_images_go_as_data_of_their_true_type_or_as_url(chat) -> None:
    (sent,) = messages(
        chat, user(ImagePart(PNG, mime="image/jpeg"), ImagePart(url="https://x/a.png"), "what?")
    )
    assert sent["content"] == [
        {"type": "image_url", "image_url": {"url": PNG_URI}},
        {"type": "image_url", "image_url": {"url": "https://x/a.png"}},
        {"type": "text", "text": "what?"},
    ]


def test_a_big_image_is_not_encoded_before_it_is_sent(chat) -> None:
    sent = chat.send(messages=user(ImagePart(PNG * 1000)))
    assert sent.http.body.simple is None


def test_documents_and_audio_have_parts_of_their_own(chat) -> None:
    mp3 = AudioPart(b"ID3", mime="audio/mpeg")
    (sent,) = messages(chat, user(DocumentPart(b"%PDF", name="a.pdf"), AudioPart(b"RIFF"), mp3))
    assert sent["content"] == [
        {"type": "file",
         "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="}},
        {"type": "input_audio", "input_audio": {"data": "UklGRg==", "format": "wav"}},
        {"type": "input_audio", "input_audio": {"data": "SUQz", "format": "mp3"}},
    ]  # fmt: skip


def test_only_openrouter_fetches_documents(chat) -> None:
    part = DocumentPart(url="https://x/a.pdf")
    (sent,) = messages(chat, user(part), url="https://openrouter.ai/api/v1")
    assert sent["content"][0]["file"]["file_data"] == "https://x/a.pdf"
    with pytest.raises(UnsupportedError, match="URL"):
        messages(chat, user(part))


@pytest.mark.parametrize(
    ("part", "url"),
    [
        (AudioPart(b"x", mime="audio/ogg"), OPENAI),
        (AudioPart(url="https://x/a.wav"), OPENAI),
    ],
)
def test_what_a_target_does_not_take_is_refused_before_any_byte(chat, part, url) -> None:
    with pytest.raises(UnsupportedError):
        messages(chat, user(part), url=url)


@pytest.mark.parametrize("url", [LOCAL, "https://api.deepseek.com", "https://api.x.ai/v1"])
def test_what_is_not_known_to_be_refused_is_asked(chat, url) -> None:
    files = (DocumentPart(b"%PDF"), DocumentPart(url="https://x/a.pdf"), AudioPart(b"x"))
    (sent,) = messages(chat, user(*files, ImagePart(PNG)), url=url)
    kinds = [part["type"] for part in sent["content"]]
    assert kinds == ["file", "file", "input_audio", "image_url"]


def test_a_provider_may_say_what_it_does_not_accept(chat) -> None:
    facts = {"documents": False, "audio": False}
    provider = Provider("x", "openai", LOCAL, chat.codec, facts=facts)
    file = DocumentPart(b"%PDF")
    result = tool_results(ToolResultPart("a", file))
    for history, words in (
        ((user(file),), "does not accept documents: send their text"),
        ((user("q"), assistant(ToolCallPart("a", "f")), result), "does not accept documents"),
        ((user(AudioPart(b"x")),), "does not accept audio: send a transcript"),
    ):
        with pytest.raises(UnsupportedError, match=words):
            chat.codec.encode(provider, Target("x", "m"), Request(history))


def test_documents_and_a_providers_own_parts_of_results_follow_in_a_users_message(chat) -> None:
    own = {"type": "file", "file": {"file_id": "file-1"}}
    content = ("two files", DocumentPart(b"%PDF"), OpaquePart(ProviderData("openai", own)))
    answer = tool_results(ToolResultPart("a", content))
    sent = messages(chat, user("q"), assistant(ToolCallPart("a", "f")), answer)
    assert sent[2] == {"role": "tool", "tool_call_id": "a", "content": "two files"}
    label, pdf, other = sent[3]["content"]
    assert label["text"] == "The file result of tool call a:"
    assert pdf["file"]["file_data"] == "data:application/pdf;base64,JVBERg=="
    assert other == own


def test_calls_in_two_messages_are_one_turn_before_their_results(chat) -> None:
    calls = (assistant("so", ToolCallPart("a", "f")), assistant(ToolCallPart("b", "g")))
    answer = tool_results(ToolResultPart("a", "1"), ToolResultPart("b", "2"))
    sent = messages(chat, user("q"), *calls, answer, assistant("x"), assistant("y"))
    roles = [each["role"] for each in sent]
    assert roles == ["user", "assistant", "tool", "tool", "assistant", "assistant"]
    assert sent[1]["content"] == "so"
    assert [call["id"] for call in sent[1]["tool_calls"]] == ["a", "b"]


def test_strict_templates_get_turns_that_alternate(chat) -> None:
    history = (
        system("be brief"), user("a"), assistant(), user("b"), system("now shout"),
        assistant("x"), assistant("y", ToolCallPart("1", "f")),
        tool_results(ToolResultPart("1", ("z", ImagePart(PNG)))), user("c"), system("d"),
    )  # fmt: skip
    kept = messages(chat, *history)
    assert [each["role"] for each in kept] == [
        "developer", "user", "user", "developer", "assistant", "assistant", "tool", "user", "user",
        "developer",
    ]  # fmt: skip
    sent = chat.send(LOCAL, messages=history)
    first, *turns = sent.body["messages"]
    assert first == {"role": "system", "content": "be brief"}
    assert [each["role"] for each in turns] == ["user", "assistant", "tool", "user"]
    assert turns[0]["content"] == "a\n\nb\n\nnow shout"
    assert turns[1]["content"] == "x\n\ny"
    texts = [part.get("text") for part in turns[3]["content"]]
    assert texts == ["The image result of tool call 1:", None, "c\n\nd"]
    assert sent.warnings == (
        "this server takes a system message only at the start: a later one is sent as the user's",
    )


@pytest.mark.parametrize("url", [OPENAI, "https://api.anthropic.com"])
def test_a_tool_choice_goes_with_tools_in_the_providers_own_form(chat, url) -> None:
    hosted = {"tools": [{"type": "web_search"}]}
    sent = chat.send(url, tool_choice="required", parallel_tool_calls=False, extra=hosted)
    assert sent.body["tool_choice"] == "required"
    assert sent.body["parallel_tool_calls"] is False
    assert "tool_choice" not in chat.send(url, tool_choice="required").body


def test_images_of_results_follow_all_results_of_the_turn_in_one_message(chat) -> None:
    call = assistant(ToolCallPart("a", "f"), ToolCallPart("b", "f"), ToolCallPart("c", "f"))
    sent = messages(
        chat, user("q"), call,
        tool_results(
            ToolResultPart("a", ("one", ImagePart(PNG))), ToolResultPart("b", ImagePart(PNG))
        ),
        tool_results(ToolResultPart("c", "three")),
        user("and?"),
    )  # fmt: skip
    assert [each["role"] for each in sent[2:]] == ["tool", "tool", "tool", "user", "user"]
    assert [each["content"] for each in sent[2:5]] == [
        "one", "The result is the image in the next message.", "three",
    ]  # fmt: skip
    image = {"type": "image_url", "image_url": {"url": PNG_URI}}
    assert sent[5]["content"] == [
        {"type": "text", "text": "The image result of tool call a:"}, image,
        {"type": "text", "text": "The image result of tool call b:"}, image,
    ]  # fmt: skip
    assert sent[6]["content"] == "and?"


def test_images_of_results_at_the_end_are_not_forgotten(chat) -> None:
    answer = tool_results(ToolResultPart("a", ImagePart(PNG)))
    sent = messages(chat, user("q"), assistant(ToolCallPart("a", "f")), answer)
    assert [each["role"] for each in sent] == ["user", "assistant", "tool", "user"]


def test_images_of_results_come_before_the_next_answer(chat) -> None:
    answer = tool_results(ToolResultPart("a", ImagePart(PNG)))
    history = (user("q"), assistant(ToolCallPart("a", "f")), answer)
    for last in (assistant("a duck"), system("s"), user("and?")):
        roles = [each["role"] for each in messages(chat, *history, last, url=GROQ)]
        assert roles == ["user", "assistant", "tool", "user", last.role]


def test_images_of_an_answer_follow_it(chat) -> None:
    sent = messages(chat, user("q"), assistant("look", ImagePart(PNG)), user("bigger"))
    assert [each["role"] for each in sent] == ["user", "assistant", "user", "user"]


def test_long_call_ids_are_shortened_alike_in_call_and_result(chat) -> None:
    long = "toolu_" + "x" * 60
    answer = tool_results(ToolResultPart(long, "r"))
    history = (user("q"), assistant(ToolCallPart(long, "f")), answer)
    for url, most in ((OPENAI, 40), ("https://api.mistral.ai/v1", 9)):
        sent = messages(chat, *history, url=url)
        id_ = sent[1]["tool_calls"][0]["id"]
        assert sent[2]["tool_call_id"] == id_
        assert len(id_) <= most
    kept = messages(chat, user("q"), assistant(ToolCallPart("abcdefGH1", "f")),
                    tool_results(ToolResultPart("abcdefGH1", "r")),
                    url="https://api.mistral.ai/v1")  # fmt: skip
    assert kept[1]["tool_calls"][0]["id"] == "abcdefGH1"


def test_arguments_that_are_no_object_are_not_sent(chat) -> None:
    call = ToolCallPart("a", "f", '{"x": ', valid=False)
    answer = tool_results(ToolResultPart("a", "bad"))
    sent = chat.send(messages=(user("q"), assistant(call), answer))
    assert sent.body["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"
    assert "'f'" in sent.warnings[0]


def test_refusals_go_back_as_such_where_the_wire_has_them(chat) -> None:
    history = (user("q"), assistant(RefusalPart("no")), user("please"))
    assert messages(chat, *history)[1] == {"role": "assistant", "content": None, "refusal": "no"}
    assert messages(chat, *history, url=LOCAL)[1] == {"role": "assistant", "content": "no"}


def test_reasoning_of_unknown_origin_goes_back_in_the_field_that_most_servers_have(chat) -> None:
    turn = assistant(ReasoningPart("hm"), TextPart("x"))
    assert messages(chat, user("q"), turn, user("r"), url=LOCAL)[1]["reasoning_content"] == "hm"


@pytest.mark.parametrize(
    ("host", "sent"),
    [
        ("api.deepseek.com", [" ", "hm", " "]),
        ("api.xiaomimimo.com/v1", [" ", "hm", " "]),
        ("token-plan-cn.xiaomimimo.com/v1", [" ", "hm", " "]),
        ("api.moonshot.ai/v1", [" ", "hm", None]),  # it takes an empty text for none
        ("api.kimi.com/coding/v1", [" ", "hm", None]),
        ("gateway.test/v1", [None, "hm", None]),
    ],
)
def test_a_call_goes_back_with_the_reasoning_that_its_host_requires(
    chat, host: str, sent: list[str | None]
) -> None:
    foreign = ReasoningPart("hm", ProviderData("google", {"thoughtSignature": "s"}))
    history = (
        user("q"), assistant(foreign, ToolCallPart("a", "f")),
        tool_results(ToolResultPart("a", "r")),
        assistant(ReasoningPart("hm"), ToolCallPart("b", "f")),
        tool_results(ToolResultPart("b", "r")), assistant("So."), user("r"),
    )  # fmt: skip
    wires = messages(chat, *history, url=f"https://{host}")
    said = [wire.get("reasoning_content") for wire in wires if wire["role"] == "assistant"]
    assert said == sent


def test_foreign_state_is_dropped_with_a_warning_each(chat) -> None:
    foreign = ProviderData("google", {"thoughtSignature": "s"})
    turn = assistant(
        ReasoningPart("hm", foreign), TextPart("x", provider_data=foreign),
        ToolCallPart("a", "f", provider_data=foreign), OpaquePart(foreign),
    )  # fmt: skip
    sent = chat.send(messages=(user("q"), turn, tool_results(ToolResultPart("a", "r"))))
    assert len(sent.warnings) == 4
    assert "thoughtSignature" not in bytes(sent.http.body).decode()


def test_own_opaque_parts_are_replayed(chat) -> None:
    (sent,) = messages(chat, user("q", OpaquePart(ProviderData("openai", {"type": "x"}))))
    assert sent["content"][1] == {"type": "x"}
    own = OpaquePart(ProviderData("openai", {"audio": {"id": "a1"}}))
    assert messages(chat, user("q"), assistant(own), user("r"))[1]["audio"] == {"id": "a1"}


def test_earlier_audio_is_dropped_with_a_warning(chat) -> None:
    sent = chat.send(messages=(user("q"), assistant("x", AudioPart(b"x")), user("r")))
    assert "audio" in sent.warnings[0]


def test_parts_that_a_turn_cannot_hold_are_left_out(chat, responses) -> None:
    """They are refused before; a codec on its own must not send half of them."""
    turn = user("q", RefusalPart("no"))
    assert messages(chat, turn)[0]["content"] == [{"type": "text", "text": "q"}]
    (sent,) = responses.send(messages=turn).body["input"]
    assert sent["content"] == [{"type": "input_text", "text": "q"}]
    odd = assistant("a", ToolResultPart("c", "r"))
    assert messages(chat, user("q"), odd)[1] == {"role": "assistant", "content": "a"}
    sent = responses.send(messages=(user("q"), odd)).body["input"]
    assert sent[1] == {"type": "message", "role": "assistant", "content": "a"}


def test_lone_surrogates_are_mended(chat) -> None:
    assert messages(chat, user("a\ud83e"))[0]["content"] == "a\ufffd"


@pytest.mark.parametrize(
    "body",
    [
        {"object": "list", "data": [{"id": "b"}, {"id": "a"}, {"name": "x"}, 3]},
        {"models": [{"id": "b"}, {"id": "a"}]},
        [{"id": "b"}, {"id": "a"}],
    ],
)
def test_models_are_listed_by_id(chat, responses, body) -> None:
    for codec in (chat.codec, responses.codec):
        reply = HttpResponse(200, {}, json.dumps(body).encode())
        assert codec.model_names(reply) == ("b", "a")
        http = codec.models(Provider("x", "openai", LOCAL, codec))
        assert (http.method, http.url, http.body) == ("GET", f"{LOCAL}/models", None)


def test_an_ollama_without_models_lists_none(chat) -> None:
    reply = HttpResponse(200, {}, b'{"object":"list","data":null}')
    assert chat.codec.model_names(reply) == ()


@pytest.mark.parametrize("body", [b"", b"OK", b"{}", b'{"data": {}}', b'{"code":9,"data":null}'])
def test_what_lists_no_models_is_a_protocol_error(chat, body) -> None:
    with pytest.raises(ProtocolError):
        chat.codec.model_names(HttpResponse(200, {}, body))
