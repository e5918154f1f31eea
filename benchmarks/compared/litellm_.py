"""The three tasks with litellm and its Router."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network

from litellm import Router


def setup(first: str, second: str) -> None:
    global router  # noqa: PLW0603 - a program of one user
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/model", "api_base": url, "api_key": "key"},
        }
        for name, url in (("first", first), ("second", second))
    ]
    router = Router(model_list=deployments, fallbacks=[{"first": ["second"]}])


async def stream(prompt: str) -> AsyncIterator[str]:
    chunks = await router.acompletion(
        model="first", messages=[{"role": "user", "content": prompt}], stream=True
    )
    async for chunk in chunks:
        if text := chunk.choices[0].delta.content:
            yield text


async def weather(city: str) -> str:
    return f"{city}: 21 degrees"


SCHEMA = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Return the weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


async def tools(question: str) -> str:
    messages: list = [{"role": "user", "content": question}]
    for _ in range(10):
        reply = await router.acompletion(model="first", messages=messages, tools=[SCHEMA])
        message = reply.choices[0].message
        if not message.tool_calls:
            return message.content
        messages.append(message)
        results = await asyncio.gather(
            *(weather(**json.loads(call.function.arguments)) for call in message.tool_calls)
        )
        messages += [
            {"role": "tool", "tool_call_id": call.id, "content": result}
            for call, result in zip(message.tool_calls, results, strict=True)
        ]
    raise RuntimeError("too many turns")


async def image(question: str, path: str) -> str:
    data = base64.b64encode(await asyncio.to_thread(Path(path).read_bytes)).decode()
    content = [
        {"type": "text", "text": question},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
    ]
    messages = [{"role": "user", "content": content}]
    reply = await router.acompletion(model="first", messages=messages)
    return reply.choices[0].message.content


async def close() -> None:
    """Nothing is owned here: its connections are global."""
