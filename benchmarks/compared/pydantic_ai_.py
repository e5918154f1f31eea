"""The tasks with pydantic-ai."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic_ai import Agent, BinaryContent, ModelSettings
from pydantic_ai.models.fallback import FallbackModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


def setup(first: str, second: str) -> None:
    global agent, forecaster, single  # noqa: PLW0603 - a program of one user
    models = [
        OpenAIChatModel("model", provider=OpenAIProvider(base_url=url, api_key="key"))
        for url in (first, second)
    ]
    model = FallbackModel(*models)
    agent, single = Agent(model), Agent(models[0])
    forecaster = Agent(model, tools=[weather])


async def stream(prompt: str) -> AsyncIterator[str]:
    async with agent.run_stream(prompt) as result:
        async for text in result.stream_text(delta=True, debounce_by=None):
            yield text


async def crowd(prompts: list[str]) -> list:
    patience = ModelSettings(max_retries=20)
    calls = (single.run(prompt, model_settings=patience) for prompt in prompts)
    return await asyncio.gather(*calls, return_exceptions=True)


async def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"{city}: 21 degrees"


async def tools(question: str) -> str:
    return (await forecaster.run(question)).output


async def image(question: str, path: str) -> str:
    data = await asyncio.to_thread(Path(path).read_bytes)
    return (await agent.run([question, BinaryContent(data, media_type="image/png")])).output


async def evaluate(prompts: list[str], path: str) -> None:
    file, room = Path(path), asyncio.Semaphore(32)
    lines = file.read_text().splitlines() if file.exists() else ()
    done = {json.loads(line)["key"] for line in lines}

    async def answer(key: int, prompt: str) -> None:
        async with room:
            try:
                text = (await single.run(prompt)).output
            except Exception as error:  # noqa: BLE001 - the other rows go on
                print(f"row {key} failed: {error}", file=sys.stderr)
                return
        out.write(json.dumps({"key": key, "text": text}) + "\n")
        out.flush()

    with file.open("a") as out:
        rows = enumerate(prompts, 1)
        await asyncio.gather(*(answer(*row) for row in rows if row[0] not in done))


async def close() -> None:
    """Nothing is owned here: it caches its connections."""
