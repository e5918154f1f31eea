"""The tasks with any-llm."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

from any_llm import AnyLLM
from any_llm.exceptions import AnyLLMError


def setup(first: str, second: str) -> None:
    global targets, patient  # noqa: PLW0603 - a program of one user
    options = {"api_key": "key", "unified_exceptions": True}
    targets = [AnyLLM.create("openai", api_base=url, **options) for url in (first, second)]
    patient = AnyLLM.create("openai", api_base=first, max_retries=20, **options)


async def stream(prompt: str) -> AsyncIterator[str]:
    for number, target in enumerate(targets, 1):
        began = False
        try:
            chunks = await target.acompletion(
                model="model", messages=[{"role": "user", "content": prompt}], stream=True
            )
            async with aclosing(chunks):
                async for chunk in chunks:
                    if chunk.choices and (text := chunk.choices[0].delta.content):
                        began = True
                        yield text
            return
        except AnyLLMError:
            if began or number == len(targets):
                raise


async def ask(messages: list, **options):
    for number, target in enumerate(targets, 1):
        try:
            reply = await target.acompletion(model="model", messages=messages, **options)
            return reply.choices[0].message
        except AnyLLMError:
            if number == len(targets):
                raise
    return None


async def crowd(prompts: list[str]) -> list:
    calls = (
        patient.acompletion(model="model", messages=[{"role": "user", "content": prompt}])
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
        message = await ask(messages, tools=[SCHEMA])
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
    return (await ask([{"role": "user", "content": content}])).content


async def evaluate(prompts: list[str], path: str) -> None:
    file, room = Path(path), asyncio.Semaphore(32)
    lines = file.read_text().splitlines() if file.exists() else ()
    done = {json.loads(line)["key"] for line in lines}

    async def answer(key: int, prompt: str) -> None:
        async with room:
            try:
                reply = await targets[0].acompletion(
                    model="model", messages=[{"role": "user", "content": prompt}]
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
    """Nothing is owned here: it offers no way to close."""
