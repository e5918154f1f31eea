"""A real model calls a real tool: SmolLM2 with a template that knows of tools."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from aiollm import (
    Message,
    Registry,
    Request,
    ToolCallPart,
    ToolEnded,
    ToolResultPart,
    ToolStarted,
    assistant,
    local,
    tool,
    tool_results,
    user,
)

pytestmark = [pytest.mark.e2e, pytest.mark.usefixtures("local_model")]

TEMPLATE = Path(__file__).parent / "tools.jinja"


def shown(number: int, city: str, weather: str) -> tuple[Message, ...]:
    """Return an example: a model of 135 million parameters needs some."""
    call = ToolCallPart(f"c{number}", "get_weather", msgspec.json.encode({"city": city}).decode())
    result = ToolResultPart(call.id, weather)
    said = assistant(f"It is {weather} in {city}.")
    return user(f"Weather in {city}?"), assistant(call), tool_results(result), said


async def test_a_model_asks_a_tool_and_tells_its_answer() -> None:
    asked: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Get weather."""
        asked.append(city)
        return "21 C"

    examples = (*shown(0, "Oslo", "5 C"), *shown(1, "Madrid", "15 C"))
    request = Request((*examples, user("Weather in Paris?")), max_output_tokens=64, temperature=0.0)
    async with Registry(env={}, retries=0) as reg:
        server = await local.start(reg, context=2048, chat_template=TEMPLATE)
        messages_dsn = server.dsn.replace("openai+", "anthropic+").replace("api=chat&", "")
        reg.register("messages", messages_dsn)
        for provider in ("local", "messages"):
            async with reg.run(f"{provider}/smollm2", request, tools=[get_weather]) as run:
                events = [event async for event in run]
            assert [event.call.name for event in events if isinstance(event, ToolStarted)] == [
                "get_weather"
            ]
            (finished,) = [event for event in events if isinstance(event, ToolEnded)]
            assert finished.result.text == "21 C"
            assert "21" in run.response.text
            assert run.usage.certainty == "exact"
            assert run.turns == 2
    assert asked == ["Paris", "Paris"]


class Weather(msgspec.Struct):
    city: str
    celsius: Annotated[int, msgspec.Meta(ge=-99, le=99)]


async def test_a_run_with_a_tool_ends_in_a_value_that_the_server_enforces_at_last() -> None:
    asked: list[str] = []

    @tool
    def get_weather(city: str) -> str:
        """Get weather."""
        asked.append(city)
        return "21 C"

    examples = (*shown(0, "Oslo", "5 C"), *shown(1, "Madrid", "15 C"))
    request = Request((*examples, user("Weather in Paris?")), max_output_tokens=64, temperature=0.0)
    async with Registry(env={}, retries=0) as reg:
        await local.start(reg, context=2048, chat_template=TEMPLATE)
        async with reg.run("local/smollm2", request, tools=[get_weather], output=Weather) as run:
            await run.collect()
    assert asked == ["Paris"]
    assert isinstance(run.value, Weather)


async def test_a_value_is_seen_while_it_is_written() -> None:
    request = Request((user("Weather in Paris?"),), max_output_tokens=64, temperature=0.0)
    async with Registry(env={}, retries=0) as reg:
        await local.start(reg, context=2048)
        stream = reg.stream("local/smollm2", request, output=Weather)
        found = [partial.data async for partial in stream.partials()]
    for before, after in itertools.pairwise(found):
        assert list(before) == list(after)[: len(before)]
        assert after.get("city", "").startswith(before.get("city", ""))
    assert len(found) > 3
    assert found[-1] == msgspec.to_builtins(stream.value)


async def test_a_list_of_numbers_is_a_typed_answer() -> None:
    request = Request(
        (user("Which numbers come after 1, 2, 3?"),), max_output_tokens=200, temperature=0.0
    )
    async with Registry(env={}, retries=0) as reg:
        await local.start(reg, context=2048)
        numbers = await reg.generate("local/smollm2", request, output=tuple[int, int, int])
    assert len(numbers) == 3
