"""Do one thing with one library, in its own environment: `act.py LIBRARY ACTION ARGUMENT...`.

The first arguments are the addresses of the servers; prints what came of it after `RESULT`.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import resource
import sys
import time
import warnings
from contextlib import aclosing, suppress
from pathlib import Path

from living import living

HERE = Path(__file__).parent
CALLS = 20
CROWD = 200
ROWS = 2000
LINGER = 4.0
"""Seconds a program lives on after it left a stream."""
HANGS = 20.0
"""Seconds after which an agent is taken to hang."""


async def act(tasks, action: str, arguments: list[str]) -> dict:
    match action:
        case "tools":
            return {"answer": await tasks.tools("How warm is Granada?")}
        case "image":
            return {"answer": await tasks.image("What is it?", str(HERE / "pixel.png"))}
        case "cut":
            return await outcome(tasks.stream("hi"))
        case "dead":
            start = time.perf_counter()
            ends = [await outcome(tasks.stream("hi")) for _ in range(CALLS)]
            answered = sum("error" not in end for end in ends)
            return {"answered": answered, "seconds": time.perf_counter() - start}
        case "crowd":
            start = time.perf_counter()
            ends = await tasks.crowd([f"call {number}" for number in range(CROWD)])
            answered = sum(not isinstance(end, BaseException) for end in ends)
            return {"answered": answered, "seconds": time.perf_counter() - start}
        case "evaluate":
            return await evaluated(tasks, arguments[0])
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
            return await lived_on(await cancelled(tasks.stream("hi")))


async def act_mcp(tasks, action: str, arguments: list[str]) -> dict:
    """Run the agent; `arguments` are the question, and the folder of the server's notes."""
    question, folder = arguments
    texts = tasks.agent(question, [sys.executable, str(HERE / "mcp_server.py"), folder])
    if action != "cancel":
        return await outcome(texts, HANGS) | {"cpu": time.process_time()}
    left = await cancelled(texts, Path(folder))
    ended = time.monotonic() - left
    while living(Path(folder)) and time.monotonic() < left + LINGER:
        await asyncio.sleep(0.001)
    return {"ms": ended * 1000, "gone_ms": (time.monotonic() - left) * 1000}


async def outcome(texts, seconds: float | None = None) -> dict:
    said = []
    try:
        async with asyncio.timeout(seconds), aclosing(texts):
            async for text in texts:
                said.append(text)  # noqa: PERF401 - kept when it raises
    except BaseException as error:  # noqa: BLE001 - its class is the figure
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        return {"text": "".join(said), "error": type(error).__name__, "reason": str(error)[:300]}
    return {"text": "".join(said)}


async def evaluated(tasks, path: str) -> dict:
    began, spent = time.perf_counter(), time.process_time()
    await tasks.evaluate([f"row {number}" for number in range(1, ROWS + 1)], path)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - spent,
        "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


async def cancelled(texts, folder: Path | None = None) -> float:
    """Cancel a task that reads, once it has begun to, or its tool hangs; return when."""
    began = asyncio.Event()

    async def read() -> None:
        async with aclosing(texts):
            async for _ in texts:
                began.set()

    task = asyncio.create_task(read())
    if folder is None:
        await began.wait()
    else:
        while not (folder / "hanging").exists():
            await asyncio.sleep(0.01)
    at = time.monotonic()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    return at


async def lived_on(left: float) -> dict:
    await asyncio.sleep(LINGER)
    return {"left": left}


async def main(library: str, action: str, *arguments: str) -> None:
    start = time.process_time()
    kind, _, action = action.rpartition("-")
    tasks = importlib.import_module(f"{library}_{kind}")
    spent = time.process_time() - start
    addresses, rest = (arguments[:1], arguments[1:]) if kind else (arguments[:2], arguments[2:])
    tasks.setup(*addresses)
    do = act_mcp if kind else act
    result = {} if action == "import" else await do(tasks, action, [*rest])
    print("RESULT", json.dumps(result | {"import": spent}), flush=True)
    await tasks.close()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    sys.path[0] = str(HERE)
    asyncio.run(main(*sys.argv[1:]))
