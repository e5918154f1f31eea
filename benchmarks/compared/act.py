"""Do one thing with one library, in its own environment: `act.py LIBRARY ACTION FIRST SECOND`."""

from __future__ import annotations

import asyncio
import importlib
import json
import sys
import time
import warnings
from contextlib import aclosing, suppress
from pathlib import Path

HERE = Path(__file__).parent
CALLS = 20
LINGER = 4.0
"""Seconds a program lives on after it left a stream."""


async def act(tasks, action: str) -> dict:
    match action:
        case "tools":
            return {"answer": await tasks.tools("How warm is Granada?")}
        case "image":
            return {"answer": await tasks.image("What is it?", str(HERE / "pixel.png"))}
        case "cut":
            return await outcome(tasks)
        case "dead":
            start = time.perf_counter()
            ends = [await outcome(tasks) for _ in range(CALLS)]
            answered = sum("error" not in end for end in ends)
            return {"answered": answered, "seconds": time.perf_counter() - start}
        case "break":
            at = 0.0
            async for _ in tasks.stream("hi"):
                at = time.monotonic()
                break
            return await lived_on(at)
        case "aclosing":
            at = 0.0
            async with aclosing(tasks.stream("hi")) as texts:
                async for _ in texts:
                    at = time.monotonic()
                    break
            return await lived_on(at)
        case _:
            return await cancelled(tasks)


async def outcome(tasks) -> dict:
    texts = []
    try:
        async for text in tasks.stream("hi"):
            texts.append(text)  # noqa: PERF401 - kept when it raises
    except Exception as error:  # noqa: BLE001 - its class is the figure
        return {"text": "".join(texts), "error": type(error).__name__}
    return {"text": "".join(texts)}


async def cancelled(tasks) -> dict:
    began = asyncio.Event()

    async def read() -> None:
        async for _ in tasks.stream("hi"):
            began.set()

    task = asyncio.create_task(read())
    await began.wait()
    at = time.monotonic()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return await lived_on(at)


async def lived_on(left: float) -> dict:
    await asyncio.sleep(LINGER)
    return {"left": left}


async def main(library: str, action: str, first: str, second: str) -> None:
    start = time.perf_counter()
    tasks = importlib.import_module(f"{library}_")
    spent = time.perf_counter() - start
    tasks.setup(first, second)
    result = {} if action == "import" else await act(tasks, action)
    print("RESULT", json.dumps(result | {"import": spent}), flush=True)
    await tasks.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.path[0] = str(HERE)
    asyncio.run(main(*sys.argv[1:]))
