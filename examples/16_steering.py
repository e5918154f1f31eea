"""An agent that listens while it works: each line that is typed goes to it with its next turn."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from contextlib import closing, suppress

from stand_ins import stand_in

from aiollm import AgentRun, ClosedError, Registry, Steered, ToolStarted, tool
from aiollm.testing import tool_call


@tool
async def measure(place: str) -> float:
    """Measure the temperature at a place, which takes a moment."""
    await asyncio.sleep(0.2)
    return 11.5 if place == "Oslo" else 21.5


async def listen(run: AgentRun) -> None:
    if stat.S_ISCHR(os.fstat(sys.stdin.fileno()).st_mode) and not sys.stdin.isatty():
        return  # nobody types into /dev/null, and a loop cannot wait for it
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    pipe, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with closing(pipe), suppress(ClosedError):  # the last answer has come
        while line := (await reader.readline()).decode().strip():
            run.steer(line)


async def main() -> None:
    async with Registry() as reg:
        both = [tool_call("measure", {"place": place}) for place in ("Oslo", "Granada")]
        stand_in(reg, m5=[both, "11.5 degrees in Oslo, 21.5 in Granada."])
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
