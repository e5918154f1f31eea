"""An agent: the model calls functions, concurrently, until it has its answer."""

from __future__ import annotations

import asyncio
from typing import Annotated

from msgspec import Meta
from stand_ins import stand_in

from aiollm import Registry, RunResult, ToolEnded, ToolStarted, tool
from aiollm.testing import tool_call


@tool
async def weather(city: Annotated[str, Meta(description="its English name")]) -> dict[str, float]:
    """Return the temperature in a city, in degrees Celsius."""
    await asyncio.sleep(0)  # your own request goes here
    return {"celsius": 21.5 if city == "Granada" else 11.0}


async def main() -> None:
    async with Registry() as reg:
        both = [tool_call("weather", {"city": city}) for city in ("Oslo", "Granada")]
        stand_in(reg, anthropic=[both, "Granada: it is warmer."])
        run = reg.run("anthropic/claude-sonnet-5-5", "Oslo or Granada?", tools=[weather])
        async with run:
            async for step in run:
                match step:
                    case ToolStarted(call=call):
                        print(f"-> {call.name}{call.arguments}")
                    case ToolEnded(result=result):
                        print(f"<- {result.text}")
                    case RunResult(usage=usage):
                        print(f"\n{run.turns} turns, {usage.output_tokens} tokens")
                    case _:
                        print(step.text, end="", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
