"""The agent with an MCP server, with the openai SDK and the official MCP SDK."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from mcp import Client, StdioServerParameters
from openai import AsyncOpenAI


def setup(url: str) -> None:
    global client  # noqa: PLW0603 - a program of one user
    client = AsyncOpenAI(api_key="key", base_url=url)


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    program, *arguments = command
    async with Client(StdioServerParameters(command=program, args=arguments)) as server:
        tools = [schema(tool) for tool in (await server.list_tools()).tools]
        messages: list = [{"role": "user", "content": question}]
        for _ in range(10):
            async with client.chat.completions.stream(
                model="model", messages=messages, tools=tools
            ) as events:
                async for event in events:
                    if event.type == "content.delta":
                        yield event.delta
                message = (await events.get_final_completion()).choices[0].message
            if not message.tool_calls:
                return
            messages.append(message)
            for call in message.tool_calls:
                given = json.loads(call.function.arguments)
                result = await server.call_tool(call.function.name, given)
                text = "\n".join(part.text for part in result.content if part.type == "text")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        raise RuntimeError("too many turns")


def schema(tool) -> dict:
    function = {
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.input_schema,
    }
    return {"type": "function", "function": function}


async def close() -> None:
    await client.close()
