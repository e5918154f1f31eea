"""The agent with an MCP server, with any-llm and the official MCP SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from any_llm import AnyLLM
from mcp import Client, StdioServerParameters


def setup(url: str) -> None:
    global client  # noqa: PLW0603 - a program of one user
    client = AnyLLM.create("openai", api_key="key", api_base=url)


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    program, *arguments = command
    async with Client(StdioServerParameters(command=program, args=arguments)) as server:
        tools = [schema(tool) for tool in (await server.list_tools()).tools]
        messages: list = [{"role": "user", "content": question}]
        for _ in range(10):
            calls: dict[int, dict] = {}
            async for chunk in await client.acompletion(
                model="model", messages=messages, tools=tools, stream=True
            ):
                for choice in chunk.choices:
                    if choice.delta.content:
                        yield choice.delta.content
                    for piece in choice.delta.tool_calls or ():
                        call = calls.setdefault(piece.index, {"id": "", "name": "", "given": ""})
                        call["id"] += piece.id or ""
                        call["name"] += piece.function.name or ""
                        call["given"] += piece.function.arguments or ""
            if not calls:
                return
            messages.append({"role": "assistant", "tool_calls": [sent(c) for c in calls.values()]})
            for call in calls.values():
                result = await server.call_tool(call["name"], json.loads(call["given"]))
                text = "\n".join(part.text for part in result.content if part.type == "text")
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
        raise RuntimeError("too many turns")


def sent(call: dict) -> dict:
    function = {"name": call["name"], "arguments": call["given"]}
    return {"id": call["id"], "type": "function", "function": function}


def schema(tool) -> dict:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": function}


async def close() -> None:
    """It offers no way to close."""
