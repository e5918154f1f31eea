"""An agent that listens while it works: each line that is typed goes to it with its next turn."""

from __future__ import annotations

import asyncio
import sys

from aiollm import AgentRun, ClosedError, Registry, Steered, ToolStarted, tool


@tool
async def measure(place: str) -> float:
    """Measure the temperature at a place, which takes a moment."""
    await asyncio.sleep(0.2)
    return 11.5 if place == "Oslo" else 21.5


async def listen(run: AgentRun) -> None:
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := (await reader.readline()).decode().strip():
        try:
            run.steer(line)
        except ClosedError:
            return  # the last answer has come


async def main() -> None:
    async with Registry() as reg:
        run = reg.run("m5/qwen3:30b", "Measure everywhere.", tools=[measure], max_turns=50)
        listener = asyncio.create_task(listen(run))
        async with run:
            async for event in run:
                match event:
                    case ToolStarted(call=call):
                        print(f"-> {call.name}{call.arguments}", flush=True)
                    case Steered(message=message):
                        print(f"you: {message.text}", flush=True)
                    case _:
                        print(event.text, end="", flush=True)
        listener.cancel()
    print()


if __name__ == "__main__":
    asyncio.run(main())
