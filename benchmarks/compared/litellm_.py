"""The tasks with litellm and its Router."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # else the import asks the network

from litellm import Router


def setup(first: str, second: str) -> None:
    global router, patient  # noqa: PLW0603 - a program of one user
    deployments = [
        {
            "model_name": name,
            "litellm_params": {"model": "openai/model", "api_base": url, "api_key": "key"},
        }
        for name, url in (("first", first), ("second", second))
    ]
    router = Router(model_list=deployments, fallbacks=[{"first": ["second"]}])
    patient = Router(model_list=deployments[:1], num_retries=20)


async def stream(prompt: str) -> AsyncIterator[str]:
    chunks = await router.acompletion(
        model="first", messages=[{"role": "user", "content": prompt}], stream=True
    )
    async with aclosing(chunks):
        async for chunk in chunks:
            if text := chunk.choices[0].delta.content:
                yield text


async def crowd(prompts: list[str]) -> list:
    calls = (
        patient.acompletion(model="first", messages=[{"role": "user", "content": prompt}])
        for prompt in prompts
    )
    return await asyncio.gather(*calls, return_exceptions=True)


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


async def evaluate(prompts: list[str], path: str) -> None:
    file, room = Path(path), asyncio.Semaphore(32)
    lines = file.read_text().splitlines() if file.exists() else ()
    done = {json.loads(line)["key"] for line in lines}

    async def answer(key: int, prompt: str) -> None:
        async with room:
            try:
                reply = await router.acompletion(
                    model="first", messages=[{"role": "user", "content": prompt}]
                )
                text = reply.choices[0].message.content
            except Exception as error:  # noqa: BLE001 - the other rows go on
                print(f"row {key} failed: {error}", file=sys.stderr)
                return
        out.write(json.dumps({"key": key, "text": text}) + "\n")
        out.flush()

    with file.open("a") as out:
        rows = enumerate(prompts, 1)
        await asyncio.gather(*(answer(*row) for row in rows if row[0] not in done))


async def close() -> None:
    """Nothing is owned here: its connections are global."""
