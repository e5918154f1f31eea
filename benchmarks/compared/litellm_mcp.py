"""The agent with an MCP server, with litellm and its MCP client."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network

import litellm
from litellm.mcp_client import call_openai_tool, load_mcp_tools
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client


def setup(url: str) -> None:
    global target  # noqa: PLW0603 - a program of one user
    target = {"model": "openai/model", "api_base": url, "api_key": "key"}


async def agent(question: str, command: list[str]) -> AsyncIterator[str]:
    program, *arguments = command
    parameters = StdioServerParameters(command=program, args=arguments)
    async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
        await session.initialize()
        tools = await load_mcp_tools(session=session, format="openai")
        messages: list = [{"role": "user", "content": question}]
        for _ in range(10):
            chunks = []
            async for chunk in await litellm.acompletion(
                **target, messages=messages, tools=tools, stream=True
            ):
                chunks.append(chunk)
                if text := chunk.choices[0].delta.content:
                    yield text
            reply = litellm.stream_chunk_builder(chunks, messages=messages)
            message = reply.choices[0].message
            if not message.tool_calls:
                return
            messages.append(message)
            for call in message.tool_calls:
                result = await call_openai_tool(session=session, openai_tool=call)
                text = "\n".join(part.text for part in result.content if part.type == "text")
                messages.append({"role": "tool", "tool_call_id": call.id, "content": text})
        raise RuntimeError("too many turns")


async def close() -> None:
    """Nothing is owned here: its connections are global."""
