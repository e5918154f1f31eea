"""The agent with an MCP server, with openai-agents."""

from __future__ import annotations

from collections.abc import AsyncIterator

from agents import Agent, OpenAIChatCompletionsModel, Runner, set_tracing_disabled
from agents.mcp import MCPServerStdio
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent


def setup(url: str) -> None:
    global client, model  # noqa: PLW0603 - a program of one user
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(api_key="key", base_url=url)
    model = OpenAIChatCompletionsModel("model", client)


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    program, *arguments = command
    async with MCPServerStdio(params={"command": program, "args": arguments}) as server:
        forecaster = Agent("forecaster", model=model, mcp_servers=[server])
        result = Runner.run_streamed(forecaster, question)
        async for event in result.stream_events():
            if event.type == "raw_response_event" and isinstance(
                event.data, ResponseTextDeltaEvent
            ):
                yield event.data.delta


async def close() -> None:
    await client.close()
