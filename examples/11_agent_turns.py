"""An agent whose tools show images to the model, and which continues after its turn limit."""

from __future__ import annotations

import asyncio
from pathlib import Path

from stand_ins import stand_in

from aiollm import ImagePart, Registry, Request, TurnLimitError, tool
from aiollm.testing import tool_call

FOLDER = Path("photos")


@tool
def photos() -> list[str]:
    """List the photos in the folder."""
    return sorted(path.name for path in FOLDER.glob("*.jp*g"))


@tool(timeout=10)
def look(name: str) -> list[str | ImagePart]:
    """Show one photo."""
    return [f"{name}:", ImagePart.from_path(FOLDER / Path(name).name)]


async def main() -> None:
    request = Request("Which photo would be the best title page, and why?")
    async with Registry() as reg:
        stand_in(reg, ls=[[tool_call("photos")], "None: the folder `photos` has none."])
        answer = ""
        while not answer:
            run = reg.run("ls/qwen3-vl:8b", request, tools=[photos, look], max_turns=5)
            try:
                answer = (await run.collect()).text
            except TurnLimitError as error:
                request = Request(error.messages)
                print(f"{run.usage.output_tokens} tokens so far, Ctrl-C to stop")
    print(answer)


if __name__ == "__main__":
    asyncio.run(main())
