"""Each provider for real, for people with keys: skipped where its variable is not set.

Run: OPENAI_API_KEY=... python -m pytest tests/live. Every test costs a few tokens.
"""

from __future__ import annotations

import os

import msgspec
import pytest

from aiollm import Registry, Request, Timeouts, Tool, tool_results, user
from aiollm.types import ToolResultPart

TARGETS = {
    "openai/gpt-5.4-mini": "OPENAI_API_KEY",
    "anthropic/claude-haiku-4-5": "ANTHROPIC_API_KEY",
    "google/gemini-3.5-flash-lite": "GEMINI_API_KEY",
    "ollama-cloud/gpt-oss:20b": "OLLAMA_API_KEY",
    f"ollama/{os.environ.get('AIOLLM_LIVE_OLLAMA', 'qwen3:8b')}": "AIOLLM_LIVE_OLLAMA",
    f"llama-swap/{os.environ.get('AIOLLM_LIVE_LLAMA_SWAP', 'm')}": "AIOLLM_LIVE_LLAMA_SWAP",
    f"foreman/{os.environ.get('AIOLLM_LIVE_FOREMAN', 'm')}": "AIOLLM_LIVE_FOREMAN",
}
"""The last three variables name a model; the DSNs of llama-swap and foreman come as LLM_..."""

WEATHER = Tool(
    "get_weather",
    "The weather in a city now.",
    {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


class City(msgspec.Struct):
    name: str
    country: str


@pytest.fixture(params=TARGETS)
def spec(request):
    if not os.environ.get(TARGETS[request.param]):
        pytest.skip(f"{TARGETS[request.param]} is not set")
    return request.param


@pytest.fixture
async def reg():
    async with Registry(timeouts=Timeouts(first_output=120, total=180)) as made:
        yield made


async def test_text_arrives_with_usage_and_a_finish(reg, spec):
    stream = reg.stream(spec, Request("Say hello in one word.", max_output_tokens=2000))
    text = "".join([chunk.text async for chunk in stream])
    assert text.strip()
    assert stream.response.finish_reason == "stop"
    assert stream.response.usage.output_tokens > 0


async def test_a_tool_round_trip(reg, spec):
    first = Request("What is the weather in Oslo? Use the tool.", tools=(WEATHER,))
    asked = await reg.generate(spec, first)
    (call,) = asked.tool_calls
    assert "oslo" in call.parsed()["city"].lower()
    result = tool_results(ToolResultPart(call.id, "7 degrees and rain", name=call.name))
    messages = (*first.messages, asked.message, result)
    told = await reg.generate(spec, Request(messages, tools=(WEATHER,)))
    assert "7" in told.text


async def test_structured_output(reg, spec):
    city = await reg.generate(spec, user("Where is the Alhambra?"), output=City)
    assert city.name == "Granada"


async def test_models_are_listed(reg, spec):
    assert await reg.models(spec.partition("/")[0])
