"""A race: the first output wins, and the loser's connection is closed before you see it."""

from __future__ import annotations

import asyncio

from stand_ins import stand_in

from aiollm import Registry
from aiollm.testing import NEVER


async def main() -> None:
    async with Registry() as reg:
        stand_in(reg, m5=[[NEVER]], m1=["Hello!"])
        # The second target starts 0.2 s after the first. By default the registry learns the delay.
        response = await reg.generate("m5/qwen3:30b|m1/qwen3:30b", "Hello!", stagger=0.2)
        print(response.text)
        for attempt in response.attempts:
            print(f"{attempt.target}: {attempt.outcome}")


if __name__ == "__main__":
    asyncio.run(main())
