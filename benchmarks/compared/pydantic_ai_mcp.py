"""The agent with an MCP server, with pydantic-ai."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent, PartDeltaEvent, PartStartEvent, TextPart, TextPartDelta
from pydantic_ai.mcp import MCPToolset
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def setup(url: str) -> None:
    global model  # noqa: PLW0603 - a program of one user
    model = OpenAIChatModel("model", provider=OpenAIProvider(base_url=url, api_key="key"))


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    server = MCPToolset(StdioTransport(command[0], command[1:]))
    forecaster = Agent(model, toolsets=[server])
    async with forecaster, forecaster.run_stream_events(question) as events:
        async for event in events:
            match event:
                case PartStartEvent(part=TextPart(content=text)) if text:
                    yield text
                case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                    yield text


async def close() -> None:
    """Nothing is owned here: it caches its connections."""
