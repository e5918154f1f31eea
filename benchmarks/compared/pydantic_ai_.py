"""The three tasks with pydantic-ai."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic_ai import Agent, BinaryContent
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def setup(first: str, second: str) -> None:
    global agent, forecaster  # noqa: PLW0603 - a program of one user
    model = FallbackModel(
        *(
            OpenAIChatModel("model", provider=OpenAIProvider(base_url=url, api_key="key"))
            for url in (first, second)
        )
    )
    agent = Agent(model)
    forecaster = Agent(model, tools=[weather])


async def stream(prompt: str) -> AsyncIterator[str]:
    async with agent.run_stream(prompt) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            yield text


async def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"{city}: 21 degrees"


async def tools(question: str) -> str:
    return (await forecaster.run(question)).output


async def image(question: str, path: str) -> str:
    data = await asyncio.to_thread(Path(path).read_bytes)
    return (await agent.run([question, BinaryContent(data, media_type="image/png")])).output


async def close() -> None:
    """Nothing is owned here: it caches its connections."""
