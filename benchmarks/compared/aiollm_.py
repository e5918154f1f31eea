"""The tasks with aiollm."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiollm import ImagePart, Registry, Request, user


def setup(first: str, second: str) -> None:
    global registry, address  # noqa: PLW0603 - a program of one user
    registry = Registry(env={})
    address = f"openai+{first}?api=chat".replace("//", "//key@")
    registry.register("first", address)
    registry.register("second", f"openai+{second}?api=chat".replace("//", "//key@"))


async def stream(prompt: str) -> AsyncIterator[str]:
    async with registry.stream("first/model,second/model", prompt) as chunks:
        async for chunk in chunks:
            if chunk.text:
                yield chunk.text


async def crowd(prompts: list[str]) -> list:
    async with Registry(env={}, patience=600) as patient:
        patient.register("first", address)
        calls = (patient.generate("first/model", prompt) for prompt in prompts)
        return await asyncio.gather(*calls, return_exceptions=True)


async def tools(question: str) -> str:
    async def weather(city: str) -> str:
        """Return the weather in a city."""
        return f"{city}: 21 degrees"

    run = registry.run("first/model,second/model", question, tools=[weather])
    return (await run.collect()).text


async def image(question: str, path: str) -> str:
    part = await asyncio.to_thread(ImagePart.from_path, path)
    request = Request((user(question, part),))
    return (await registry.generate("first/model,second/model", request)).text


async def evaluate(prompts: list[str], path: str) -> None:
    async with registry.map("first/model", prompts, into=path, resume=True, concurrency=32) as run:
        await run.finish()


async def close() -> None:
    await registry.aclose()
