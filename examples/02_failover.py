"""A chain: the next target answers when one fails, even in the middle of its answer."""

from __future__ import annotations

import asyncio

from stand_ins import stand_in

from aiollm import FailoverError, Registry, Restart, StreamInterrupted

CHAIN = "m5/qwen3:30b,m1/qwen3:30b"


async def main() -> None:
    async with Registry(on_interrupt="restart") as reg:
        failure = StreamInterrupted("the server went away")
        stand_in(reg, m5=[["Once upon ", failure]], m1=["Once upon a time, all was well."])
        try:
            await answer(reg)
        except FailoverError as group:
            for error in group.exceptions:
                print(f"{type(error).__name__}: {error}")
        for health in reg.health():
            print(f"{health.target} is {health.state}")


async def answer(reg: Registry) -> None:
    async with reg.stream(CHAIN, "Tell me a story.") as stream:
        async for chunk in stream:
            if isinstance(chunk, Restart):  # everything shown so far is void
                print(f"\n-- {chunk.target} starts again: {chunk.reason}")
            print(chunk.text, end="", flush=True)
        print()
        for attempt in stream.attempts:
            print(f"{attempt.target}: {attempt.outcome}")


if __name__ == "__main__":
    asyncio.run(main())
