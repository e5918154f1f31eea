"""The tool loop with openai-agents."""

from __future__ import annotations

from agents import (
    Agent,
    OpenAIChatCompletionsModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI


def setup(first: str, _second: str) -> None:
    global client, agent  # noqa: PLW0603 - a program of one user
    set_tracing_disabled(disabled=True)
    client = AsyncOpenAI(api_key="key", base_url=first)
    model = OpenAIChatCompletionsModel("model", client)
    agent = Agent("forecaster", model=model, tools=[weather])


@function_tool
async def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"{city}: 21 degrees"


async def tools(question: str) -> str:
    return (await Runner.run(agent, question)).final_output


async def close() -> None:
    await client.close()
