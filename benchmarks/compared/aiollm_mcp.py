"""The agent with an MCP server, with aiollm."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator

from aiollm import Registry


def setup(url: str) -> None:
    global registry  # noqa: PLW0603 - a program of one user
    registry = Registry(env={})
    registry.register("first", f"openai+{url}?api=chat".replace("//", "//key@"))


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    async with registry.mcp(f"stdio:{shlex.join(command)}") as server:
        tools = await server.tools()
        async with registry.run("first/model", question, tools=tools) as run:
            async for event in run:
                if event.text:
                    yield event.text


async def close() -> None:
    await registry.aclose()
