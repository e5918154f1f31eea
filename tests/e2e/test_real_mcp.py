"""A real model calls a tool of a real MCP server: SmolLM2 asks what time it is elsewhere."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

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
    tool_results,
    user,
)
from tests.programs import python

MODULE = "mcp_server_time"
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.usefixtures("local_model"),
    pytest.mark.skipif(
        importlib.util.find_spec(MODULE) is None,
        reason=f"{MODULE} is not installed: pip install --group servers",
    ),
]

TEMPLATE = Path(__file__).parent / "tools.jinja"


def shown(number: int, city: str, zone: str, time: str) -> tuple[Message, ...]:
    """Return an example: a model of 135 million parameters needs some."""
    call = ToolCallPart(f"c{number}", "get_current_time", json.dumps({"timezone": zone}))
    said = assistant(f"It is {time} in {city}.")
    result = ToolResultPart(call.id, json.dumps({"timezone": zone, "datetime": time}))
    return user(f"Time in {city}?"), assistant(call), tool_results(result), said


async def test_a_real_model_calls_a_tool_of_an_mcp_server_and_tells_its_answer() -> None:
    examples = (
        *shown(0, "Oslo", "Europe/Oslo", "08:15"),
        *shown(1, "Rome", "Europe/Rome", "19:40"),
    )
    asked = (*examples, user("Time in Madrid?"))
    request = Request(asked, max_output_tokens=64, temperature=0.0)
    async with Registry(env={}, retries=0) as reg:
        await local.start(reg, context=2048, chat_template=TEMPLATE)
        async with reg.mcp(f"stdio:{python('-m', MODULE)}", name="time") as server:
            tools = await server.tools("get_current_time")
            async with reg.run("local/smollm2", request, tools=tools) as run:
                events = [event async for event in run]
    (started,) = [event for event in events if isinstance(event, ToolStarted)]
    (ended,) = [event for event in events if isinstance(event, ToolEnded)]
    assert json.loads(started.call.arguments) == {"timezone": "Europe/Madrid"}
    assert not ended.result.is_error
    now = json.loads(ended.result.text)["datetime"]
    assert any(part in run.response.text for part in (now[:10], now[11:16]))
    assert run.turns == 2
