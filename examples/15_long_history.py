"""An agent that reads for hundreds of turns: its history is summarized before it is too long.

`python 15_long_history.py FOLDER` has it read the texts of a folder, by default aiollm's guides.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from stand_ins import reading, stand_in

from aiollm import Compacted, Message, Registry, Summarize, tool, user

SPEC = "m5/qwen3:30b"
BOOK = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs")
NAMES = sorted(path.name for path in BOOK.glob("*.md"))


@tool
def pages() -> list[str]:
    """List the pages of the book."""
    return NAMES


@tool
def read(page: str) -> str:
    """Read one page."""
    return (BOOK / Path(page).name).read_text(encoding="utf-8")


async def main() -> None:
    async with Registry() as reg:
        stand_in(reg, m5=[reading(NAMES, "Streams.")])

        async def summary(messages: Sequence[Message]) -> str:
            asked = [*messages, user("Summarize what you have read and noticed so far.")]
            answer = await reg.generate(SPEC, asked, tools=[pages, read], tool_choice="none")
            return answer.text

        run = reg.run(
            SPEC,
            "Read all pages, one by one. What are they about?",
            tools=[pages, read],
            compact=Summarize(6000, by=summary),
            max_turns=500,
        )
        async for event in run:
            match event:
                case Compacted(before=before, after=after):
                    print(f"[{len(before)} messages became {len(after)}]")
                case _:
                    print(event.text, end="", flush=True)
    print(f"\n{run.turns} turns, {len(run.messages)} messages at the end")


if __name__ == "__main__":
    asyncio.run(main())
